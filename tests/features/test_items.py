"""Item text from metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.interactions import Interactions
from recbole_llm.errors import UserError
from recbole_llm.features.items import ItemTexts, read_item_texts

NONE = np.empty(0, dtype=np.int64)


def read(folder: Path, lines: list[str] | None, spec: dict[str, Any] | None = None) -> ItemTexts:
    """Texts of the items a, b and c, read from a file with these lines."""
    if lines is not None:
        (folder / "d.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokens = np.array(["[PAD]", "a", "b", "c"])
    table = Interactions(NONE, NONE, None, {}, NONE, tokens[:1], tokens)
    return read_item_texts(DatasetLocation("d", "d", folder, folder), table, spec)


def test_titles_stand_at_their_items_ids(tmp_path: Path) -> None:
    found = read(tmp_path, ["item_id:token\ttitle:token_seq", "c\tSea", "a\tAir", "b\tBee"])
    assert found.title == ["", "Air", "Bee", "Sea"]
    assert found.named == 1.0


def test_a_template_joins_columns(tmp_path: Path) -> None:
    lines = ["item_id:token\tname:token_seq\tyear:token", "a\tAir\t1999", "b\tBee\t2001", "c\tSea\t1970"]
    assert read(tmp_path, lines, {"title": "{name} ({year})"}).title == ["", "Air (1999)", "Bee (2001)", "Sea (1970)"]


def test_brackets_around_a_missing_value_go_with_it(tmp_path: Path) -> None:
    lines = ["item_id:token\tname:token_seq\tyear:token", "a\tAir\t", "b\tBee\tunknown", "c\t\t1970"]
    assert read(tmp_path, lines, {"title": "{name} ({year})"}).title == ["", "Air", "Bee", "(1970)"]


def test_items_without_a_title_are_called_by_their_token(tmp_path: Path) -> None:
    found = read(tmp_path, ["item_id:token\ttitle:token_seq", "a\tAir", "b\tunknown", "c\t"])
    assert found.title == ["", "Air", "item b", "item c"]
    assert found.named == pytest.approx(1 / 3)


def test_items_that_the_file_lacks_are_called_by_their_token_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = read(tmp_path, ["item_id:token\ttitle:token_seq", "a\tAir", "z\tZoo"])
    assert found.title == ["", "Air", "item b", "item c"]
    assert "lacks 2 of 3 items" in caplog.text


def test_without_a_file_items_are_called_by_their_tokens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read(tmp_path, None)
    assert found.title == ["", "item a", "item b", "item c"]
    assert (found.named, found.source) == (0.0, "none")
    assert "has no .item file" in caplog.text


def test_a_column_that_the_file_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"d\.item has no column 'titel'.*it has item_id, title"):
        read(tmp_path, ["item_id:token\ttitle:token_seq", "a\tAir"], {"title": "{titel}"})


def test_text_is_cleaned(tmp_path: Path) -> None:
    lines = ["item_id:token\ttitle:token_seq", "a\tSalt &amp;amp; \u202ePepper", 'b\t5" brush; soft', "c\tx"]
    assert read(tmp_path, lines).title[1:3] == ["Salt & Pepper", '5" brush; soft']


def test_categories_brand_and_description_are_read_where_there_are_any(tmp_path: Path) -> None:
    lines = ["item_id:token\ttitle:token_seq\tcategories:token_seq\tbrand:token", "a\tAir\tGas, Light\tSky", "b\tB\t\t"]
    found = read(tmp_path, lines)
    assert found.categories == ["", "Gas, Light", "", ""]
    assert found.brand == ["", "Sky", "", ""]
    assert found.description == ["", "", "", ""]


def test_a_title_that_looks_like_a_template_stays_what_it_is(tmp_path: Path) -> None:
    lines = ["item_id:token\tname:token_seq\tyear:token", "a\tThe {year} of {name}\t1999", "b\tB\t1", "c\tC\t1"]
    assert read(tmp_path, lines, {"title": "{name} ({year})"}).title[1] == "The {year} of {name} (1999)"


def test_item_ids_that_look_like_numbers_are_text(tmp_path: Path) -> None:
    (tmp_path / "d.item").write_text("item_id:token\ttitle:token_seq\n007\tBond\n7\tSeven\n")
    tokens = np.array(["[PAD]", "7", "007"])
    table = Interactions(NONE, NONE, None, {}, NONE, tokens[:1], tokens)
    assert read_item_texts(DatasetLocation("d", "d", tmp_path, tmp_path), table, None).title == ["", "Seven", "Bond"]


@pytest.mark.parametrize("template", ["{name", "{}}", 7])
def test_a_template_that_is_none_is_an_error(tmp_path: Path, template: Any) -> None:
    with pytest.raises(UserError, match=r"is no template .* columns in braces"):
        read(tmp_path, ["item_id:token\tname:token_seq", "a\tAir"], {"title": template})
