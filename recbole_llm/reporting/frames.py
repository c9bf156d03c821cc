"""Records as pandas DataFrames: one row per run, user, epoch or table row."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import needs_lists, parse_metric
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import per_user as values_by_user
from recbole_llm.experiments.record import Record, loss_of
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.grouping import answered, group, kind_of
from recbole_llm.reporting.results_table import build, still_improving
from recbole_llm.reporting.tables import columns_of, table_lines
from recbole_llm.utils.text import names_of

logger = logging.getLogger(__name__)

Names = str | Sequence[str] | None
_RUN = ("dataset", "protocol", "label", "model", "semantics", "seed", "key")  # the columns that all frames begin with


def results(
    folder: str | Path = "results",
    dataset: Names = None,
    protocol: Names = None,
    model: Names = None,
    settings: Names = (),
) -> pd.DataFrame:
    """One row per record of a results folder.

    Args:
        folder: the results folder.
        dataset: names to keep; all by default.
        protocol: the same.
        model: the same.
        settings: names of settings that become columns, as ``settings.learning_rate``.

    Returns:
        ``label`` names the table row that a record belongs to; the seeds of a row share it. Metrics are columns of
        their own name (``ndcg@10``), seconds of a phase are ``seconds.train`` and so on. What a record lacks is a
        missing value.

    Raises:
        UserError: there is no such folder.
    """
    store, columns = _store(folder), names_of(settings)
    rows = []
    for label, record in _labelled(store, dataset, protocol, model):
        semantic, data = record.features, record.data
        rows.append(
            {
                **_run(label, record),
                "kind": kind_of(record), "status": record.status, "error": record.error, "engine": record.engine,
                "language_model": record.language_model, "legacy_leaks": record.legacy_leaks,
                "tuned": record.tuned, "trials": record.trials, "trial_epochs": record.trial_epochs,
                "trial_minutes": record.trial_minutes, "refit": record.refit,
                **{name: metric.value for name, metric in (record.metrics | record.list_metrics).items()},
                **{f"valid.{name}": value for name, value in record.valid_metrics.items()},
                "valid_metric": record.valid_metric, "best_epoch": record.best_epoch, "epochs": record.epochs,
                "still_improving": still_improving(record),
                **{f"seconds.{phase}": value for phase, value in record.seconds.items()},
                **{f"memory_mib.{where}": value for where, value in record.memory_mib.items()},
                "parameters": record.parameters,
                "test_cases": data.test_cases if data else None,
                "data_sha256": data.sha256 if data else None,
                "llm": semantic.llm if semantic else None,
                "llm_model": semantic.llm_model if semantic else None,
                "coverage": min(answered(record).values(), default=None),
                "requests": semantic.requests if semantic else None,
                "tokens_in": semantic.tokens_in if semantic else None,
                "tokens_out": semantic.tokens_out if semantic else None,
                "price": semantic.price if semantic else None,
                "knowledge_cut": semantic.knowledge_cut if semantic else None,
                "after_cut": semantic.after_cut if semantic else None,
                "notes": "; ".join(record.notes), "commit": record.commit, "created": record.created,
                **{f"settings.{name}": record.settings.get(name) for name in columns},
            }
        )  # fmt: skip
    return _frame(rows, _RUN)


def per_user(
    folder: str | Path = "results",
    metric: str = "ndcg@10",
    dataset: Names = None,
    protocol: Names = None,
    model: Names = None,
) -> pd.DataFrame:
    """One row per user and run: the values that the tests of a table use.

    Args:
        folder: the results folder.
        metric: one that can be computed from ranks, such as ``ndcg@10`` or ``map@7``.
        dataset: names to keep; all by default.
        protocol: the same.
        model: the same.

    Returns:
        The columns that identify the run, then ``user`` (the user's number in the ranks; where histories are cut into
        sessions, the person's number), ``cases``, and ``value``, the mean over the user's cases. Runs without ranks, or
        whose ranks do not reach the cut-off, are left out with a warning.

    Raises:
        UserError: there is no such folder, an unknown metric, or a metric of whole lists, which has no value per user.
    """
    name, _ = parse_metric(metric)
    if needs_lists(name):
        raise UserError(f"{metric} is a metric of whole lists: no user has a value of it.")
    store, parts = _store(folder), []
    for label, record in _labelled(store, dataset, protocol, model):
        if record.status != "ok":
            continue
        try:
            ranks = Ranks.load(store.ranks_of(record))
            users, values = values_by_user([ranks], metric)
        except UserError as error:
            logger.warning("%s, seed %d is left out: %s", label, record.seed, error)
            continue
        cases = np.unique(ranks.person if len(ranks.person) else ranks.user, return_counts=True)[1]
        frame = pd.DataFrame({"user": users, "cases": cases, "value": values[0]})
        parts.append(frame.assign(**_run(label, record))[[*_RUN, "user", "cases", "value"]])
    return pd.concat(parts, ignore_index=True) if parts else _frame([], (*_RUN, "user", "cases", "value"))


def curves(
    folder: str | Path = "results", dataset: Names = None, protocol: Names = None, model: Names = None
) -> pd.DataFrame:
    """One row per run and epoch.

    Args:
        folder: the results folder.
        dataset: names to keep; all by default.
        protocol: the same.
        model: the same.

    Returns:
        The columns that identify the run, then ``epoch``, ``loss`` (the sum, where a model has several), ``seconds``,
        and validation metrics such as ``valid.ndcg@10``, which are missing in epochs without validation.

    Raises:
        UserError: there is no such folder.
    """
    rows = []
    for label, record in _labelled(_store(folder), dataset, protocol, model):
        for number, point in enumerate(record.curve, start=1):
            rows.append(
                {
                    **_run(label, record),
                    "epoch": point.get("epoch", number),
                    "loss": loss_of(point),
                    "seconds": point.get("seconds"),
                    **{f"valid.{name}": value for name, value in point.get("valid", {}).items()},
                }
            )
    return _frame(rows, (*_RUN, "epoch", "loss", "seconds"))


def table_rows(
    folder: str | Path = "results",
    dataset: Names = None,
    protocol: Names = None,
    model: Names = None,
    baseline: str | None = None,
    correction: str = "holm",
    margin: float | None = None,
) -> pd.DataFrame:
    """One row per table row and metric: means, intervals and tests, as in ``table --format=csv``.

    Args:
        folder: the results folder.
        dataset: names to keep; all by default.
        protocol: the same.
        model: the same.
        baseline: model or label that the others are measured against; default the best baseline of each table.
        correction: of the tests; see :func:`recbole_llm.reporting.results_table.build`.
        margin: of the tests; see the same function.

    Returns:
        Differences and their tests are in the rows of the metric that models were selected by.

    Raises:
        UserError: there is no such folder, a baseline that no table has, an unknown correction, or an invalid margin.
    """
    store = _store(folder)
    wanted = _chosen(store, dataset, protocol, model)
    tables = build(wanted, store, topk=[], baseline=baseline, intervals=True, correction=correction, margin=margin)
    lines = list(table_lines(tables))
    return pd.DataFrame(lines, columns=columns_of(lines))


def _store(folder: str | Path) -> ResultStore:
    """A results folder; a missing one is refused, since empty frames would hide a mistyped name."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: there is no such results folder.")
    return ResultStore(folder)


def _chosen(records: Iterable[Record], dataset: Names, protocol: Names, model: Names) -> list[Record]:
    given = {"dataset": dataset, "protocol": protocol, "model": model}
    wanted = {field: names_of(names) for field, names in given.items() if names is not None}
    return [record for record in records if all(getattr(record, field) in names for field, names in wanted.items())]


def _labelled(store: ResultStore, dataset: Names, protocol: Names, model: Names) -> Iterator[tuple[str, Record]]:
    """The chosen records, each with the label that its row has among all records of the folder."""
    everything = list(store)
    labels = {
        id(record): name.label
        for rows in group(everything).values() for name, runs in rows.items() for record in runs
    }  # fmt: skip
    for record in _chosen(everything, dataset, protocol, model):
        yield labels[id(record)], record


def _run(label: str, record: Record) -> dict[str, Any]:
    """The columns that identify a run."""
    facts = {"label": label, "semantics": record.source}
    return {name: facts.get(name, getattr(record, name)) for name in _RUN}


def _frame(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A frame of some rows; the columns are there even without a row."""
    frame = pd.DataFrame(list(rows))
    return frame if len(frame) else pd.DataFrame(columns=list(columns))
