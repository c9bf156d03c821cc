"""Small raw files in the real formats, for the tests of ``prepare``."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_llm.data.atomic import read_table
from recbole_llm.raw.prepare import PrepareReport, prepare
from recbole_llm.raw.source import RawFile, RawSpec

DAY = 86_400
SECRET = "I adore this, I will buy its sequel"  # is in every review and must not be in any output


def spec_of(family: str, files: dict[str, str | list[str]], kcore: int = 0, **more: Any) -> RawSpec:
    """A spec of a dataset called ``toy``, whose files have no download URL."""
    roles = {
        role: tuple(RawFile(n) for n in ([names] if isinstance(names, str) else names)) for role, names in files.items()
    }
    return RawSpec("toy", "Toy data", family, files=roles, kcore=kcore, **more)


def amazon_spec(
    family: str = "amazon2014", kcore: int = 0, reviews: str | list[str] = "reviews.json.gz", **more: Any
) -> RawSpec:
    """The spec of Amazon's pair of files."""
    return spec_of(family, {"reviews": reviews, "items": "meta.json.gz"}, kcore, **more)


def gz_lines(path: Path, lines: Iterable[str | bytes]) -> Path:
    """Write lines unchanged to a gzip file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(text))
    return path


def review(user: str, item: str, day: int, stars: float = 5.0) -> str:
    """A line of the 2014 and 2018 editions."""
    row = {
        "reviewerID": user,
        "asin": item,
        "reviewerName": 'Jo "the reader" Doe',
        "helpful": [0, 0],
        "reviewText": f'{SECRET}. {{"asin": "B000WRONG"}}',
        "overall": stars,
        "summary": SECRET,
        "unixReviewTime": day * DAY,
        "reviewTime": "02 1, 2013",
    }
    return json.dumps(row)


def meta(item: str, title: str | None = None, **more: Any) -> dict[str, Any]:
    """A record of the 2014 edition."""
    record: dict[str, Any] = {"asin": item, "related": {"also_bought": ["B000OTHER"]}, "imUrl": "http://x/y.jpg"}
    if title is not None:
        record["title"] = title
    return {**record, "categories": [["Beauty", "Hair Care", "Shampoos"]], **more}


def write_amazon(
    raw: Path, reviews: Iterable[Sequence[Any] | str | bytes], records: Iterable[dict[str, Any] | str | bytes]
) -> Path:
    """Write ``reviews.json.gz`` (JSON lines) and ``meta.json.gz`` (Python literals, unless a line is given)."""
    lines = [line if isinstance(line, (str, bytes)) else review(*line) for line in reviews]
    gz_lines(raw / "reviews.json.gz", lines)
    gz_lines(raw / "meta.json.gz", [r if isinstance(r, (str, bytes)) else repr(r) for r in records])
    return raw


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    """Write a zip archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def run(spec: RawSpec, raw: Path, **options: Any) -> PrepareReport:
    """Run ``prepare`` into a folder beside the raw files."""
    return prepare(spec, raw, raw.parent / "dataset", **options)


def inter(report: PrepareReport) -> list[list[str]]:
    """Rows of the ``.inter`` file as text."""
    path = report.folder / f"{report.record['dataset']}.inter"
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def items(report: PrepareReport) -> dict[str, dict[str, str]]:
    """Rows of the ``.item`` file by id, as our reader reads them."""
    frame = read_table(report.folder / f"{report.record['dataset']}.item").fillna("")
    return {row["item_id"]: row for row in frame.to_dict("records")}
