"""The command line: verbs, messages, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import recbole_llm
from recbole_llm.errors import UserError, did_you_mean

VERBS = ("run", "tune", "generate", "recommend", "prepare", "list", "table", "report", "doctor")

USAGE = """\
recbole-llm [run] --model=NAME[,NAME...] --dataset=NAME [--key=value ...]   train, test, show the table
recbole-llm tune --model=NAME[,NAME...] --dataset=NAME [--trials=50]        search settings, then run the best
recbole-llm generate --model=NAME --dataset=NAME --llm=NAME [--dry-run]    make (or price) the LLM's features alone
recbole-llm recommend --model=NAME --dataset=NAME --users=U1,U2 [--topk=10]   lists from a model that was run
recbole-llm prepare NAME [--raw=FOLDER] [--kcore=5] [--force]               raw files to a dataset's atomic files
recbole-llm list [models|datasets|protocols] [--stats] [--data_path=FOLDER] what there is
recbole-llm table [--dataset=NAME] [--format=text|markdown|latex|csv|html]  tables of what was run
recbole-llm report [--dataset=NAME] [--output=FILE.html]                    one page with tables and charts
recbole-llm doctor [--leaks --dataset=NAME]                                check this machine (semantic files for leaks)

run:  --protocol=loo  --seeds=5 or --seeds=[1,2]  --semantics=llm,offline,shuffled,random,none  --llm=offline
      --workers=N  --executor=serial|processes|ray  --ray_address=auto
      --config_file=FILE  --force  --quiet  and every setting of RecBole or of a model as --key=value;
      --MODEL.key=value sets it for one model of several.
tune: the same budget for all: --trials=50  --trial_epochs=N  --trial_minutes=M  --pruner=median|hyperband|none
      --seeds=5 for the best settings  --storage=FILE or postgresql://...  --space=FILE  --report[=FILE]
      and the options of run; a setting that is given is not searched.
generate:  --max-cost=5.00  --max-requests=N  --limit=N (a trial)  --export=FILE  --import=FILE  --batch-file=FILE
      --batch (submit, wait, take in; half the price)  --profiles=FILE (item profiles made elsewhere)
