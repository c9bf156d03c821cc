"""The records, columns and protocols that a command shows, and checks of its options before records are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from recbole_llm.errors import UserError, check_choice, did_you_mean
from recbole_llm.evaluation.names import metric_title, parse_metric
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.store import ResultStore
from recbole_llm.utils.text import names_of

Format = Literal["text", "terminal", "markdown", "latex", "csv", "html"]


def table_columns(
    metrics: str | Sequence[str] | None, topk: Any, groups: bool, check_reference: bool, style: str
) -> tuple[list[str] | None, list[int] | None]:
    """Names and cut-offs of a table's columns; ``None`` stands for the defaults, an empty list of cut-offs for all.

    Raises:
        UserError: an unknown format or metric, a bad cut-off, or subgroups in CSV or with ``check_reference``.
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
    """The two protocols of a twin table; an empty list without ``--twin``.

    Raises:
        UserError: not exactly two protocols, or one of ``others`` is given, which a twin table does not take.
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


def check_shown(options: Mapping[str, Any], runs: Iterable[Run], is_table: bool) -> None:
    """Check a ``table`` or ``report`` command against the results folder and the runs that come before the command.

    Args:
        options: the options given to the command.
        runs: the runs of the commands before it.
        is_table: whether the command is ``table``; else it is ``report``.

    Raises:
        UserError: a mistake in a name or a value.
    """
    from recbole_llm.reporting.results_table import build  # scipy

    twin = []
    if is_table:
        others = {key: options.get(key) for key in ("protocol", "baseline", "margin", "check_reference")}
        twin = twin_protocols(options.get("twin"), **others)
        groups, check_reference = bool(options.get("groups")) and not twin, bool(options.get("check_reference"))
        form = options.get("format", "text")
        table_columns(options.get("metrics"), options.get("topk"), groups, check_reference, form)
    build([], correction=options.get("correction", "holm"), margin=options.get("margin"), sort=options.get("sort"))
    wanted = {key: names_of(options.get(key)) for key in ("model", "dataset", "protocol")}
    if options.get("baseline"):
        wanted["baseline"] = [re.split(r" [([]|, ", str(options["baseline"]))[0]]  # a label begins with its model
    _check_names({**wanted, "twin": twin}, runs, options.get("results_dir"))


def _check_names(wanted: Mapping[str, list[str]], runs: Iterable[Run], results_dir: str | Path | None) -> None:
    """Raise a ``UserError`` if a wanted name is neither in the runs nor in the records of the results folder."""
    there: dict[str, set[str]] = {"model": set(), "dataset": set(), "protocol": set()}
    for run in runs:
        method, settings = run.settings.method, run.settings
        there["model"].add(method.target if method.is_external else method.name)
        there["model"].update([str(settings[method.stage_one])] if method.stage_one else [])
        there["dataset"].add(run.location.name)
        there["protocol"].add(str(settings["protocol"]))
    column = {"baseline": "model", "twin": "protocol"}
    if all({*names} <= there[column.get(option, option)] for option, names in wanted.items()):
        return
    for record in ResultStore(results_dir or "results"):
        for key, held in there.items():
            held.add(getattr(record, key))
    for option, names in wanted.items():
        known = sorted(there[column.get(option, option)])
        for name in names:
            if name not in known:
                left_out = " If --model leaves it out, name it there too." if option == "baseline" else ""
                raise UserError(
                    f"--{option}={name}: neither this suite nor its results folder has it.{left_out}"
                    f"{did_you_mean(name, known)} There are {', '.join(known) or 'none'}."
                )


def chosen_records(
    results_dir: str | Path | None, **wanted: str | Sequence[str] | None
) -> tuple[ResultStore, list[Record]]:
    """A results folder, and its records with the wanted ``model``, ``dataset`` and ``protocol``.

    Raises:
        UserError: the folder has no records, or none with one of the wanted values.
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
