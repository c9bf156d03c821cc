"""Hub names: the local cache first, then a single check whether the hub is reachable."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from recbole_llm.errors import UserError
from recbole_llm.features.encoder import Encoder
from recbole_llm.lm.hub import load_by_name
from recbole_llm.lm.load import CAUSAL, load_language_model
from tests.file_server import FileServer


class Loader:
    """Finds a model if it is in the cache or may be downloaded, and records each call's ``local_files_only``."""

    def __init__(self, cached: bool) -> None:
        self.cached, self.asked = cached, list[bool]()

    def __call__(self, local_files_only: bool) -> str:
        self.asked.append(local_files_only)
        if local_files_only and not self.cached:
            raise OSError("not in the cache")
        return "model"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub that does not answer."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield address


def test_what_is_in_the_cache_needs_no_hub(nobody: str) -> None:
    load = Loader(cached=True)
    assert load_by_name("some/model", load) == "model"
    assert load.asked == [True]


def test_what_is_not_is_downloaded_where_the_hub_answers(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Loader(cached=False)
    with FileServer({}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url("").rstrip("/"))
        assert load_by_name("some/model", load) == "model"
    assert load.asked == [True, False]


def test_without_a_network_nothing_is_tried_after_one_look(nobody: str) -> None:
    load = Loader(cached=False)
    with pytest.raises(OSError, match=f"not in this machine's cache, and {nobody} cannot be reached: Connect"):
        load_by_name("some/model", load)
    assert load.asked == [True]


def test_offline_by_the_hubs_own_switch_no_look_is_taken(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"^not in the cache$"):
        load_by_name("some/model", Loader(cached=False))


def test_the_message_names_the_setting(nobody: str) -> None:
    with pytest.raises(UserError, match=f"--lm=no/model cannot be loaded .*{nobody} cannot be reached.*Use scratch"):
        load_language_model("no/model", CAUSAL, [], {})
    with pytest.raises(UserError, match=f"--encoder=no/model cannot be loaded .*{nobody} cannot be reached"):
        Encoder("no/model").load("cpu")
