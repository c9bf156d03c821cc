"""What each verb of the command line does, once its options are read."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, did_you_mean


def _executor(options: argparse.Namespace) -> Any:
    from recbole_llm.execution.choice import open_executor

    return open_executor(options.executor, options.workers, options.ray_address, options.gpus)


def overrides_of(rest: Sequence[str]) -> dict[str, Any]:
    """``--key=value`` words to settings."""
    from recbole_llm.settings.layers import parse_assignment

    found: dict[str, Any] = {}
    for word in rest:
        if not word.startswith("--") or "=" not in word:
            raise UserError(f"{word!r}: settings are written --key=value.")
        key, value = parse_assignment(word[2:])
        key = key.replace("-", "_")  # --max-cost, as commands are written, is the setting max_cost
        if key in found and found[key] != value:
            raise UserError(f"--{key} is given twice with different values.")
        found[key] = value
    return found


def _runs(options: argparse.Namespace, rest: Sequence[str]) -> list[Any]:
    """The cells of a grid that the options name.

    Raises:
        UserError: an unknown name or key.
    """
    from recbole_llm.experiments.grid import expand

    overrides = overrides_of(rest)
    if options.results_dir:
        overrides["results_dir"] = options.results_dir
    names = options.model or "", options.dataset or "", options.protocol
    return expand(*names, _seeds(options), getattr(options, "semantics", None), options.config_file, overrides)


def _seeds(options: argparse.Namespace) -> Any:
    """``--seeds`` as YAML has it; ``None`` where it is not given."""
    from recbole_llm.settings.layers import parse_assignment

    given = getattr(options, "seeds", None)
    if given is None:
        return None
    return parse_assignment(f"seeds={given}")[1] if given.strip() else []  # an empty shell variable is no seed


def check(verb: str, options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Raise the ``UserError`` of a mistake in a command that is still to come: a name, a key, a value."""
    if verb == "table":
        _columns(options)
    if verb not in ("run", "tune", "generate"):
        return
    runs = _runs(options, rest)
    if verb in ("run", "tune"):
        from recbole_llm.execution.choice import check_executor

        check_executor(options.executor, options.workers, options.ray_address, options.gpus)
    if verb == "tune":
        from recbole_llm.tuning.budget import Budget
        from recbole_llm.tuning.search import spaces_of

        Budget.given(options.trials, options.trial_epochs, options.trial_minutes, options.pruner)
        spaces_of(list({run.settings.method.name: run for run in runs}.values()), options.space)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Train and test a grid, and print its tables; 1 where a cell failed."""
    from recbole_llm.experiments.launch import run_all
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.experiments.store import ResultStore
    from recbole_llm.reporting.tables import render
    from recbole_llm.utils.progress import Bars

    runs = _runs(options, rest)
    store = ResultStore(runs[0].settings["results_dir"])
    with _executor(options) as executor:
        records = run_all(runs, Runner(store, Bars(not options.quiet), options.force), executor)
    print(render(records, store=store))
    if not options.quiet:
        print(f"\nrecords: {store.folder}/ ({len(records)} of this command)")
    return 1 if any(record.status == "failed" for record in records) else 0


def tune(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Search settings with one budget for every model, then run the best ones."""
    from recbole_llm.experiments.store import ResultStore
    from recbole_llm.reporting.tables import render
    from recbole_llm.tuning.search import summary, tune

    chosen = vars(options).copy()
    report, _, files = chosen.pop("report"), chosen.pop("verbose"), chosen.pop("config_file")
    chosen["seeds"] = _seeds(options)
    chosen |= {"model": options.model or "", "dataset": options.dataset or "", "config_files": files}
    records, studies = tune(**chosen, **overrides_of(rest))
    print(summary(studies), end="\n\n")
    results = studies[0].run.settings["results_dir"]
    print(render(records, store=ResultStore(results)))
    if report is not None:
        from recbole_llm.tuning.report import write_search_report

        path = Path(report or Path(results) / "search.html")
        print(f"\nreport: {write_search_report(studies, path)}")
    return 1 if any(record.status == "failed" for record in records) else 0


