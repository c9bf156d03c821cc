"""Models by their name on the Hugging Face hub: from the local cache, else downloaded, since asked for by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")
PATIENCE = 5.0  # seconds for one check whether the hub can be reached


def load_by_name(name: str, load: Callable[[bool], Loaded]) -> Loaded:
    """What ``load(local_files_only)`` gives: from the cache alone or, if something is missing there, from the hub.

    Without a network the libraries would try file after file for half a minute; one check avoids that.

    Args:
        name: name of the model on the hub.
        load: loads the model, only from the cache if its argument is true.

    Raises:
        OSError: the model is not in the cache and the hub cannot be reached, or must not be (``HF_HUB_OFFLINE``).
        Exception: what ``load`` raises.
    """
    from huggingface_hub import constants

    try:
        return load(True)
    except Exception as error:  # readers of foreign files raise anything; the hub may have what is missing
        if constants.HF_HUB_OFFLINE:
            raise
        _look(constants.ENDPOINT, error)
    logger.info("downloading %s from %s", name, constants.ENDPOINT)
    return load(False)


def _look(address: str, missing: Exception) -> None:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(address, timeout=PATIENCE)
    except Exception as error:  # its class depends on the version's HTTP library
        raise OSError(
            f"it is not in this machine's cache, and {address} cannot be reached: {type(error).__name__}"
        ) from missing
