"""Endpoints as their files describe them."""

from __future__ import annotations

import pytest

from recbole_llm.errors import UserError
from recbole_llm.llm.endpoint import OFFLINE, Endpoint, load_endpoint, redact
from recbole_llm.utils.yaml import property_names


@pytest.mark.parametrize("name", property_names("llm"))
def test_every_file_makes_an_endpoint(name: str) -> None:
    endpoint = load_endpoint(name)
    assert endpoint.name == name
    assert endpoint.base_url.startswith("http")


def test_settings_of_the_run_win_over_the_file() -> None:
    changes = {"llm_model": "mine", "llm_base_url": "http://127.0.0.1:9/v1", "llm_concurrency": None}
    endpoint = load_endpoint("openai", changes)
    assert (endpoint.model, endpoint.base_url) == ("mine", "http://127.0.0.1:9/v1")
    assert endpoint.concurrency == load_endpoint("openai").concurrency


def test_another_model_at_the_prices_of_the_file_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for model in ("dear-1", "dear-1", None):
        load_endpoint("openai", {"llm_model": model})
    load_endpoint("vllm", {"llm_model": "free"})
    (said,) = caplog.messages
    assert said.startswith("--llm_model=dear-1: prices and --max_cost count with those of gpt-4o-mini (openai.yaml)")


def test_an_unknown_source_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=rf"--llm=opnai: .*Did you mean openai\?.*Known: {OFFLINE}, "):
        load_endpoint("opnai")


def test_a_field_that_endpoints_lack_is_an_error() -> None:
    with pytest.raises(UserError, match=r"no field 'modle'.*Did you mean model\?"):
        load_endpoint("openai", {"llm_modle": "x"})


def test_prices_are_for_a_million_tokens() -> None:
    endpoint = Endpoint("e", "http://x", "m", price_in=2.0, price_out=8.0)
    assert endpoint.price(500_000, 250_000) == 3.0
    assert endpoint.paid
    assert not Endpoint("e", "http://x", "m").paid


def test_the_key_is_read_from_the_environment_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint("e", "http://x", "m", key_env="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", " secret-value \n")
    assert endpoint.key() == "secret-value"
    assert "secret" not in repr(endpoint)


def test_an_empty_key_is_a_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", " ")
    with pytest.raises(UserError, match="set the environment variable SOME_KEY"):
        Endpoint("e", "http://x", "m", key_env="SOME_KEY").key()


def test_servers_without_a_key_need_none() -> None:
    assert Endpoint("e", "http://x", "m").key() == "none"


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcdef0123456789.",
        "Authorization: Bearer abcdef0123456789",
        "key abcdef0123456789 is not valid",
    ],
)
def test_what_looks_like_a_key_is_blotted_out(text: str) -> None:
    assert "abcdef0123456789" not in redact(text, "abcdef0123456789")


def test_a_password_in_an_address_is_blotted_out() -> None:
    assert redact("--storage=postgresql://me:sec@ret@host/x --quiet") == "--storage=postgresql://***@host/x --quiet"
    assert Endpoint("e", "https://me:secret@host:8000/v1", "m").address == "https://***@host:8000/v1"
    assert Endpoint("e", "http://host/v1", "m").address == "http://host/v1"


def test_a_query_in_an_address_is_blotted_out() -> None:
    assert Endpoint("e", "https://host/v1?key=abcdef0123&v=2", "m").address == "https://host/v1?***"
    assert redact("suite 'https://host/v1?key=abcdef0123' --quiet?") == "suite 'https://host/v1?***' --quiet?"


def test_other_text_is_left_as_it_is() -> None:
    assert redact("no model m", "abcdef0123456789") == "no model m"