def generate(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Make, price, export or import semantic features."""
    from recbole_llm.experiments import generate
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.experiments.store import ResultStore
    from recbole_llm.features.sources import AnswerSource
    from recbole_llm.utils.progress import Bars

    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit={options.limit}: give 1 or more.")
    runs = _runs(options, rest)
    runner = Runner(ResultStore(runs[0].settings["results_dir"]), Bars(not options.quiet))
    if options.take_in:
        print(f"{options.take_in}: {generate.take_in(runs, options.take_in)}")
    elif options.export:
        print(f"{options.export}: {generate.export(runs, options.export)} answers")
    elif options.dry_run:
        print(generate.render_plan(generate.plan(runs, runner, options.limit)))
    elif options.batch_file:
        count = generate.batch_file(runs, runner, options.batch_file, options.limit)
        print(f"{options.batch_file}: {count} requests; give their answers to generate --import=FILE")
    elif options.batch:
        print(generate.render_made(generate.run_batches(runs, runner, options.poll, options.limit)))
    else:
        asking = AnswerSource.of(runs[0].settings, options.limit)
        print(generate.render_made(generate.make(runs, runner, asking)))
    return 0


def recommend(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Write the first items of chosen users."""
    from recbole_llm.experiments.recommend import Recommender
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.experiments.store import ResultStore
    from recbole_llm.utils.files import whole_file
    from recbole_llm.utils.progress import Bars

    if options.topk < 1:
        raise UserError(f"--topk={options.topk}: give 1 or more.")
    runs = _runs(options, rest)
    if len(runs) != 1:
        raise UserError("recommend takes one model and one dataset.")
    run = runs[0]
    runner = Runner(ResultStore(run.settings["results_dir"]), Bars(not options.quiet), asks_again=False)
    recommender = Recommender.trained(
        run, runner, mask_history=bool(run.settings["mask_history"]), history=options.history
    )
    lists = recommender.recommend(_users(options.users, recommender), options.topk)
    lines = (
        f"{r.user}\t{n}\t{item}\t{s:.6g}\n"
        for r in lists
        for n, (item, s) in enumerate(zip(r.items, r.scores, strict=True), 1)
    )
    header = "user_id\trank\titem_id\tscore\n"
    if options.output:
        with whole_file(Path(options.output), "w") as stream:
            stream.write(header)
            stream.writelines(lines)
    else:
        sys.stdout.write(header)
        sys.stdout.writelines(lines)
    return 0


def _users(text: str, recommender: Any) -> list[str]:
    """``--users``: ``all``, a name, a file with one name a line, or names with commas between them.

    Raises:
        UserError: the file is not UTF-8 text, or nobody is named.
    """
    known = [str(user) for user in recommender.prepared.dataset.table.user_tokens[1:]]
    if text == "all":
        return known
    there = set(known)
    names = [text] if text in there else text.split(",")
    if os.path.isfile(text):  # noqa: PTH113 - Path.is_file fails where many names are too long for that of a file
        try:
            names = Path(text).read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"--users={text}: the file is not UTF-8 text ({error}); save it as UTF-8.") from error
    # Blanks and commas may belong to a name; what is no name is tried without the blanks around it.
    named = [name if name in there else name.strip() for name in names]
    if not any(named):
        raise UserError(f"--users={text}: it names nobody; give names, a file with one a line, or all.")
    return [name for name in named if name]


