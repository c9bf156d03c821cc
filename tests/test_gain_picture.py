"""The picture of the README is the one that the kept records give."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree

DOCS = Path(__file__).parents[1] / "docs"
PICTURE = runpy.run_path(str(DOCS / "gain_picture.py"))


def test_the_picture_is_drawn_from_the_records() -> None:
    assert (DOCS / "gain.svg").read_text(encoding="utf-8") == PICTURE["svg"](PICTURE["gains"]())


def test_it_shows_every_comparison_that_has_records() -> None:
    root = ElementTree.parse(DOCS / "gain.svg").getroot()  # our own file
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(PICTURE["gains"]()) > 0


def test_no_interval_leaves_the_picture() -> None:
    for each in PICTURE["gains"]().values():
        assert -PICTURE["SPAN"] < each.low <= each.high < PICTURE["SPAN"]
