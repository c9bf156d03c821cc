"""Answers that others have published, in a folder or at an address (``--answers``)."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote, urlsplit

from recbole_llm.errors import UserError
from recbole_llm.experiments.run import Run
from recbole_llm.features.sources import AnswerSource, chosen_endpoint
from recbole_llm.llm.address import check_store_address, redact
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.store import INDEX, LARGEST_INDEX, AnswerStore, StoreFile
from recbole_llm.raw.download import download


class PublishedAnswers:
    """The answers of a store, downloaded prompt by prompt when a feature first needs them.

    Args:
        address: as :func:`open_store` takes it; opened on first use.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._scratch = tempfile.TemporaryDirectory(prefix="recbole-llm-answers-")  # removed with this object
        self._store: AnswerStore | None = None
        self._lent = ResponseCache(Path(self._scratch.name) / "lent.sqlite")
        self._brought: set[tuple[str, str]] = set()

    def lender(self, model: str, prompts: Collection[str]) -> ResponseCache:
        """The answers of a model to some prompts (``id@version``), and to those asked for before.

        Raises:
            UserError: the store cannot be reached, or a file is not what its index says.
        """
        missing = [prompt for prompt in prompts if (model, prompt) not in self._brought]
        if missing:
            self._opened().take(self._lent, model, missing)
            self._brought.update((model, prompt) for prompt in missing)
        return self._lent

    def tables(self, dataset: str) -> list[str]:
        """Names of the tables of candidates of a dataset, which answers of the store are about."""
        return [entry.name for entry in self._opened().index.tables if entry.dataset == dataset]

    def _opened(self) -> AnswerStore:
        if self._store is None:
            self._store = open_store(self.address, Path(self._scratch.name))
        return self._store


def lend(asking: AnswerSource, run: Run) -> None:
    """Let a command take answers from the store that a run names; the first store serves the whole command.

    Raises:
        UserError: the run would ask about other candidates than those of the store.
    """
    address = run.settings.get("answers")
    if address and asking.published is None:
        asking.published = PublishedAnswers(str(address))
    if address and isinstance(asking.published, PublishedAnswers):
        _check_table(asking.published, run)


def _check_table(published: PublishedAnswers, run: Run) -> None:
    """Refuse questions about candidates of a model trained here, before it is trained, where no server answers them.

    Raises:
        UserError: the answers are about tables of candidates in their store, and the run names none.
    """
    if not run.settings.method.stage_one or run.settings.get("candidate_table"):
        return
    endpoint = chosen_endpoint(run.settings, asks=False)
    if endpoint is None or not endpoint.published or not (names := published.tables(run.location.name)):
        return
    raise UserError(
        f"{redact(published.address)}: the answers for {run.settings.method.name} are about the candidates of "
        f"{' or '.join(names)} there, each for one protocol and one length of histories: give one with "
        "--candidate_table, or take it in with recbole-llm answers pull."
    )


HUB = "hf:"
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?", re.ASCII)


def _on_the_hub(address: str) -> str:
    """The static address of a dataset's files on the hub, as huggingface_hub builds it.

    Raises:
        UserError: the address names no dataset, or ``HF_ENDPOINT`` is no http address.
    """
    found = _HUB_NAME.fullmatch(address.removeprefix(HUB))
    if found is None or ".." in address:
        raise UserError(f"{address}: name a dataset of the hub as hf:OWNER/NAME or hf:OWNER/NAME@REVISION.")
    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    if urlsplit(hub).scheme not in ("http", "https"):
        raise UserError(f"HF_ENDPOINT={redact(hub)}: give an http or https address.")
    return f"{hub}/datasets/{found[1]}/resolve/{found[2] or 'main'}"


def open_store(address: str, scratch: Path) -> AnswerStore:
    """A store by its address; files of a remote one are downloaded to ``scratch`` when they are needed.

    Args:
        address: a folder, ``file:``, ``http:`` or ``https:``, or ``hf:OWNER/NAME``, a dataset of the Hugging Face Hub
            (``hf:OWNER/NAME@REVISION``; ``HF_ENDPOINT`` names another hub).
        scratch: folder for downloads.

    Raises:
        UserError: there is no store, or it cannot be reached.
    """
    place = _place_of(address)
    if isinstance(place, Path):
        return AnswerStore.in_folder(place)
    base, shown = place.rstrip("/"), redact(place).rstrip("/")

    def fetch(entry: StoreFile) -> Path:
        return download(f"{base}/{entry.name}", scratch / entry.name, entry.sha256, largest=entry.bytes)

    return AnswerStore.opened(shown, download(f"{base}/{INDEX}", scratch / INDEX, largest=LARGEST_INDEX), fetch)


def check_store(address: str) -> None:
    """Check what can be known of a store before it is needed: the form of its address, and a folder's index.

    Raises:
        UserError: the address is none of a store, or the folder holds none.
    """
    place = _place_of(address)
    if isinstance(place, Path):
        AnswerStore.in_folder(place)


def _place_of(address: str) -> str | Path:
    """The http or https address, or the folder, that an address of a store stands for.

    Raises:
        UserError: it is none of a store.
    """
    check_store_address(address)
    address = _on_the_hub(address) if address.startswith(HUB) else address
    parts = urlsplit(address)
    if parts.scheme in ("http", "https"):
        return address
    if "://" in address and parts.scheme != "file":
        raise UserError(f"{redact(address)}: a store is a folder, an http, https or file address, or hf:OWNER/NAME.")
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(address)
