"""The records, columns and protocols that a command shows, and checks of its options before records are read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from recbole_llm.errors import UserError, check_choice, did_you_mean
from recbole_llm.evaluation.names import metric_title, parse_metric
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.grouping import Label
from recbole_llm.settings.schema import from_python
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
    topk = from_python(topk, "--topk")
    if topk is None or topk == "all":
        return names, None if topk is None else []
    words = [str(word).strip() for word in (topk if isinstance(topk, list) else names_of(str(topk)))]
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
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


def check_shown(
    options: Mapping[str, Any], planned: Iterable[Record], is_table: bool, left_out: Mapping[str, Collection[str]]
) -> tuple[dict[str, Any] | None, list[str]]:
    """Check a ``table`` or ``report`` command against the results folder and the runs that come before the command.

    Args:
        options: the options given to the command.
        planned: records of the runs of the commands before it, with what is known before they run.
        is_table: whether the command is ``table``; else it is ``report``.
        left_out: by option, names of rows that the suite has and its command line may have left out.

    Returns:
        The options without models and protocols that were left out, ``None`` if the command cannot be shown without
        them; and the options and names that are missing, such as ``--baseline=SASRec``.

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
    wanted = {key: names_of(options.get(key)) for key in _PLACE}
    wanted |= {"twin": twin, "baseline": [str(options["baseline"])] if options.get("baseline") else []}
    missing = _missing_names(wanted, [*planned], options.get("results_dir"), left_out)
    remaining = {key: [name for name in names if name not in missing[key]] for key, names in wanted.items()}
    found = [f"--{key}={name}" for key, names in missing.items() for name in names]
    if missing["twin"] or missing["baseline"] or any(missing[key] and not remaining[key] for key in missing):
        return None, found
    return {**options, **{key: remaining[key] for key in missing if missing[key]}}, found


_PLACE = ("dataset", "protocol", "model")  # where a record stands
_COLUMN = {"baseline": "model", "twin": "protocol"}  # what the names of other options are, or begin with


def _missing_names(
    wanted: Mapping[str, list[str]],
    planned: Sequence[Record],
    results_dir: str | Path | None,
    left_out: Mapping[str, Collection[str]],
) -> dict[str, list[str]]:
    """Wanted names, by option, that neither the planned runs nor the records of the results folder have.

    Raises:
        UserError: one of them is not among ``left_out``.
    """
    if not any(absent for absent, _ in _absent(wanted, planned).values()):
        return {option: [] for option in wanted}
    missing = _absent(wanted, [*planned, *ResultStore(results_dir or "results")])
    for option, (names, known) in missing.items():
        for name in names:
            if name not in left_out.get(option, ()):
                chosen = [f"--{key}={','.join(wanted[key])}" for key in _PLACE if key != option and wanted[key]]
                with_others = f" with {' '.join(chosen)}" if chosen else ""
                said = f"--{option}={name}: neither this suite nor its results folder has it{with_others}."
                if option == "baseline" and (model := Label.of(name).model) in known:
                    raise UserError(f"{said} The rows of {model} have other semantics or settings.")
                hint = " If --model leaves it out, name it there too." if option == "baseline" else ""
                raise UserError(f"{said}{hint}{did_you_mean(name, known)} There are {', '.join(known) or 'none'}.")
    return {option: names for option, (names, _) in missing.items()}


def _absent(wanted: Mapping[str, list[str]], records: Sequence[Record]) -> dict[str, tuple[list[str], list[str]]]:
    """By option, the wanted names that are absent where the options before it look, and the names that are there."""
    found = {}
    for option, names in wanted.items():
        column = _COLUMN.get(option, option)
        known = sorted({getattr(record, column) for record in records})
        if option == "baseline":
            absent = [name for name in names if not any(map(Label.of(name).may_name, records))]
        else:
            absent = [name for name in names if name not in known]
        found[option] = absent, known
        if option == column:
            records = [record for record in records if getattr(record, column) in names] or records
    return found


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
