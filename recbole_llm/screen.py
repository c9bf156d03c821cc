"""Prints the results of verbs on the command line; each ``show_`` function returns the exit code.

The functions import heavy packages where they use them, as the verbs do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_llm.api import Tuned
from recbole_llm.errors import UserError
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.choice import chosen_records
from recbole_llm.reporting.rendered import screen_style
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.text import names_of, visible
from recbole_llm.utils.yaml import properties_folder, read_yaml

HEADER = "user_id\trank\titem_id\tscore\n"


def show_run(records: Any, given: dict[str, Any]) -> int:
    """A table of the runs, and where their records are."""
    from recbole_llm.reporting.tables import render

    store = ResultStore(results_folder(given))
    print(render(records, screen_style(), store=store, **_shown_columns(given)))
    if not given.get("quiet"):
        print(visible(f"\nrecords: {store.folder}/ ({len(records)} of this command)"))
        if given.get("preset"):
            print(f"settings: --preset={given['preset']} (properties/preset/)")
    return _code_of(records)


def _shown_columns(given: dict[str, Any]) -> dict[str, Any]:
    """The settings ``metrics`` and ``topk`` of a command, which also choose the columns of its table."""
    metrics, topk = names_of(given.get("metrics")), given.get("topk")
    cut_offs = None if topk is None else [int(k) for k in names_of(str(topk))]
    return {"metrics": metrics or None, "topk": cut_offs}


def _code_of(records: Any) -> int:
    """0 if no run failed, 1 if some failed, 2 if all failed, also if there is only one."""
    failed = [record.status == "failed" for record in records]
    return 2 if failed and all(failed) else int(any(failed))


def show_tune(found: Tuned, given: dict[str, Any]) -> int:
    """What each search found, and a table of the runs with the best settings."""
    from recbole_llm.reporting.tables import render
    from recbole_llm.tuning.search import summary

    print(visible(summary(found.studies)), end="\n\n")
    store = ResultStore(results_folder(given))
    print(render(found.records, screen_style(), store=store, **_shown_columns(given)))
    if found.report is not None:
        print(visible(f"\nreport: {found.report}"))
    return _code_of(found.records)


def show_text(found: Any, given: dict[str, Any]) -> int:
    """A text or a path as it is."""
    print(visible(str(found)))
    return 0


def show_advise(found: Any, given: dict[str, Any]) -> int:
    """A table of the gains, and why no more answers were bought."""
    from recbole_llm.experiments.advise import render_advice

    print(visible(render_advice(found)))
    return 0


def show_probe(records: Any, given: dict[str, Any]) -> int:
    """A table of what an LLM remembers, and where the records are."""
    from recbole_llm.experiments.probe import render_probes

    print(visible(render_probes(records)))
    if not given.get("quiet"):
        store = ResultStore(results_folder(given))
        print(visible("\n" + "\n".join(f"record: {store.probe_path(record)}" for record in records)))
    return 0


def show_table(text: str, given: dict[str, Any]) -> int:
    """The tables; 1 if a baseline is out of its published band."""
    if not given.get("output"):
        style = screen_style() if given.get("format") in (None, "text") else given["format"]
        print(text if style == "terminal" else visible(text))  # visible() would remove its colours
    if not given.get("check_reference"):
        return 0
    chosen = {key: given.get(key) for key in ("model", "dataset", "protocol")}
    from recbole_llm.reporting.tables import render_check

    store, records = chosen_records(given.get("results_dir"), **chosen)
    return int(render_check(records, "text", store)[1])


def show_recommend(lists: Any, given: dict[str, Any]) -> int:
    """One line per user and item, on the screen or in a file; ``run --lists`` reads it back.

    Raises:
        UserError: an id does not fit into a field.
    """
    from recbole_llm.data.atomic import cell

    ids = {name for each in lists for name in (each.user, *each.items)}
    if broken := min((name for name in ids if set(name) & set("\t\r\n")), default=None):
        raise UserError(
            f"recommend: the id {broken!r} holds a tab or a line break, which would break the lines of the list; "
            "rename it in the dataset, or call recbole_llm.recommend in Python, which returns the ids as they are."
        )
    cells = {name: cell(name) for name in ids}
    lines = (
        f"{cells[each.user]}\t{place}\t{cells[item]}\t{score:.6g}\n"
        for each in lists
        for place, (item, score) in enumerate(zip(each.items, each.scores, strict=True), 1)
    )
    if given.get("output"):
        with whole_file(Path(given["output"]), "w") as stream:
            stream.writelines((HEADER, *lines))
    else:
        sys.stdout.writelines(map(_harmless, (HEADER, *lines)) if sys.stdout.isatty() else (HEADER, *lines))
    return 0


def _harmless(line: str) -> str:
    """A tab-separated line without what a terminal would obey; its tabs stay."""
    return "\t".join(map(visible, line.split("\t")))


def show_prepare(report: Any, given: dict[str, Any]) -> int:
    """What was made; differences from the published counts as warnings."""
    from recbole_llm.raw.prepare import render_report

    print(visible(render_report(report)))
    for difference in report.differences():
        print(visible(f"warning: {difference}"), file=sys.stderr)
    return 0


def show_list(found: Any, given: dict[str, Any]) -> int:
    """The lists that were asked for, one after the other."""
    if given.get("stats"):
        from recbole_llm.data.statistics import render_statistics

        print(visible(render_statistics(found.statistics)))
        return 0
    if found.models:
        print("models of recbole_llm:")
        print("\n".join(f"  {name:<14} {row.kind:<11} {row.paper}" for name, row in found.models.items()))
    for preset, names in found.presets.items():
        print(f"with settings for --preset={preset}:\n  {', '.join(names)}")
    for kind, names in found.recbole.items():
        print(f"models of RecBole, {kind}:\n  {', '.join(names)}")
    for title, entries, width in (
        ("datasets", found.datasets, 22), ("protocols", found.protocols, 14), ("suites", found.suites, 14)
    ):  # fmt: skip
        if entries:
            lines = [f"{title}:", *(f"  {name:<{width}} {about}" for name, about in entries.items())]
            print(visible("\n".join(lines)))
    if found.settings:
        rows = [
            (each.name, each.takes + (f", {each.bounds}" if each.bounds else ""), json.dumps(each.default), each.help)
            for each in found.settings
        ]
        print(
            tabulate(
                rows,
                ["setting", "takes", "default", "what it does"],
                disable_numparse=True,
                maxcolwidths=[30, 30, 30, 60],
            )
        )
    return 0


def show_doctor(findings: Any, given: dict[str, Any]) -> int:
    """One line per finding; 1 if something does not work."""
    for finding in findings:
        mark = "ok  " if finding.good else "FAIL" if finding.fatal else "note"
        print(visible(f"{mark} {finding.text}"))
    return 1 if any(finding.fatal and not finding.good for finding in findings) else 0


def show_estimate(found: Any, given: dict[str, Any]) -> int:
    """A table of what a command will take."""
    from recbole_llm.experiments.estimate import render_estimate

    print(visible(render_estimate(found)))
    return 0


def results_folder(given: dict[str, Any]) -> Path:
    """A command's results folder: its option, else that of the last settings file that names one, else the default."""
    files = given.get("config_file") or ()
    layers = [read_yaml(Path(file)) for file in ([files] if isinstance(files, str) else files)]
    named = [layer["results_dir"] for layer in layers if layer.get("results_dir")]
    default = read_yaml(properties_folder() / "overall.yaml")["results_dir"]
    return Path(given.get("results_dir") or (named[-1] if named else default))
