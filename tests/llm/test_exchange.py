"""Export and import of answers as JSON lines, including damaged and foreign files."""

from __future__ import annotations

import gzip
import json
import lzma
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.features.prompts import load_prompt
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer
from recbole_llm.llm.exchange import export_answers, import_answers, take_answers, write_batch_file
from tests.llm.batch_stub import output_line
from tests.llm.chat import asked, endpoint_at

ENDPOINT = endpoint_at("http://127.0.0.1:1/v1", batch_price=0.5)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    with ResponseCache(tmp_path / "own.sqlite") as opened:
        for number in range(3):
            opened.put(asked(f"question {number} café"), ChatAnswer(f"answer {number}", "stop", 5, 2))
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ResponseCache]:
    with ResponseCache(tmp_path / "other.sqlite") as opened:
        yield opened


def changed(path: Path, **changes: Any) -> None:
    """Change the first line of an export; double underscores in a name lead into nested objects."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for name, value in changes.items():
        inner = lines[0]
        *way, last = name.split("__")
        for step in way:
            inner = inner[step]
        inner[last] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_what_goes_out_comes_in_as_it_was(
    tmp_path: Path, cache: ResponseCache, other: ResponseCache, name: str
) -> None:
    assert export_answers(cache, tmp_path / name) == 3
    report = import_answers(other, tmp_path / name)
    assert (report.new, report.known, dict(report.refused)) == (3, 0, {})
    assert [(row["key"], row["request"], row["answer"]) for row in other.rows()] == [
        (row["key"], row["request"], row["answer"]) for row in cache.rows()
    ]
    assert import_answers(other, tmp_path / name).known == 3


@pytest.mark.parametrize("created", ["yesterday", None, 5, "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"])
def test_a_time_that_cannot_be_read_is_that_of_the_import(
    tmp_path: Path, cache: ResponseCache, other: ResponseCache, created: Any
) -> None:
    export_answers(cache, tmp_path / "a.jsonl")
    changed(tmp_path / "a.jsonl", created=created)
    first = time.time()
    assert import_answers(other, tmp_path / "a.jsonl").new == 3
    arrived = max(datetime.fromisoformat(row["created"]).timestamp() for row in other.rows())
    assert first - 1 <= arrived <= time.time() + 1


def test_an_answer_keeps_the_time_at_which_it_arrived(
    tmp_path: Path, cache: ResponseCache, other: ResponseCache
) -> None:
    export_answers(cache, tmp_path / "a.jsonl")
    changed(tmp_path / "a.jsonl", created="2025-01-02T03:04:05+00:00")
    first, *rest = (json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines())
    import_answers(other, tmp_path / "a.jsonl")
    assert {row["key"]: row["created"] for row in other.rows()} == {
        row["key"]: row["created"] for row in (first, *rest)
    }


def test_answers_that_are_known_are_neither_new_nor_paid_for_again(
    tmp_path: Path, cache: ResponseCache, other: ResponseCache
) -> None:
    """Each of the three answers has five tokens for the question and two for the answer."""
    endpoint = endpoint_at("http://127.0.0.1:1/v1", price_in=1.0, price_out=10.0)
    export_answers(cache, tmp_path / "a")
    first, again = (take_answers(other, tmp_path / "a", endpoint) for _ in range(2))
    assert (first.new, first.known, first.price) == (3, 0, pytest.approx(75 / 1e6))
    assert (again.new, again.known, again.price) == (0, 3, 0.0)


def test_another_answer_to_a_known_question_is_counted_and_not_taken(
    tmp_path: Path, cache: ResponseCache, other: ResponseCache
) -> None:
    export_answers(cache, tmp_path / "a")
    import_answers(other, tmp_path / "a")
    before = list(other.rows())
    changed(tmp_path / "a", answer__content="different", answer__tokens_out=3)
    report = import_answers(other, tmp_path / "a")
    assert str(report) == "0 answers imported, 3 known before (1 of them with another text, which is not taken)"
    assert list(other.rows()) == before


def test_the_same_answers_give_the_same_bytes(tmp_path: Path, cache: ResponseCache) -> None:
    for name in ("a.gz", "b.gz"):
        export_answers(cache, tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()).count(b"\n") == 3


def test_an_export_may_be_of_one_model_and_some_prompts(tmp_path: Path, cache: ResponseCache) -> None:
    assert export_answers(cache, tmp_path / "a", model="other") == 0
    assert export_answers(cache, tmp_path / "a", model="m", prompts=["test@1"]) == 3
    assert export_answers(cache, tmp_path / "a", prompts=["test@2"]) == 0


def test_an_export_of_nothing_leaves_an_older_file(tmp_path: Path, cache: ResponseCache) -> None:
    export_answers(cache, tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    assert export_answers(cache, tmp_path / "a", model="other") == 0
    assert (tmp_path / "a").read_bytes() == before
    assert export_answers(cache, tmp_path / "b", model="other") == 0
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"key": "0" * 64}, "the key is not that of the request"),
        ({"request__model": "better"}, "the key is not that of the request"),
        ({"request__messages": [{"role": "user", "content": "other"}]}, "the key is not that of the request"),
        ({"request__messages": "hello"}, "not an answer"),
        ({"request__extra": 1}, "not an answer"),
        ({"answer__content": None}, "not an answer"),
        ({"answer__tokens_in": -5}, "not an answer"),
        ({"answer__tokens_out": 2**60}, "not an answer"),
        ({"answer": []}, "not an answer"),
    ],
)
def test_a_line_that_was_changed_is_refused_and_counted(
    tmp_path: Path, cache: ResponseCache, other: ResponseCache, change: dict[str, Any], reason: str
) -> None:
    export_answers(cache, tmp_path / "a")
    changed(tmp_path / "a", **change)
    report = import_answers(other, tmp_path / "a")
    assert (report.new, dict(report.refused)) == (2, {reason: 1})
    assert len(other) == 2


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "\ud800"},
        {"key": "\ud800", "request": {}, "answer": {}},
        {
            "key": "0" * 64,
            "request": {**asked("a").body(), "schema": {"title": "\ud800"}},
            "answer": ChatAnswer("a", "stop", 1, 1).stored(),
        },
    ],
)
def test_half_a_character_in_a_line_is_no_answer(
    tmp_path: Path, cache: ResponseCache, other: ResponseCache, line: dict[str, Any]
) -> None:
    export_answers(cache, tmp_path / "a")
    with (tmp_path / "a").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    report = import_answers(other, tmp_path / "a")
    assert (report.new, dict(report.refused)) == (3, {"not an answer": 1})


@given(
    lines=st.lists(st.text(max_size=60) | st.recursive(st.none() | st.text(), st.lists, max_leaves=5).map(json.dumps))
)
def test_whatever_a_file_holds_is_refused_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("import")
    (folder / "a").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    with ResponseCache(folder / "c.sqlite") as cache, pytest.raises(UserError, match="holds no answers"):
        import_answers(cache, folder / "a")


def test_a_damaged_gzip_file_is_named(tmp_path: Path, cache: ResponseCache, other: ResponseCache) -> None:
    path = tmp_path / "a.gz"
    export_answers(cache, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.gz cannot be read"):
        import_answers(other, path)


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_files_that_were_joined_come_in_whole(
    tmp_path: Path, cache: ResponseCache, other: ResponseCache, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    export_answers(cache, tmp_path / "a")
    parts = [pack(line) for line in (tmp_path / "a").read_bytes().splitlines(keepends=True)]
    (tmp_path / f"a.{suffix}").write_bytes(bytes(4).join(parts) + bytes(8))  # padded to whole blocks
    assert import_answers(other, tmp_path / f"a.{suffix}").new == 3


def test_an_xz_file_with_something_else_behind_it_is_named(
    tmp_path: Path, cache: ResponseCache, other: ResponseCache
) -> None:
    path = tmp_path / "a.xz"
    export_answers(cache, path)
    path.write_bytes(path.read_bytes() + b"and so on")
    with pytest.raises(UserError, match=r"a\.xz cannot be read"):
        import_answers(other, path)


# ---- the Batch API's output ---------------------------------------------------------------------


def batch(cache: ResponseCache, path: Path, *texts: str) -> list[dict[str, Any]]:
    """Write questions to a batch file and return its lines."""
    write_batch_file(cache, ENDPOINT, [asked(text) for text in texts], path)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_output_of_a_batch_is_taken_in_for_the_requests_of_the_batch(tmp_path: Path, other: ResponseCache) -> None:
    lines = batch(other, tmp_path / "in", "a", "b")
    assert [line["body"]["messages"][0]["content"] for line in lines] == ["a", "b"]
    output = "".join(json.dumps(output_line(line, "fine")) + "\n" for line in lines)
    (tmp_path / "out").write_text(output)
    assert import_answers(other, tmp_path / "out").new == 2
    found = other.get(lines[0]["custom_id"])
    assert found == ChatAnswer("fine", "stop", 100, 10, via="batch")


def test_lines_of_a_batch_that_failed_or_were_not_asked_for_are_refused(tmp_path: Path, other: ResponseCache) -> None:
    lines = batch(other, tmp_path / "in", "a", "b", "c")
    good, failed, spoilt = (output_line(line, "fine") for line in lines)
    failed["response"]["status_code"] = 429
    spoilt["response"]["body"] = {"choices": "none"}
    foreign = output_line({"custom_id": "0" * 64}, "fine")
    (tmp_path / "out").write_text("".join(json.dumps(line) + "\n" for line in (good, failed, spoilt, foreign)))
    report = import_answers(other, tmp_path / "out")
    assert report.new == 1
    assert report.refused == {"the request failed": 1, "no chat completion": 1, "not asked for from here": 1}


def test_lines_cost_what_their_answers_cost_and_unreadable_ones_too(tmp_path: Path, other: ResponseCache) -> None:
    read, spoilt = (output_line(line, "fine") for line in batch(other, tmp_path / "in", "a", "b"))
    usage = {"prompt_tokens": 10_000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 9_000}}
    read["response"]["body"]["usage"] = usage
    spoilt["response"]["body"] |= {"choices": [], "usage": {"prompt_tokens": 10_000, "completion_tokens": 50_000}}
    (tmp_path / "out").write_text(json.dumps(read) + "\n" + json.dumps(spoilt))
    prices = {"price_in": 1.0, "price_out": 5.0, "price_cached": 0.1, "batch_price": 0.5}
    endpoint = endpoint_at("http://127.0.0.1:1/v1", **prices)
    report = take_answers(other, tmp_path / "out", endpoint)
    assert (report.new, report.spoilt) == (1, 1)
    assert report.price == pytest.approx(0.5 * (1_000 + 900 + 50 + 10_000 + 250_000) / 1e6)
    assert str(report).endswith("1 refused (no chat completion), 1 of them billed all the same")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ({"response": {"status_code": 400, "body": {"error": {"message": "no such model"}}}}, "no such model"),
        ({"response": None, "error": {"code": "batch_expired", "message": "it ran out of time"}}, "it ran out of time"),
    ],
)
def test_the_words_of_the_first_failure_are_kept(
    tmp_path: Path, other: ResponseCache, failure: dict[str, Any], words: str
) -> None:
    first, second = batch(other, tmp_path / "in", "a", "b")
    later = {"response": {"status_code": 500, "body": {"error": {"message": "another"}}}}
    lines = [{"custom_id": first["custom_id"], **failure}, {"custom_id": second["custom_id"], **later}]
    (tmp_path / "out").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=rf"2 refused \(the request failed\); the first failure says: {words}"):
        import_answers(other, tmp_path / "out")


def test_the_answers_that_are_published_here_come_in_whole(other: ResponseCache) -> None:
    prompt = load_prompt("eimf_interests")
    asked = f"{prompt.id}@{prompt.version}"
    folder = Path(__file__).parents[2] / "dataset" / "ml-100k" / "answers"
    (published,) = folder.glob(f"qwen2.5-coder-1.5b-instruct-q4_k_m.{asked}.*.jsonl.xz")
    report = import_answers(other, published)
    assert (report.new, dict(report.refused)) == (len(other), {})
    assert len(list(other.requests([asked], "qwen2.5-coder-1.5b-instruct-q4_k_m"))) == 35