"""


class _Parser(argparse.ArgumentParser):
    """Errors as ``UserError``, so that all messages look alike."""

    def error(self, message: str) -> Any:
        raise UserError(f"{message}. See recbole-llm --help.")


def _parser(verb: str) -> _Parser:
    parser = _Parser(prog=f"recbole-llm {verb}", usage=USAGE, add_help=False, allow_abbrev=False)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--results_dir")
    if verb == "run":
        parser.add_argument("--model")
        parser.add_argument("--dataset")
        parser.add_argument("--protocol")
        parser.add_argument("--seeds")
        parser.add_argument("--semantics")
        parser.add_argument("--config_file", action="append", default=[])
        parser.add_argument("--force", action="store_true")
        _add_executor(parser)
    elif verb == "tune":
        for name in ("model", "dataset", "protocol", "seeds", "semantics", "storage", "space"):
            parser.add_argument(f"--{name}")
        parser.add_argument("--config_file", action="append", default=[])
        parser.add_argument("--trials", type=int, default=50)
        parser.add_argument("--trial_epochs", type=int)
        parser.add_argument("--trial_minutes", type=float)
        parser.add_argument("--pruner", default="median")
        parser.add_argument("--report", nargs="?", const="", help="where the page goes; results/search.html")
        _add_executor(parser)
    elif verb == "generate":
        parser.add_argument("--model")
        parser.add_argument("--dataset")
        parser.add_argument("--protocol")
        parser.add_argument("--config_file", action="append", default=[])
        parser.add_argument("--limit", type=int)
        parser.add_argument("--poll", type=float, default=60.0, help="seconds between two looks at a batch")
        action = parser.add_mutually_exclusive_group()
        action.add_argument("--dry-run", action="store_true")
        action.add_argument("--batch", action="store_true")
        action.add_argument("--batch-file", type=Path)
        action.add_argument("--export", type=Path)
        action.add_argument("--import", type=Path, dest="take_in")
    elif verb == "recommend":
        parser.add_argument("--model", required=True)
        parser.add_argument("--dataset", required=True)
        parser.add_argument("--protocol")
        parser.add_argument("--semantics")
        parser.add_argument("--config_file", action="append", default=[])
        parser.add_argument("--users", required=True, help="names, a file with one a line, or all")
        parser.add_argument("--topk", type=int, default=10)
        parser.add_argument("--history", default="all")
        parser.add_argument("--output")
    elif verb == "prepare":
        parser.add_argument("dataset")
        parser.add_argument("--raw", help="folder of the raw files; dataset/NAME/raw by default")
        parser.add_argument("--kcore", type=int)
        parser.add_argument("--force", action="store_true")
        parser.add_argument("--dataset_dir", default="dataset")
    elif verb == "list":
        parser.add_argument("what", nargs="?", choices=("models", "datasets", "protocols"))
        parser.add_argument("--stats", action="store_true")
        parser.add_argument("--data_path")
        parser.add_argument("--dataset_dir", default="dataset")
    elif verb in ("table", "report"):
        parser.add_argument("--model")
        parser.add_argument("--dataset")
        parser.add_argument("--protocol")
        parser.add_argument("--baseline")
        parser.add_argument("--output")
    if verb == "table":
        parser.add_argument("--metrics")
        parser.add_argument("--topk")
        parser.add_argument("--groups", action="store_true")
        parser.add_argument("--check-reference", "--check_reference", action="store_true")
        parser.add_argument("--format", choices=("text", "markdown", "latex", "csv", "html"), default="text")
    elif verb == "doctor":
        parser.add_argument("--dataset_dir", default="dataset")
        parser.add_argument("--leaks", action="store_true")
        parser.add_argument("--dataset")
        parser.add_argument("--data_path")
    return parser


def _add_executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, help="cells or trials that run at once")
    parser.add_argument("--executor", help="serial, processes or ray")
    parser.add_argument("--ray_address", help="of a running cluster: auto or host:port")
    parser.add_argument("--gpus", type=float, help="share of a GPU for each, on Ray")


def _executor(options: argparse.Namespace) -> Any:
    from recbole_llm.bench.executors import open_executor

    return open_executor(options.executor, options.workers, options.ray_address, options.gpus)


def _split_verb(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The verb and the rest; ``run`` where the first word is an option."""
    if not arguments or arguments[0].startswith("-"):
        return "run", list(arguments)
    if arguments[0] not in VERBS:
        raise UserError(
            f"there is no verb {arguments[0]!r}.{did_you_mean(arguments[0], VERBS)} Known: {', '.join(VERBS)}."
        )
    return arguments[0], list(arguments[1:])


def _overrides(rest: Sequence[str]) -> dict[str, Any]:
    """``--key=value`` words to settings."""
    from recbole_llm.settings import parse_assignment

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


