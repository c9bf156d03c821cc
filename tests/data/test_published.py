from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.interactions import Interactions
from recbole_llm.data.published import published_split, read_prompts
from recbole_llm.errors import UserError
from tests.data.build import table_of

TITLES = {
    "a": 'Tea, 20" Bags',
    "b": "Salt &amp; Pepper",
    "c": "Socks, 2.",
    "d": "Plain",
    "e": "Plain",
    "f": "Rice",
    "unsold": "Cold",
}
SESSIONS = {"s1": "ab", "s2": "bc", "s3": "cd", "v1": "abd", "t1": "bca", "t2": "acf"}


def prompt(history: str, candidates: list[str], target: str) -> dict[str, object]:
    def listed(titles: list[str]) -> str:
        return "[" + ", ".join(f'{n}."{title}"' for n, title in enumerate(titles, 1)) + "]"

    text = f"Current session interactions: {listed([TITLES[i] for i in history])}\nCandidate set: {listed(candidates)}"
    return {"input": text, "target": target, "target_index": candidates.index(target) + 1}


VALID = [prompt("ab", ["Rice", "Plain", "Plain"], "Plain")]
TEST = [
    prompt("bc", ["Rice\nof India", TITLES["a"], "Cold"], TITLES["a"]),
    prompt("ab", ["Rice", "Plain", "Socks, 2."], "Plain"),  # repeats the validation session
    prompt("ac", ["Rice", "Plain", "Salt & Pepper"], "Rice"),
]


def dataset(folder: Path, test: list[dict[str, object]] = TEST) -> tuple[Interactions, DatasetLocation]:
    rows = [(s, i, 10 * n + k) for n, (s, items) in enumerate(SESSIONS.items()) for k, i in enumerate(items)]
    rows.append(("s2", "e", 9))
    table = table_of(folder / "x", rows)
    lines = ["item_id:token\ttitle:token_seq", *(f"{i}\t{t.replace(chr(34), chr(39) * 2)}" for i, t in TITLES.items())]
    (folder / "x" / "x.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "cases").mkdir()
    (folder / "cases" / "valid.json").write_text(json.dumps(VALID), encoding="utf-8")
    (folder / "cases" / "test_0.json.gz").write_bytes(gzip.compress(json.dumps(test).encode()))
    about = {"published_cases": {"folder": "cases", "valid": "valid.json", "test": "test_{seed}.json"}}
    return table, DatasetLocation("x", "x", folder / "x", folder / "home", about)


def options(seed: int = 0) -> dict[str, object]:
    return {"protocol": "po4isr", "split": "published", "candidate_seed": seed}


def tokens(table: Interactions, line: np.ndarray) -> list[str]:
    return table.item_tokens[line].tolist()


def test_sessions_and_candidates_are_found_by_their_titles(tmp_path: Path) -> None:
    table, location = dataset(tmp_path)
    split = published_split(table, location, options())
    assert table.user_tokens[split.valid.user].tolist() == ["v1"]
    assert table.user_tokens[split.test.user].tolist() == ["t1", "t2"]
    # An item without interactions has no id. Of two items with one title, the second occurrence is the other item.
    assert tokens(table, split.test.candidates[0]) == ["a", "f", "[PAD]"]
    assert tokens(table, split.test.candidates[1])[0] == "f"
    assert sorted(tokens(table, split.valid.candidates[0])) == ["d", "e", "f"]
    assert tokens(table, split.valid.candidates[0])[0] == "d"


def test_what_ended_before_the_held_out_sessions_trains(tmp_path: Path) -> None:
    table, location = dataset(tmp_path)
    split = published_split(table, location, options())
    assert set(table.user_tokens[table.user[split.train_rows]]) == {"s1", "s2", "s3"}


def test_a_session_that_validates_never_tests(tmp_path: Path) -> None:
    table, location = dataset(tmp_path)
    split = published_split(table, location, options())
    assert not set(split.valid.user) & set(split.test.user)


def test_a_missing_file_says_where_to_put_it(tmp_path: Path) -> None:
    table, location = dataset(tmp_path)
    with pytest.raises(UserError, match=r"put test_42\.json\(\.gz\) into .*home/cases"):
        published_split(table, location, options(seed=42))


def test_cases_of_other_data_are_refused(tmp_path: Path) -> None:
    table, location = dataset(tmp_path, [*TEST, prompt("ad", ["Rice", "Plain"], "Rice")])
    with pytest.raises(UserError, match="case 4 is the session of 0 users here"):
        published_split(table, location, options())


def test_a_candidate_that_is_no_item_is_refused(tmp_path: Path) -> None:
    table, location = dataset(tmp_path, [prompt("ac", ["Rice", "Gold", "Silver"], "Rice")])
    with pytest.raises(UserError, match="case 1 ranks 'Gold', which is no item"):
        published_split(table, location, options())


def test_a_dataset_without_published_cases_is_refused(tmp_path: Path) -> None:
    table, location = dataset(tmp_path)
    with pytest.raises(UserError, match="no cases are published for --dataset=x"):
        published_split(table, DatasetLocation("x", "x", location.folder, location.home), options())


@pytest.mark.parametrize(
    "content",
    [b"not json", b"[1]", b'[{"input": "x"}]', b'[{"input": "Current session interactions: []\\nCandidate set: []"}]'],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "test.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"test\.json is no file of PO4ISR's form"):
        read_prompts(path)


@pytest.mark.parametrize("damage", [b"\xff" * 4, b"", b"[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    whole = gzip.compress(json.dumps(TEST).encode())
    path = tmp_path / "test_0.json.gz"
    path.write_bytes(gzip.compress(damage) if damage[:1] == b"[" else whole[:20] + damage + whole[30:])
    with pytest.raises(UserError, match=r"test_0\.json\.gz is no file of PO4ISR's form"):
        read_prompts(path)


def test_lists_of_different_lengths_are_an_error(tmp_path: Path) -> None:
    longer = prompt("ac", ["Rice", "Plain", "Cold", "Salt & Pepper"], "Rice")
    table, location = dataset(tmp_path, [TEST[0], longer])
    with pytest.raises(UserError, match=r"test_0\.json\.gz: case 2 ranks 4 items and the first case 3\."):
        published_split(table, location, options())
