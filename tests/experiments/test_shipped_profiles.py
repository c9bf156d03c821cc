"""The Amazon Beauty item profiles shipped with the repository."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

from recbole_llm.features.items import read_profiles

FOLDER = Path(__file__).parents[2] / "dataset" / "amazon-beauty" / "profiles"
PROFILES = FOLDER / "claude-2026-11.jsonl.gz"


def test_every_line_is_a_profile_of_an_item_of_its_own_without_a_title() -> None:
    with gzip.open(PROFILES, "rt", encoding="utf-8") as stream:
        rows = list(map(json.loads, stream))
    assert len({row["item_id"] for row in rows}) == len(rows) == 12_094
    assert all({*row} == {"item_id", "text"} and re.fullmatch(r"[A-Z0-9]{10}", row["item_id"]) for row in rows)
    ids = ["[PAD]", "none", *(row["item_id"] for row in rows[:50])]
    found = read_profiles(PROFILES, [""] * len(ids), ids, "item_id")
    assert found[:2] == ["", ""]
    assert all(found[2:])


def test_titles_join_them_as_the_readme_says(tmp_path: Path) -> None:
    with gzip.open(PROFILES, "rt", encoding="utf-8") as stream:
        first = json.loads(next(stream))
    items = tmp_path / "mine.item"
    items.write_text(
        f"item_id:token\ttitle:token_seq\n{first['item_id']}\tA Tool\nB000000000\tOther\n", encoding="utf-8"
    )
    script = (FOLDER / "README.md").read_text(encoding="utf-8").partition("<<'EOF'\n")[2].partition("    EOF")[0]
    code = "\n".join(line[4:] for line in script.splitlines())
    out = tmp_path / "by-title.jsonl"
    subprocess.run([sys.executable, "-c", code, items, PROFILES, out], check=True)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [{"title": "A Tool", "text": first["text"]}]
    assert read_profiles(out, ["", "A Tool", "Other"], ["[PAD]", "7", "8"]) == ["", first["text"], ""]