def _set_up_logging(quiet: bool, verbose: bool) -> None:
    from recbole_llm.bench.progress import TqdmHandler

    root = logging.getLogger()
    root.handlers[:] = [TqdmHandler()]
    root.setLevel(logging.WARNING)
    logging.getLogger("recbole_llm").setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    root.handlers[0].setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if not verbose:
        # Other packages' warnings (deprecations in RecBole, sparse CSR in beta) are no use to a user.
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 fine, 1 something failed, 2 a user's error, 130 Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.argv[1:] = []  # nobody else reads the command line
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # a reader that went away is noticed here, not when Python ends
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished results and checkpoints are kept, the same command goes on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(recbole_llm.__version__)
        return 0
    verb, words = _split_verb(arguments)
    if not arguments or {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    options, rest = _parser(verb).parse_known_args(words)
    _set_up_logging(options.quiet, options.verbose)
    if rest and verb not in ("run", "tune", "generate", "recommend"):
        raise UserError(f"recbole-llm {verb} has no option {rest[0]!r}.")
    handlers = {"run": _run, "tune": _tune, "generate": _generate, "recommend": _recommend, "prepare": _prepare}
    handlers |= {"list": _list, "table": _table, "report": _report, "doctor": _doctor}
    return handlers[verb](options, rest)


def _run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from recbole_llm.bench.cell import CellRunner
    from recbole_llm.bench.progress import Bars
    from recbole_llm.bench.runner import expand, run_cells
    from recbole_llm.bench.store import ResultStore
    from recbole_llm.bench.tables import render
    from recbole_llm.settings import parse_assignment

    overrides = _overrides(rest)
    if options.results_dir:
        overrides["results_dir"] = options.results_dir
    seeds = parse_assignment(f"seeds={options.seeds}")[1] if options.seeds else None
    cells = expand(
        options.model or "",
        options.dataset or "",
        options.protocol,
        seeds,
        options.semantics,
        options.config_file,
        overrides,
    )
    store = ResultStore(cells[0].settings["results_dir"])
    with _executor(options) as executor:
        records = run_cells(cells, CellRunner(store, Bars(not options.quiet), options.force), executor)
    print(render(records, store=store))
    if not options.quiet:
        print(f"\nrecords: {store.folder}/ ({len(records)} of this command)")
    return 1 if any(record.status == "failed" for record in records) else 0


def _tune(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from recbole_llm.bench.search import summary, tune
    from recbole_llm.bench.store import ResultStore
    from recbole_llm.bench.tables import render
    from recbole_llm.settings import parse_assignment

    chosen = vars(options).copy()
    report, _, files = chosen.pop("report"), chosen.pop("verbose"), chosen.pop("config_file")
    chosen["seeds"] = parse_assignment(f"seeds={options.seeds}")[1] if options.seeds else None
    chosen |= {"model": options.model or "", "dataset": options.dataset or "", "config_files": files}
    records, studies = tune(**chosen, **_overrides(rest))
    print(summary(studies), end="\n\n")
    results = studies[0].cell.settings["results_dir"]
    print(render(records, store=ResultStore(results)))
    if report is not None:
        from recbole_llm.bench.search_report import write_search_report

        path = Path(report or Path(results) / "search.html")
        print(f"\nreport: {write_search_report(studies, path)}")
    return 1 if any(record.status == "failed" for record in records) else 0


def _generate(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from recbole_llm.bench import generate
    from recbole_llm.bench.cell import CellRunner
    from recbole_llm.bench.progress import Bars
    from recbole_llm.bench.runner import expand
    from recbole_llm.bench.store import ResultStore
    from recbole_llm.semantics.answering import Asking

    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit={options.limit}: give 1 or more.")
    overrides = _overrides(rest)
    if options.results_dir:
        overrides["results_dir"] = options.results_dir
    cells = expand(
        options.model or "", options.dataset or "", options.protocol, None, None, options.config_file, overrides
    )
    runner = CellRunner(ResultStore(cells[0].settings["results_dir"]), Bars(not options.quiet))
    if options.take_in:
        print(f"{options.take_in}: {generate.take_in(cells, options.take_in)}")
    elif options.export:
        print(f"{options.export}: {generate.export(cells, options.export)} answers")
    elif options.dry_run:
        print(generate.render_plan(generate.plan(cells, runner, options.limit)))
    elif options.batch_file:
        count = generate.batch_file(cells, runner, options.batch_file, options.limit)
        print(f"{options.batch_file}: {count} requests; give their answers to generate --import=FILE")
    elif options.batch:
        print(generate.render_made(generate.run_batches(cells, runner, options.poll, options.limit)))
    else:
        asking = Asking.of(cells[0].settings, options.limit)
        print(generate.render_made(generate.make(cells, runner, asking)))
    return 0


def _recommend(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from recbole_llm.bench.cell import CellRunner
    from recbole_llm.bench.progress import Bars
    from recbole_llm.bench.recommend import Recommender
    from recbole_llm.bench.runner import expand
    from recbole_llm.bench.store import ResultStore
    from recbole_llm.files import whole_file

    if options.topk < 1:
        raise UserError(f"--topk={options.topk}: give 1 or more.")
    overrides = _overrides(rest)
    if options.results_dir:
        overrides["results_dir"] = options.results_dir
    cells = expand(
        options.model, options.dataset, options.protocol, None, options.semantics, options.config_file, overrides
    )
    if len(cells) != 1:
        raise UserError("recommend takes one model and one dataset.")
    cell = cells[0]
    runner = CellRunner(ResultStore(cell.settings["results_dir"]), Bars(not options.quiet))
    recommender = Recommender.trained(
        cell, runner, mask_history=bool(cell.settings["mask_history"]), history=options.history
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
    """``--users``: ``all``, a file with one name a line, or names with commas between them."""
    if text == "all":
        return [str(user) for user in recommender.prepared.dataset.table.user_tokens[1:]]
    if Path(text).is_file():
        return Path(text).read_text(encoding="utf-8").split()
    return [user.strip() for user in text.split(",") if user.strip()]


def _prepare(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from recbole_llm.data.raw.prepare import prepare
    from recbole_llm.data.raw.report import render_report

    report = prepare(options.dataset, options.raw, options.dataset_dir, options.force, options.kcore)
    print(render_report(report))
    for difference in report.differences():
        print(f"warning: {difference}", file=sys.stderr)
    return 0


def _list(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from recbole_llm.data.catalog import known_datasets
    from recbole_llm.registry import METHODS, recbole_methods
    from recbole_llm.settings import properties_folder, property_names, read_yaml

    if options.stats:
        if options.what not in (None, "datasets"):
            raise UserError(f"--stats is for datasets, not for {options.what}.")
        return _list_statistics(options)
    if options.what in (None, "models"):
        print("models of recbole_llm:")
        for name, row in METHODS.items():
            print(f"  {name:<14} {row.kind:<11} {row.paper}")
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
    from recbole_llm.bench.store import ResultStore

    store = ResultStore(options.results_dir or "results")
    chosen = [
        record
        for record in store
        if (not options.model or record.model in options.model.split(","))
        and (not options.dataset or record.dataset in options.dataset.split(","))
        and (not options.protocol or record.protocol in options.protocol.split(","))
    ]
    if not chosen:
        raise UserError(f"{store.folder}/ holds no such results yet; run something first.")
    return store, chosen


def _cut_offs(text: str | None) -> list[int] | None:
    """``--topk``: ``5,10``, or ``all`` that the records have."""
    if text is None or text == "all":
        return None if text is None else []
    words = text.strip("[]").split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise UserError(f"--topk={text}: give cut-offs such as 5,10, or all.")
    return [int(word) for word in words]


def _table(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from recbole_llm.bench.tables import render, render_check
    from recbole_llm.evaluation.names import metric_title, parse_metric
    from recbole_llm.files import whole_file

    metrics = options.metrics.split(",") if options.metrics else None
    for name in metrics or ():
        parse_metric(name if "@" in name or metric_title(name) == "GAUC" else f"{name}@10")
    topk = _cut_offs(options.topk)
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


def _report(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from recbole_llm.bench.report import write_report

    store, chosen = _chosen(options)
    path = Path(options.output or store.folder / "report.html")
    write_report(chosen, store, path, options.baseline)
    print(path)
    return 0


def _doctor(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from recbole_llm.bench.doctor import examine

    if options.leaks:
        from recbole_llm.bench.leaks import examine_leaks

        if not options.dataset:
            raise UserError("doctor --leaks looks at one dataset: give --dataset=NAME.")
        findings = examine_leaks(options.dataset, options.data_path, options.dataset_dir)
    else:
        findings = examine(Path(options.dataset_dir), Path(options.results_dir or "results"))
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'FAIL' if finding.fatal else 'note'} {finding.text}")
    return 1 if any(finding.fatal and not finding.good for finding in findings) else 0
