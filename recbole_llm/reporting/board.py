"""The leaderboard: static pages from a folder of submissions, one page per dataset and protocol.

Submissions are untrusted: their records are checked again before they are shown, file names are made here, and the
templates escape everything else. A row belongs to one submission; seeds of two submissions are never averaged.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.names import metric_title
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.rerun import rerun_command
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.submission import Entry, Submission, read_submission
from recbole_llm.pages.render import render_page, write_page
from recbole_llm.reporting.costs import hardware_of, price_of
from recbole_llm.reporting.grouping import RowName, TableKey, group, kind_of, latest
from recbole_llm.reporting.results_table import IMPROVING, IMPROVING_NOTE, primary_metric, still_improving
from recbole_llm.utils.files import hidden_folder

MARK = ".board"  # marks a folder as a board, which a later call may replace
SHOWN = ("ndcg", "hit", "mrr")  # besides the metric that models were selected by, at its cut-off


@dataclass(frozen=True)
class Page:
    """The tables of one dataset and protocol, and the name of their file."""

    dataset: str
    protocol: str
    file: str
    tables: list[dict[str, Any]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of all tables."""
        return [row for table in self.tables for row in table["rows"]]


def write_board(folder: Path, output: Path, dataset_dir: Path) -> int:
    """Write the site.

    Args:
        folder: each of its subfolders is a submission or a results folder.
        output: folder of the site; an older board there is replaced.
        dataset_dir: folder of the semantic files, if they are on this machine.

    Returns:
        The number of rows.

    Raises:
        UserError: there is no submission, one of them fails its checks, or the output exists and is not a board.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder.")
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / MARK).is_file())):
        raise UserError(f"{output} is there already and holds no board; give --output another folder.")
    parts = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    submissions = [read_submission(path, dataset_dir) for path in parts if path.resolve() != output.resolve()]
    if not submissions:
        raise UserError(f"{folder} holds no submission: each folder in it is one (see recbole-llm submit).")
    with hidden_folder(output) as place:
        site = place / "site"
        pages = _pages(submissions, site)
        for page in pages:
            write_page(
                site / page.file,
                _render("board.html.j2", page=page, filters=_filters(page.rows), improving=IMPROVING_NOTE),
            )
        checked = [entry for each in submissions for entry in each.entries]
        write_page(site / "index.html", _render("boards.html.j2", pages=_index(pages), facts=_facts(checked)))
        (site / MARK).write_text("", encoding="utf-8")
        earlier = place / "earlier"
        if output.exists():
            output.replace(earlier)  # not removed here: a kill would leave half a board
        try:
            site.replace(output)
        except BaseException:
            if earlier.exists():
                earlier.replace(output)
            raise
    return sum(len(page.rows) for page in pages)


def _render(template: str, **values: Any) -> str:
    return render_page("recbole_llm.reporting", template, **values)


def _pages(submissions: Sequence[Submission], site: Path) -> list[Page]:
    """The pages, sorted by dataset and protocol; the records that they link to are written beside them."""
    tables: dict[TableKey, list[dict[str, Any]]] = defaultdict(list)
    everything: dict[TableKey, list[Record]] = defaultdict(list)
    folders = _distinct([submission.name for submission in submissions])
    for submission in submissions:
        entries = {id(entry.record): entry for entry in submission.entries}
        store = ResultStore(site / "records" / folders[submission.name])
        for key, rows in group(entry.record for entry in submission.entries).items():
            for name, records in rows.items():
                runs = latest(records)
                everything[key] += runs
                tables[key].append(_row(submission.name, name, runs, [entries[id(run)] for run in runs], store, site))
    pages: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for key in sorted(tables):
        primary, number = primary_metric(everything[key]), len(pages[key.dataset, key.protocol])
        pages[key.dataset, key.protocol].append(_table(key, tables[key], primary, number))
    files = _distinct(["/".join(names) for names in pages])
    return [Page(*names, f"{files['/'.join(names)]}.html", found) for names, found in pages.items()]


def _distinct(names: Sequence[str]) -> dict[str, str]:
    """For each name, a unique name for a file or folder that every file system accepts."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^\w.-]+", "-", name).lstrip(".").lower() or "-"
        while plain in found.values():
            plain += "-2"
        found[name] = plain
    return found