def prepare(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Make atomic files of raw ones, and show the counts."""
    from recbole_llm.prepare.prepare import prepare, render_report

    report = prepare(options.dataset, options.raw, options.dataset_dir, options.force, options.kcore)
    print(render_report(report))
    for difference in report.differences():
        print(f"warning: {difference}", file=sys.stderr)
    return 0


def list_(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Show models, datasets, protocols and suites."""
    from recbole_llm.data.catalog import known_datasets
    from recbole_llm.registry import methods, recbole_methods
    from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

    if options.stats:
        if options.what not in (None, "datasets"):
            raise UserError(f"--stats is for datasets, not for {options.what}.")
        return _list_statistics(options)
    if options.what in (None, "models"):
        print("models of recbole_llm:")
        for name, row in methods().items():
            print(f"  {name:<14} {row.kind:<11} {row.paper}")
        presets: dict[str, list[str]] = {}
        for stem in property_names("preset"):
            name, _, preset = stem.rpartition("-")
            presets.setdefault(preset, []).append(name)
        for preset, names in presets.items():
            print(f"with settings for --preset={preset}:\n  {', '.join(names)}")
        by_kind: dict[str, list[str]] = {}
        for name, row in recbole_methods().items():
            by_kind.setdefault(row.kind, []).append(name)
        for kind, names in by_kind.items():
            print(f"models of RecBole, {kind}:\n  {', '.join(names)}")
    if options.what in (None, "datasets"):
        print("datasets:")
        for name in known_datasets(Path(options.dataset_dir)):
            file = properties_folder() / "dataset" / f"{name}.yaml"
            about = (read_yaml(file).get("about") or {}) if file.is_file() else {}
            print(f"  {name:<22} {about.get('title', '')}")
    if options.what in (None, "protocols"):
        print("protocols:")
        for name in property_names("protocol"):
            print(f"  {name:<14} {read_yaml(properties_folder() / 'protocol' / f'{name}.yaml').get('about', '')}")
    if options.what in (None, "suites"):
        print("suites:")
        for name in property_names("suite"):
            print(f"  {name:<14} {read_yaml(properties_folder() / 'suite' / f'{name}.yaml').get('about', '')}")
    return 0


def _list_statistics(options: argparse.Namespace) -> int:
    from recbole_llm.data.statistics import dataset_statistics, render_statistics

    print(render_statistics(dataset_statistics(options.data_path, options.dataset_dir)))
    return 0


def _chosen(options: argparse.Namespace) -> tuple[Any, list[Any]]:
    """The store and the records that the options name.

    Raises:
        UserError: there are none.
    """
    from recbole_llm.experiments.store import ResultStore

    store = ResultStore(options.results_dir or "results")
    chosen = list(store)
    if not chosen:
        raise UserError(f"{store.folder}/ holds no results yet; run something first.")
    for key in ("dataset", "protocol", "model"):
        wanted = _names(getattr(options, key))
        there = sorted({getattr(record, key) for record in chosen})
        for name in wanted:
            if name not in there:
                hint = did_you_mean(name, there)
                raise UserError(
                    f"--{key}={name}: {store.folder}/ holds no such results.{hint} It has {', '.join(there)}."
                )
        chosen = [record for record in chosen if not wanted or getattr(record, key) in wanted]
    return store, chosen


def _names(text: str | None) -> list[str]:
    """``A, B`` to its names."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _cut_offs(text: str | None) -> list[int] | None:
    """``--topk``: ``5,10``, or ``all`` that the records have."""
    if text is None or text == "all":
        return None if text is None else []
    words = text.strip("[]").split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise UserError(f"--topk={text}: give cut-offs such as 5,10, or all.")
    return [int(word) for word in words]


def _columns(options: argparse.Namespace) -> tuple[list[str] | None, list[int] | None]:
    """``--metrics`` and ``--topk`` of a table.

    Raises:
        UserError: an unknown metric, no cut-off, or subgroups where there is no place for them.
    """
    from recbole_llm.evaluation.names import metric_title, parse_metric

    metrics = _names(options.metrics) or None
    for name in metrics or ():
        parse_metric(name if "@" in name or metric_title(name) == "GAUC" else f"{name}@10")
    if options.groups and (options.format == "csv" or options.check_reference):
        other = "--check-reference" if options.check_reference else "--format=csv"
        raise UserError(f"--groups: {other} shows no subgroups; leave one of them out.")
    return metrics, _cut_offs(options.topk)


def table(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print tables of finished runs; 1 where a baseline is out of its published band."""
    from recbole_llm.reporting.tables import render, render_check
    from recbole_llm.utils.files import whole_file

    metrics, topk = _columns(options)
    store, chosen = _chosen(options)
    out_of_band = False
    if options.check_reference:
        text, out_of_band = render_check(chosen, options.format, store)
    else:
        text = render(chosen, options.format, metrics, store, topk, options.baseline, options.groups)
    if options.output:
        with whole_file(Path(options.output), "w") as stream:
            stream.write(text + "\n")
    else:
        print(text)
    return 1 if out_of_band else 0


def report(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Write the page of tables and charts."""
    from recbole_llm.reporting.page import write_report

    store, chosen = _chosen(options)
    path = Path(options.output or store.folder / "report.html")
    write_report(chosen, store, path, options.baseline)
    print(path)
    return 0


def doctor(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Check this machine, or semantic files for leaks."""
    from recbole_llm.experiments.doctor import examine

    if options.leaks:
        from recbole_llm.experiments.leak_report import examine_leaks

        if not options.dataset:
            raise UserError("doctor --leaks looks at one dataset: give --dataset=NAME.")
        findings = examine_leaks(options.dataset, options.data_path, options.dataset_dir)
    else:
        findings = examine(Path(options.dataset_dir), Path(options.results_dir or "results"))
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'FAIL' if finding.fatal else 'note'} {finding.text}")
    return 1 if any(finding.fatal and not finding.good for finding in findings) else 0


VERBS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {
    "run": run,
    "tune": tune,
    "generate": generate,
    "recommend": recommend,
    "prepare": prepare,
    "list": list_,
    "table": table,
    "report": report,
    "doctor": doctor,
}
