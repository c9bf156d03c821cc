"""Endpoints: their files, prices and cache keys."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_llm.errors import UserError
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer, ChatRequest
from recbole_llm.llm.client import Client
from recbole_llm.llm.endpoint import OFFLINE, Endpoint, load_endpoint
from recbole_llm.utils.yaml import properties_folder, property_names
from tests.llm.chat import asking, question


@pytest.mark.parametrize("name", property_names("llm"))
def test_every_file_makes_an_endpoint(name: str) -> None:
    mine = {"llm_base_url": "https://mine.openai.azure.com/openai/v1", "llm_model": "mine"}
    endpoint = load_endpoint(name, mine if name == "azure" else None)
    assert endpoint.name == name
    assert endpoint.base_url.startswith("http") or endpoint.published


def test_a_source_of_published_answers_has_no_server(tmp_path: Path) -> None:
    endpoint = load_endpoint("claude-2026-11")
    assert (endpoint.base_url, endpoint.paid, endpoint.has_key) == ("", False, False)
    with pytest.raises(UserError, match="leave --llm_base_url out"):
        load_endpoint("claude-2026-11", {"llm_base_url": "http://127.0.0.1:9/v1"})
    with (
        ResponseCache(tmp_path / "responses.sqlite") as cache,
        pytest.raises(UserError, match=r"the answers of claude-2026-11 are published ones.*recbole-llm answers pull"),
    ):
        Client(endpoint, cache).run([asking("hello")])


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
    assert said.startswith("--llm_model=dear-1: prices and --max_cost count with those of gpt-5-mini (openai.yaml)")


def test_a_file_that_names_no_model_has_no_prices_of_another(caplog: pytest.LogCaptureFixture) -> None:
    load_endpoint("azure", {"llm_model": "mine", "llm_base_url": "https://mine.openai.azure.com/openai/v1"})
    assert caplog.messages == []


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


def test_a_bill_with_cached_prefixes_and_reasoning_is_counted_to_the_cent() -> None:
    """A month as OpenAI itemises it: input, cached input, output (including reasoning), and a batch at half price."""
    endpoint = load_endpoint("openai")
    answers = [
        ChatAnswer("x", "stop", 12_400_000, 3_100_000, cached=9_600_000, reasoning=2_250_000),
        ChatAnswer("x", "stop", 2_000_000, 400_000, via="batch"),
    ]
    lines = {"input": 2_800_000 * 0.25, "cached": 9_600_000 * 0.025, "output": 3_100_000 * 2.00}
    batch = 0.5 * (2_000_000 * 0.25 + 400_000 * 2.00)
    assert sum(map(endpoint.price_of, answers)) == pytest.approx((sum(lines.values()) + batch) / 1e6)
    assert f"{sum(map(endpoint.price_of, answers)):.2f}" == "7.79"


def test_writing_to_a_cache_of_prefixes_has_a_price_of_its_own() -> None:
    endpoint = Endpoint("e", "http://x", "m", price_in=1.0, price_out=5.0, price_cached=0.1, price_written=1.25)
    answer = ChatAnswer("x", "stop", 1_000_000, 0, cached=600_000, written=300_000)
    assert endpoint.price_of(answer) == pytest.approx(0.1 + 0.06 + 0.375)
    plain = Endpoint("e", "http://x", "m", price_in=1.0, price_out=5.0)
    assert plain.price_of(answer) == 1.0


@pytest.mark.parametrize("name", property_names("llm"))
def test_every_file_states_a_price_or_that_it_states_none(name: str) -> None:
    mine = {"llm_base_url": "https://mine.openai.azure.com/openai/v1", "llm_model": "mine"}
    endpoint = load_endpoint(name, mine if name == "azure" else None)
    if endpoint.priced:
        assert bool(endpoint.key_env) == endpoint.paid
        return
    assert "price not stated" in (properties_folder() / "llm" / f"{name}.yaml").read_text()
    with pytest.raises(UserError, match=r"states no price for .*--llm_price_in=.* --llm_price_out="):
        endpoint.check_price()
    given = load_endpoint(name, {**mine, "llm_price_in": 1.0, "llm_price_out": 2.0})
    given.check_price()
    assert given.price(1_000_000, 1_000_000) == 3.0


# ---- what an answer depends on ------------------------------------------------------------------


def key_of(name: str = "vllm", **changes: Any) -> str:
    return load_endpoint(name, {f"llm_{key}": value for key, value in changes.items()}).addressed(question("hello")).key


def test_the_key_has_whatever_the_answer_depends_on() -> None:
    changed = [
        {},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
        {"temperature": 0.5},
        {"max_tokens": 99},
        {"extra": {"top_p": 0.9}},
        {"extra": {"top_p": 0.8}},
        {"model": "other"},
        {"base_url": "http://127.0.0.1:8001/v1"},
        {"base_url": "https://llm.example.org/v1"},
    ]
    assert len({key_of(**changes) for changes in changed}) == len(changed)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/v1/",
        "http://me:secret@127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/v1?key=abc",
    ],
)
def test_the_address_of_the_file_in_other_words_is_no_other_server(address: str) -> None:
    assert key_of(base_url=address) == key_of()


def test_prices_concurrency_and_names_of_files_are_not_in_the_key() -> None:
    assert key_of(price_in=3.0, price_out=4.0, concurrency=2) == key_of()


def test_where_nothing_of_this_is_set_the_key_is_that_of_older_answers() -> None:
    """The key must stay as it was when the answers published with this repository were made."""
    old = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.0, "max_tokens": 50}
    text = json.dumps({**old, "schema": None, "prompt": "test@1"}, sort_keys=True, ensure_ascii=False)
    assert key_of(model="m") == hashlib.sha256(text.encode()).hexdigest()


# ---- a file of one's own ------------------------------------------------------------------------


def own_file(path: Path, base_url: str = "http://10.0.0.7:8000/v1", model: str = "mine") -> str:
    path.write_text(f"base_url: {base_url}\nmodel: {model}\nknowledge_cut: 2024-06-30\n")
    return str(path)


def test_a_file_of_ones_own_is_a_source(tmp_path: Path) -> None:
    endpoint = load_endpoint(own_file(tmp_path / "lab.yaml"))
    assert (endpoint.name, endpoint.model, endpoint.knowledge_cut) == ("lab", "mine", date(2024, 6, 30))
    with pytest.raises(UserError, match=r"--llm=.*none\.yaml: there is no such file"):
        load_endpoint(str(tmp_path / "none.yaml"))


def test_two_files_of_one_name_are_two_servers(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    own = own_file(tmp_path / "lab.yaml")
    other = own_file(tmp_path / "other" / "lab.yaml", "http://10.0.0.8:8000/v1")
    assert key_of(own) != key_of(other)


def test_a_copy_of_a_shipped_file_finds_the_answers_that_were_paid_for(tmp_path: Path) -> None:
    copy = tmp_path / "ours.yaml"
    copy.write_text((properties_folder() / "llm" / "openai.yaml").read_text().replace("0.25", "0.20"))
    assert key_of(str(copy)) == key_of("openai")


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm_concurrency": "many"}, r"vllm\.yaml, concurrency: .*integer.*, got 'many'"),
        ({"llm_concurrency": 0}, r"vllm\.yaml, concurrency: .*greater than or equal to 1, got 0"),
        ({"llm_timeout": -1}, r"vllm\.yaml, timeout: .*greater than 0, got -1"),
        ({"llm_price_in": -0.5}, r"vllm\.yaml, price_in: .*greater than or equal to 0, got -0\.5"),
        ({"llm_price_cached": float("nan")}, r"vllm\.yaml, price_cached: .*, got nan"),
        ({"llm_temperature": "hot"}, r"temperature: .*, got 'hot'"),
        ({"llm_response_format": "yaml"}, r"response_format: .*'json_schema'.*, got 'yaml'"),
        ({"llm_extra": {"when": date(2026, 1, 1)}}, r"vllm\.yaml, extra: what goes into a request is plain JSON"),
    ],
)
def test_a_value_that_is_none_is_named_with_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_endpoint("vllm", changes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("base_url: 8000", "the address 8000 does not begin with http://"),
        ("base_url: [http://localhost/v1]", "does not begin with http://"),
        ("key_env: sk-proj-0123456789", "not the key"),
        ("extra: {model: other}", "extra: leave model out"),
        ("extra: {stream: true, messages: []}", "extra: leave messages, stream out"),
    ],
)
def test_a_file_with_a_value_that_cannot_work_is_refused(tmp_path: Path, line: str, message: str) -> None:
    base = {"base_url": "http://localhost/v1", "model": "m"} | yaml.safe_load(line)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(base))
    with pytest.raises(UserError) as caught:
        load_endpoint(str(path))
    assert message in str(caught.value)
    assert "0123456789" not in str(caught.value)


def test_no_server_s_model_has_the_name_of_published_answers(tmp_path: Path) -> None:
    """Otherwise a file without a temperature gets the published answers' keys and reads them as its own server's."""
    file = tmp_path / "mine.yaml"
    file.write_text("base_url: http://127.0.0.1:8000/v1\nmodel: claude-2026-11\ntemperature: ~\n", encoding="utf-8")
    for source, changes in ((str(file), {}), ("vllm", {"llm_model": "claude-2026-11"})):
        with pytest.raises(UserError, match=r"claude-2026-11 is the name of published answers.*--llm=claude-2026-11"):
            load_endpoint(source, changes)


def test_an_answer_has_one_key_in_whatever_format_it_is_asked_for() -> None:
    request = ChatRequest("p@1", ({"role": "user", "content": "?"},), {"type": "object"}, 10)
    formats = ("json_schema", "json_object", "none")
    found = [load_endpoint("vllm", {"llm_response_format": each}).addressed(request) for each in formats]
    assert len({each.key for each in found}) == 1


def test_an_effort_that_would_be_passed_over_is_refused() -> None:
    with pytest.raises(UserError, match="--llm=anthropic takes no reasoning effort"):
        load_endpoint("anthropic", {"llm_reasoning_effort": "high"})
    with pytest.raises(UserError, match=r"--llm=groq takes low, medium, high\. Did you mean medium"):
        load_endpoint("groq", {"llm_reasoning_effort": "medum"})
    assert load_endpoint("vllm", {"llm_reasoning_effort": "whatever"}).reasoning_effort == "whatever"


def test_azure_wants_the_address_of_a_resource_and_a_deployment() -> None:
    with pytest.raises(UserError, match="give --llm_base_url="):
        load_endpoint("azure")


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


@pytest.mark.parametrize("place", ["http://HOST:PORT/v1", "http://[HOST]/v1", "https://<address>/v1"])
def test_a_file_may_hold_a_place_for_its_address(tmp_path: Path, place: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"base_url: {place}\nmodel: m\nknowledge_cut: 2024-05-31\n", encoding="utf-8")
    endpoint = load_endpoint(str(file), {"llm_base_url": "http://127.0.0.1:9/v1"})
    assert endpoint.url == "http://127.0.0.1:9/v1/chat/completions"
    assert endpoint.knowledge_cut is None


def test_a_knowledge_cut_is_that_of_the_model_at_its_own_address() -> None:
    assert load_endpoint("openai").knowledge_cut == date(2024, 5, 31)
    assert load_endpoint("openai", {"llm_model": "another"}).knowledge_cut is None
    assert load_endpoint("openai", {"llm_base_url": "http://127.0.0.1:9/v1"}).knowledge_cut is None
    given = {"llm_model": "another", "llm_knowledge_cut": "2025-01-31"}
    assert load_endpoint("openai", given).knowledge_cut == date(2025, 1, 31)
    assert load_endpoint("vllm").knowledge_cut is None


def test_a_knowledge_cut_that_is_no_day_is_refused() -> None:
    with pytest.raises(UserError, match=r"--llm_knowledge_cut=sometime: give a day such as 2024-06-30"):
        load_endpoint("vllm", {"llm_knowledge_cut": "sometime"})
