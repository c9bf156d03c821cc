"""Models by a name of the Hugging Face hub: from this machine's cache, else downloaded, since asked for by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")
PATIENCE = 5.0  # seconds for one check whether the hub is there


def load_by_name(name: str, load: Callable[[bool], Loaded]) -> Loaded:
    """What ``load(local_files_only)`` gives: from the cache alone, then, where that has not all of it, from the hub.

    Without a network the libraries would try for half a minute, file after file; one check tells.

    Args:
        name: of the hub.
        load: loads the model, from the cache alone where its argument is true.

    Raises:
        OSError: the model is not in the cache and the hub cannot be reached, or must not be (``HF_HUB_OFFLINE``).
        Exception: what ``load`` raises.
    """
    from huggingface_hub import constants

    try:
        return load(True)
    except Exception as error:  # whatever readers of foreign files raise; the hub may have what is missing
        if constants.HF_HUB_OFFLINE:
            raise
        _look(constants.ENDPOINT, error)
    logger.info("downloading %s from %s", name, constants.ENDPOINT)
    return load(False)


def _look(address: str, missing: Exception) -> None:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(address, timeout=PATIENCE)
    except Exception as error:  # of one HTTP library or another, by the version
        raise OSError(
            f"it is not in this machine's cache, and {address} cannot be reached: {type(error).__name__}"
        ) from missing
