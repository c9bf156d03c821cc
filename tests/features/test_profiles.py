"""Item profiles made elsewhere find their items."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.features.items import read_profiles, title_key

TITLES = ["", "Toy Story (1995)", "Godfather, The (1972)", "Cosi (1996)", "Seven (Se7en) (1995)"]
TOKENS = ["", "1", "2", "3", "4"]


def written(path: Path, *records: Any) -> Path:
    lines = "".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines)
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_profiles_find_their_items_by_the_title_in_their_text(tmp_path: Path, name: str) -> None:
    path = written(
        tmp_path / name,
        {"item_id": "3", "text": '"Toy Story (1995)" is a film. Like A Bug\'s Life (1998).'},
        {"item_id": "1", "text": "The Godfather (1972) is a drama."},
        {"item_id": "2", "text": "Cosi (1997) is another one."},
    )
    found = read_profiles(path, TITLES, TOKENS)
    assert [bool(text) for text in found] == [False, True, True, False, False]
    assert found[2] == "The Godfather (1972) is a drama."


def test_a_title_field_wins_over_the_text(tmp_path: Path) -> None:
    path = written(
        tmp_path / "p", {"title": "Se7en", "year": 1995, "text": "x"}, {"title": "Seven (1995)", "text": "y"}
    )
    assert read_profiles(path, TITLES, TOKENS)[4] == "y"


@pytest.mark.parametrize("year", [1995, 1995.0, "1995", " 1995 "])
def test_a_year_is_one_however_it_is_written(tmp_path: Path, year: Any) -> None:
    path = written(tmp_path / "p", {"title": "Toy Story", "year": year, "text": "x"})
    assert read_profiles(path, TITLES, TOKENS)[1] == "x"


@pytest.mark.parametrize("year", [None, "", "unknown", 1995.5, float("inf"), True, [1995], "1995-11-22"])
def test_what_is_no_year_leaves_the_one_of_the_title(tmp_path: Path, year: Any) -> None:
    path = written(tmp_path / "p", {"title": "Toy Story (1995)", "year": year, "text": "x"})
    assert read_profiles(path, TITLES, TOKENS)[1] == "x"


def test_ids_count_only_where_they_are_said_to(tmp_path: Path) -> None:
    path = written(tmp_path / "p", {"item_id": "3", "text": "Toy Story (1995) rolls."})
    assert read_profiles(path, TITLES, TOKENS)[1]
    assert read_profiles(path, TITLES, TOKENS, "item_id")[3]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Godfather, The (1972)", "The Godfather (1972)"),
        ("Haine, La (1995)", "La Haine (1995)"),
        ("Seven (Se7en) (1995)", "SEVEN (1995)"),
        ("Sense &amp; Sensibility (1995)", "Sense & Sensibility (1995)"),
        ("Hand & Foot Cream", "Hand and Foot Cream"),
    ],
)
def test_spellings_of_one_title_are_one(one: str, other: str) -> None:
    assert title_key(one) == title_key(other)


def test_what_stands_in_brackets_tells_profiles_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(
        tmp_path / "p",
        {"title": "Lipstick (Red)", "text": "warm"},
        {"title": "Lipstick (Blue)", "text": "cold"},
        {"title": "Comb (Small)", "text": "a comb"},
    )
    titles = ["", "Lipstick (Blue)", "Lipstick (Red)", "Lipstick (Green)", "Comb", "Comb (Large)"]
    caplog.set_level(logging.INFO, logger="recbole_llm")
    assert read_profiles(path, titles, [""] * 6) == ["", "cold", "warm", "", "a comb", ""]
    assert "items without a profile, since those of like titles may be of other items: 2" in caplog.text


@pytest.mark.parametrize(
    "names", [("C Primer", "C++ Primer"), ("!!!", "???"), ("1. Soap", "2. Soap"), ("Size 1.5", "Size 15")]
)
@pytest.mark.parametrize("backwards", [False, True])
def test_signs_tell_profiles_apart(tmp_path: Path, names: tuple[str, str], backwards: bool) -> None:
    records = [{"title": name, "text": f"of {name}"} for name in names]
    path = written(tmp_path / "p", *(records[::-1] if backwards else records))
    assert read_profiles(path, ["", *names], [""] * 3) == ["", *(f"of {name}" for name in names)]


def test_a_spelling_that_fits_several_profiles_finds_none(tmp_path: Path) -> None:
    path = written(tmp_path / "p", {"title": "C Primer", "text": "x"}, {"title": "C++ Primer", "text": "y"})
    assert read_profiles(path, ["", "C# Primer", "c primer"], [""] * 3) == ["", "", "x"]


def test_an_ampersand_is_the_same_word_as_and(tmp_path: Path) -> None:
    path = written(tmp_path / "p", {"title": "C and D", "text": "x"}, {"title": "C. & D.", "text": "y"})
    assert read_profiles(path, ["", "C. and D.", "C & D"], [""] * 3) == ["", "y", "x"]


def test_a_title_of_signs_alone_is_like_no_other(tmp_path: Path) -> None:
    path = written(tmp_path / "p", {"title": "!!!", "text": "a band"})
    assert read_profiles(path, ["", "!!!", "***"], [""] * 3) == ["", "a band", ""]


def test_a_profile_without_an_id_or_a_text_is_of_no_item(tmp_path: Path) -> None:
    path = written(
        tmp_path / "p",
        {"item_id": None, "text": "x"},
        {"item_id": 1, "text": ""},
        {"item_id": 1, "text": "y"},
        {"item_id": 1, "text": "z"},
    )
    assert read_profiles(path, ["", "", ""], ["", "1", "None"], "item_id") == ["", "y", ""]


@pytest.mark.parametrize(("by", "of"), [("item_id", "id"), ("title", "title")])
def test_profiles_that_differ_for_one_item_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, by: str, of: str
) -> None:
    own = {"item_id": 1, "title": "Toy Story", "year": 1995}
    records = [{**own, "text": "x"}, {**own, "text": "x"}]
    assert read_profiles(written(tmp_path / "p", *records), TITLES, TOKENS, by)[1] == "x"
    assert not caplog.records
    assert read_profiles(written(tmp_path / "p", *records, {**own, "text": "y"}), TITLES, TOKENS, by)[1] == "x"
    assert f"profiles not read, since an earlier line has another one of the same {of}: 1" in caplog.text


def test_years_tell_titles_apart() -> None:
    assert title_key("Sabrina (1954)") != title_key("Sabrina (1995)")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "line 1 is not a JSON object"),
        ("[1]\n", "line 1 is not a JSON object"),
        ({"title": "Toy Story (1995)"}, "line 1: a profile is"),
        ({"text": "Nothing known (2001)"}, "none of its 1 profiles belongs to an item"),
    ],
)
def test_a_file_that_is_of_no_use_is_named(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_profiles(written(tmp_path / "p", record), TITLES, TOKENS)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_profiles(tmp_path / "none", TITLES, TOKENS)


def test_a_byte_order_mark_is_no_part_of_the_first_profile(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", "\ufeff", {"title": "Cosi (1996)", "text": "An opera."})
    assert read_profiles(path, TITLES, TOKENS)[3] == "An opera."