def _table(key: TableKey, rows: list[dict[str, Any]], primary: str, number: int) -> dict[str, Any]:
    """One table, ordered by the metric that most of its records were selected by, which is the first column."""
    cut = primary.partition("@")[2] or "10"
    wanted = dict.fromkeys([primary, *(f"{name}@{cut}" for name in SHOWN)])
    metrics = [name for name in wanted if any(name in row["metrics"] for row in rows)]
    metrics = metrics or sorted({name for row in rows for name in row["metrics"]})[:4]
    rows = sorted(rows, key=lambda row: -row["metrics"].get(metrics[0], {"mean": -1.0})["mean"])
    cases = [f"{name}: {value}" for name, value in key.case_settings.items()]
    return {
        "id": f"t{number}",
        "facts": [f"data {key.data}", *([] if key.masked else ["the user's items are ranked too"]), *cases],
        "metrics": [(name, metric_title(name)) for name in metrics],
        "rows": rows,
    }


def _row(
    submission: str, name: RowName, runs: Sequence[Record], entries: Sequence[Entry], store: ResultStore, site: Path
) -> dict[str, Any]:
    links = []
    for run in runs:
        path = store.put(run)
        links.append((f"seed {run.seed}", path.relative_to(site).as_posix()))
    return {
        "label": name.model + (f" {IMPROVING}" if any(map(still_improving, runs)) else ""),
        "model": runs[0].model,
        "kind": kind_of(runs[0]),
        "source": name.semantics or "none",
        "language_model": name.language_model,
        "tuned": name.tuned,
        "submission": submission,
        "metrics": _metrics(entries),
        "seeds": len(runs),
        "price": price_of(run.features for run in runs if run.features is not None),
        "seconds": float(np.mean([run.seconds.get("total", 0.0) for run in runs])),
        "hardware": sorted({hardware_of(run) for run in runs}),
        "settings": all(entry.settings_checked for entry in entries),
        "answers": _answers(entries),
        "links": links,
        "command": rerun_command(runs),
    }


def _metrics(entries: Sequence[Entry]) -> dict[str, dict[str, float | None]]:
    """Mean and deviation over all seeds of each metric that a record has; from the ranks where a record lacks it."""
    found: dict[str, dict[str, float | None]] = {}
    for metric in sorted({metric for entry in entries for metric in entry.record.metrics}):
        try:
            values = [_value(entry, metric) for entry in entries]
        except UserError:  # ranks that are not known beyond a place say nothing of a larger cut-off
            continue
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found[metric] = {"mean": float(np.mean(values)), "sd": spread}
    return found


def _value(entry: Entry, metric: str) -> float:
    found = entry.record.metrics.get(metric)
    return found.value if found else float(per_case(Ranks.load(entry.ranks), metric).mean())


def _answers(entries: Sequence[Entry]) -> str:
    found = {entry.answers_checked for entry in entries}
    return "none read" if found == {None} else "no" if False in found else "yes"


def _filters(rows: Iterable[dict[str, Any]]) -> list[tuple[str, str, list[str]]]:
    """Fields that a reader can filter by, with their values; fields with a single value are left out."""
    rows = list(rows)
    found = [
        (field, title, sorted({each for row in rows for each in _values(row[field])}))
        for field, title in (
            ("model", "method"), ("source", "answers from"), ("hardware", "hardware"), ("submission", "submission")
        )
    ]  # fmt: skip
    return [each for each in found if len(each[2]) > 1]


def _values(found: str | list[str]) -> list[str]:
    return [found] if isinstance(found, str) else found


def _index(pages: Sequence[Page]) -> list[dict[str, Any]]:
    return [
        {"dataset": page.dataset, "protocol": page.protocol, "file": page.file, "rows": len(page.rows),
         "best": page.tables[0]["rows"][0], "metric": page.tables[0]["metrics"][0]}
        for page in pages
    ]  # fmt: skip


def _facts(entries: Sequence[Entry]) -> dict[str, int]:
    return {
        "records": len(entries),
        "settings": sum(entry.settings_checked for entry in entries),
        "read": sum(entry.answers_checked is not None for entry in entries),
        "answers": sum(bool(entry.answers_checked) for entry in entries),
    }
