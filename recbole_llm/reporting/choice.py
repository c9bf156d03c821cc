"""Which records, columns and protocols a command wants to see; mistakes are told before the records are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from recbole_llm.errors import UserError, check_choice, did_you_mean
from recbole_llm.evaluation.names import metric_title, parse_metric
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.utils.text import names_of

Format = Literal["text", "terminal", "markdown", "latex", "csv", "html"]


def table_columns(
    metrics: str | Sequence[str] | None, topk: Any, groups: bool, check_reference: bool, style: str
) -> tuple[list[str] | None, list[int] | None]:
    """Names and cut-offs of a table's columns; ``None`` for the default ones, no cut-off for all.

    Raises:
        UserError: an unknown format or metric, no cut-off, or subgroups where there is no place for them.
    """
    check_choice("--format", style, get_args(Format))
    names = names_of(metrics) or None
    for name in names or ():
        parse_metric(name if "@" in name or metric_title(name) == "GAUC" else f"{name}@10")
    if groups and (style == "csv" or check_reference):
        other = "--check_reference" if check_reference else "--format=csv"
        raise UserError(f"--groups: {other} shows no subgroups; leave one of them out.")
    if topk is None or topk == "all":
        return names, None if topk is None else []
    words = [str(word) for word in names_of(str(topk) if isinstance(topk, int) else topk)]
    if not words or not all(word.isdigit() and int(word) > 0 for word in words):
        raise UserError(f"--topk={topk}: give cut-offs such as 5,10, or all.")
    return names, [int(word) for word in words]


def twin_protocols(twin: str | Sequence[str] | None, **others: Any) -> list[str]:
    """The two protocols of a twin table; none where there is none.

    Raises:
        UserError: not two of them, or one of ``others`` is given, for which a twin table has no place.
    """
    if twin is None:
        return []
    names = list(dict.fromkeys(names_of(twin)))
    if len(names) != 2:
        raise UserError(f"--twin={twin}: give two protocols, such as loo,gts.")
    for option, value in others.items():
        if value:
            raise UserError(f"--twin shows rows under two protocols; leave --{option} out.")
    return names


def chosen_records(
    results_dir: str | Path | None, **wanted: str | Sequence[str] | None
) -> tuple[ResultStore, list[Record]]:
    """A results folder, and its records with the wanted values (``model``, ``dataset``, ``protocol``).

    Raises:
        UserError: there are none, or none with a name.
    """
    store = ResultStore(results_dir or "results")
    chosen = list(store)
    if not chosen:
        raise UserError(f"{store.folder}/ holds no results yet; run something first.")
    for key, value in wanted.items():
        names = names_of(value)
        there = sorted({getattr(record, key) for record in chosen})
        for name in names:
            if name not in there:
                hint = did_you_mean(name, there)
                raise UserError(
                    f"--{key}={name}: {store.folder}/ holds no such results.{hint} It has {', '.join(there)}."
                )
        chosen = [record for record in chosen if not names or getattr(record, key) in names]
    return store, chosen
