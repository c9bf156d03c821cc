"""Converts raw files to ``<name>.inter`` and ``<name>.item``, with a record of what was done (``prepare.json``).

There are two passes: first the interactions, as integer codes, then the metadata of the remaining items, line by line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tabulate import tabulate

from recbole_llm.data.atomic import write_rows
from recbole_llm.errors import UserError
from recbole_llm.raw.amazon import Amazon2014, Amazon2018, Amazon2023
from recbole_llm.raw.bundle import Bundle
from recbole_llm.raw.download import download
from recbole_llm.raw.movielens import MovieLens1M, MovieLens20M, MovieLens100K
from recbole_llm.raw.reviews import Steam, Yelp
from recbole_llm.raw.source import Collector, RawFile, RawSpec, RawTable, Source, Tally, read_spec
from recbole_llm.utils.environment import now
from recbole_llm.utils.files import file_sha256, whole_file

logger = logging.getLogger(__name__)

FORMAT = 1  # raise when the rules change, so that older files are recognised
RECORD = "prepare.json"
FAMILIES: dict[str, type[Source]] = {
    "amazon2014": Amazon2014,
    "amazon2018": Amazon2018,
    "amazon2023": Amazon2023,
    "bundle": Bundle,
    "ml-100k": MovieLens100K,
    "ml-1m": MovieLens1M,
    "ml-20m": MovieLens20M,
    "steam": Steam,
    "yelp": Yelp,
}
RULES = {
    "repeats": "of several rows of one user and item (in bundle: session and item) the first in time is kept",
    "order": "by user, time and a stable hash; never by item id",
    "text": "metadata only, no reviews; entities decoded, tags and line ends gone, double quotes as two single ones",
}


@dataclass(frozen=True)
class PrepareReport:
    """What ``prepare`` did, or found already done.

    Attributes:
        folder: folder of the atomic files.
        record: the contents of ``prepare.json``.
        fresh: whether this call made the files.
    """

    folder: Path
    record: dict[str, Any]
    fresh: bool

    @property
    def counts(self) -> dict[str, int]:
        """Users, items, interactions and what was left out."""
        found: dict[str, int] = self.record["counts"]
        return found

    def compared(self) -> list[tuple[str, int, int | None]]:
        """Name, count here, published count (``None`` if unknown)."""
        published = self.record["published"]
        names = ("users", "sessions", "items", "interactions")
        found = [(name, self.counts[name], published.get(name)) for name in names if name in self.counts]
        reviews = [("reviews", self.counts["rows_read"], published["reviews"])] if "reviews" in published else []
        return reviews + found

    def differences(self) -> list[str]:
        """Counts that differ from the published ones, in words."""
        return [
            f"{name}: {here:,} here, {known:,} published ({here - known:+,})"
            for name, here, known in self.compared()
            if known is not None and here != known
        ]


def prepare(
    dataset: str | RawSpec,
    raw_dir: str | Path | None = None,
    dataset_dir: str | Path = "dataset",
    force: bool = False,
    kcore: int | None = None,
) -> PrepareReport:
    """Make a dataset's atomic files from its raw files.

    Args:
        dataset: alias in ``properties/dataset/``, or a spec that does not come from there.
        raw_dir: where the raw files are or are to be downloaded to; ``<dataset_dir>/NAME/raw`` by default.
        dataset_dir: the files go to ``<dataset_dir>/NAME/``.
        force: make the files again if they exist.
        kcore: least number of interactions of each user and each item; the source's usual rule by default.

    Raises:
        UserError: a raw file is missing and cannot be downloaded, or is damaged, or there are atomic files that were
            made by other rules or not by ``prepare``.
        NoRoomError: the disk is full.
    """
    spec = read_spec(dataset) if isinstance(dataset, str) else dataset
    folder = Path(dataset_dir) / spec.name
    kcore = spec.kcore if kcore is None else kcore
    if kcore < 0:
        raise UserError(f"--kcore={kcore}: give 0 (keep all) or more.")
    rules = {"format": FORMAT, "kcore": kcore, **RULES}
    if not force and (done := _done(folder, spec, rules)) is not None:
        return done
    files = gather(spec, Path(raw_dir) if raw_dir is not None else folder / "raw")
    tally = Tally()
    source = FAMILIES[spec.family]({role: path for role, (path, _) in files.items()}, tally)
    table = _read(source, spec, kcore)
    inter, item = _outputs(folder, spec.name)
    # The record gets its name first and .inter last: without earlier files, a call that is killed leaves none that the
    # next one disowns.
    with whole_file(inter, "w") as rows, whole_file(item, "w") as described:
        streams = {inter: rows, item: described}
        without = _write(source, table, streams, spec.name)
        record = {
            "dataset": spec.name,
            "sources": [_fingerprint(path, file) for path, file in files.values()],
            "rules": rules,
            "counts": {**source.counts(table), **without, **tally.counts},
            "published": dict(spec.published),
            "malformed_examples": tally.examples,
            "outputs": {path.name: file_sha256(Path(stream.name)) for path, stream in streams.items()},
            "created": now(),
        }
        with whole_file(folder / RECORD, "w") as stream:
            stream.write(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return PrepareReport(folder, record, fresh=True)


def _outputs(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.inter", folder / f"{name}.item"]


def _done(folder: Path, spec: RawSpec, rules: dict[str, Any]) -> PrepareReport | None:
    """The report of an earlier call with the same rules; ``None`` if there are no files, or it was killed.

    Raises:
        UserError: the files were made by other rules or not by ``prepare``.
    """
    outputs = _outputs(folder, spec.name)
    there = [path for path in outputs if path.exists()]
    if not there:
        return None
    again = "--force makes them anew."
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        known, made = record["rules"], record["outputs"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} holds atomic files that prepare did not make; {again}") from None
    if not all(path.is_file() and made.get(path.name) == file_sha256(path) for path in there):
        raise UserError(f"{folder}: the atomic files are not those that prepare made; {again}")
    if known != rules:
        changed = [f"{key}={known.get(key)}" for key in rules if known.get(key) != rules[key]]
        raise UserError(f"{folder} was prepared by other rules ({', '.join(changed)}); {again}")
    if there != outputs:
        return None
    return PrepareReport(folder, record, fresh=False)


def gather(spec: RawSpec, folder: Path) -> dict[str, tuple[Path, RawFile]]:
    """The path of each raw file; missing ones are downloaded.

    Raises:
        UserError: some files are missing and cannot be downloaded; the message names them all and where to put them.
    """
    found: dict[str, tuple[Path, RawFile]] = {}
    missing: list[RawFile] = []
    failures: list[str] = []
    for role, alternatives in spec.files.items():
        here = next(((path, file) for file in alternatives if (path := file.find(folder)) is not None), None)
        if here is not None:
            found[role] = here
            continue
        file = alternatives[0]
        path, reasons = (None, []) if failures else _from_any(file, folder)  # after one failure, none is tried
        if path is None:
            failures += reasons
            missing.append(file)
        else:
            found[role] = path, file
    if missing:
        where = f", from {spec.page}" if spec.page else ""
        raise UserError(
            f"prepare {spec.name}: put {', '.join(file.name for file in missing)} into {folder}/{where} "
            f"(or give --raw=FOLDER). Downloading failed: {'; '.join(failures)}."
        )
    return found


def _from_any(file: RawFile, folder: Path) -> tuple[Path | None, list[str]]:
    """Download a file from the first address that works; returns its path, if any, and why other addresses failed."""
    failures = [] if file.urls else [f"no address of {file.name} is known"]
    for url in file.urls:
        try:
            return download(url, file.place(folder, url), file.sha256), failures
        except UserError as error:
            failures.append(str(error).rstrip("."))
            logger.warning("%s", error)
    return None, failures


def _read(source: Source, spec: RawSpec, kcore: int) -> RawTable:
    """Read the interactions, then order and filter them.

    Raises:
        UserError: nothing is left.
    """
    logger.info("%s: reading interactions", spec.name)
    rows = Collector()
    source.read(rows)
    tally = source.tally
    if not len(rows):
        first = tally.examples[0] if tally.examples else "the file is empty"
        raise UserError(
            f"prepare {spec.name}: not one of {tally.counts['rows_read']:,} lines is an interaction ({first}). "
            "Is it the right file, or an error page that a browser saved?"
        )
    logger.info("%s: %s rows read; ordering and filtering", spec.name, f"{len(rows):,}")
    table = source.tidy(rows.table(), kcore)
    if not len(table):
        raise UserError(f"prepare {spec.name}: --kcore={kcore} leaves no interaction; give a smaller one.")
    return table


def _write(source: Source, table: RawTable, streams: dict[Path, IO[str]], name: str) -> dict[str, int]:
    """Write both files to their streams; returns the counts of items without metadata or title."""
    wanted = table.used_items()
    inter, item = streams
    logger.info("%s: reading the metadata of %s items", name, f"{len(wanted):,}")
    without: dict[str, int] = {"items_without_record": 0, "items_without_title": 0}

    def described() -> Iterator[tuple[str, ...]]:
        left = set(wanted)
        for row in source.items(wanted):
            left.discard(row[0])
            without["items_without_title"] += not row[1]
            yield row
        without["items_without_record"] = len(left)
        empty = ("",) * (len(source.item_columns) - 1)
        yield from ((name, *empty) for name in sorted(left))

    write_rows(streams[item], item, source.item_columns, described())
    logger.info("%s: writing %s interactions", name, f"{len(table):,}")
    write_rows(streams[inter], inter, source.inter_columns, source.rows(table))
    for stream in streams.values():
        stream.flush()
    return without


def _fingerprint(path: Path, file: RawFile) -> dict[str, Any]:
    """What identifies a raw file; warns if a file that was put there by hand has the wrong checksum."""
    sha256 = file_sha256(path)
    if file.sha256 and sha256 != file.sha256 and path.name == Path(file.name).name:
        logger.warning("%s has sha256 %s, not %s as published", path, sha256, file.sha256)
    return {"file": file.name, "bytes": path.stat().st_size, "sha256": sha256, "urls": list(file.urls)}


_LEFT_OUT = {
    "malformed_lines": "malformed lines",
    "repeats_of_user_and_item": "repeats of a user and an item",
    "rows_below_kcore": "rows by the k-core filter",
    "rows_without_title": "rows of items without a title",
    "rows_of_unknown_sessions": "rows of sessions without a user or a day",
}
_NOTED = {
    "items_without_record": "items have no metadata",
    "items_without_title": "items have metadata without a title",
    "repeated_item_records": "repeated records of an item were passed over",
    "lines_not_utf8": "lines hold bytes that are not UTF-8; they became U+FFFD",
    "sessions_listed_twice_or_undated": "sessions are listed twice or have no day",
}


def render_report(report: PrepareReport) -> str:
    """The counts beside the published ones, and what was left out."""
    record, counts = report.record, report.counts
    rows = [
        [name, f"{here:,}", "" if known is None else f"{known:,}", _mark(here, known)]
        for name, here, known in report.compared()
    ]
    done = "made" if report.fresh else "was prepared before; nothing to do (--force makes it anew)"
    lines = [
        f"{record['dataset']}: {done}",
        tabulate(rows, ["", "here", "published", ""], colalign=("left", "right", "right", "left")),
        f"{counts['rows_read']:,} rows read, {record['rules']['kcore']}-core. "
        + (_listed(_LEFT_OUT, counts, "left out: ") or "Nothing was left out."),
    ]
    lines += [f"  {example}" for example in record["malformed_examples"]]
    noted = _listed(_NOTED, counts, "")
    return "\n".join([*lines, *([noted] if noted else []), f"files: {report.folder}/"])


def _mark(here: int, known: int | None) -> str:
    return "" if known is None else "equal" if here == known else f"{here - known:+,}"


def _listed(words: dict[str, str], counts: dict[str, int], start: str) -> str:
    found = [f"{counts[key]:,} {text}" for key, text in words.items() if counts.get(key)]
    return f"{start}{'; '.join(found)}." if found else ""
