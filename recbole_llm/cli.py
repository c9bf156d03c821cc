"""The command line: the functions of ``api.py`` as verbs, with messages and exit codes.

Options, types and help come from the functions' signatures. Options may be spelt with ``-`` and with ``_``. A word that
is no option of a verb is a setting (``--key=value``) where the verb takes settings. The functions import what is heavy,
and so do the printers here, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from tabulate import tabulate

import recbole_llm
from recbole_llm import api
from recbole_llm.errors import FAILURES, NoRoomError, UserError, did_you_mean
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.suite import Stage
from recbole_llm.llm.endpoint import redact
from recbole_llm.reporting.rendered import screen_style
from recbole_llm.settings.core import CoreSettings
from recbole_llm.settings.layers import parse_assignment
from recbole_llm.utils.files import NO_ROOM, whole_file
from recbole_llm.utils.progress import TqdmHandler
from recbole_llm.utils.text import visible

SPELT = {"export_to": "export", "import_from": "import"}  # import is a word of Python's
POSITIONAL = {
    "answers": "action",
    "board": "folder",
    "list": "what",
    "prepare": "dataset",
    "submit": "folder",
    "suite": "name",
}
DRY_RUN = "Say what it will take, from a few measured steps; run nothing."
SEVERAL = "config_file"  # may be given several times
OPTIONAL_VALUE = "report"  # of tune: --report alone takes the usual name
FLAGS = ("refit",)  # settings that may be given without a value
HEADER = "user_id\trank\titem_id\tscore\n"
EXAMPLES = """\b
recbole-llm --model=LLMDMsRec --dataset=ml-100k                   train, test, show the table (the verb is run)
recbole-llm run --model=Pop,SASRec --dataset=ml-100k --seeds=5    only what is missing is run
recbole-llm generate --model=EIMF --dataset=ml-100k --llm=openai --dry-run
recbole-llm tune --model=GRU4Rec,LLMDMsRec --dataset=ml-100k --trials=20
recbole-llm estimate --model=SASRec,EIMF --dataset=ml-100k --seeds=5   seconds, memory, requests and dollars beforehand
recbole-llm list settings --model=EIMF                            every setting, what it takes and does
"""


# ---- what the verbs print -------------------------------------------------------------------------


def _show_run(records: Any, given: dict[str, Any]) -> int:
    from recbole_llm.reporting.tables import render

    store = ResultStore(api.results_folder(given))
    print(render(records, screen_style(), store=store, **_shown_columns(given)))
    if not given.get("quiet"):
        print(visible(f"\nrecords: {store.folder}/ ({len(records)} of this command)"))
        if given.get("preset"):
            print(f"settings: --preset={given['preset']} (properties/preset/)")
    return _code_of(records)


def _shown_columns(given: dict[str, Any]) -> dict[str, Any]:
    """Columns that a command names as settings: they are those of its table too."""
    metrics, topk = api.names_of(given.get("metrics")), given.get("topk")
    cut_offs = None if topk is None else [int(k) for k in api.names_of(str(topk))]
    return {"metrics": metrics or None, "topk": cut_offs}


def _code_of(records: Any) -> int:
    """0, 1 where something failed, 2 where nothing came of any run, as of a lone one."""
    failed = [record.status == "failed" for record in records]
    return 2 if failed and all(failed) else int(any(failed))


def _show_tune(found: api.Tuned, given: dict[str, Any]) -> int:
    from recbole_llm.reporting.tables import render
    from recbole_llm.tuning.search import summary

    print(visible(summary(found.studies)), end="\n\n")
    store = ResultStore(api.results_folder(given))
    print(render(found.records, screen_style(), store=store, **_shown_columns(given)))
    if found.report is not None:
        print(visible(f"\nreport: {found.report}"))
    return _code_of(found.records)


def _show_text(found: Any, given: dict[str, Any]) -> int:
    print(visible(str(found)))
    return 0


def _show_advise(found: Any, given: dict[str, Any]) -> int:
    from recbole_llm.experiments.advise import render_advice

    print(visible(render_advice(found)))
    return 0


def _show_probe(records: Any, given: dict[str, Any]) -> int:
    from recbole_llm.experiments.probe import render_probes

    print(visible(render_probes(records)))
    if not given.get("quiet"):
        store = ResultStore(api.results_folder(given))
        print(visible("\n" + "\n".join(f"record: {store.probe_path(record)}" for record in records)))
    return 0


def _show_table(text: str, given: dict[str, Any]) -> int:
    if not given.get("output"):
        style = screen_style() if given.get("format") in (None, "text") else given["format"]
        print(text if style == "terminal" else visible(text))  # its colours are escapes
    if not given.get("check_reference"):
        return 0
    chosen = {key: given.get(key) for key in ("model", "dataset", "protocol")}
    return 1 if api.out_of_band(results_dir=given.get("results_dir"), **chosen) else 0


def _show_recommend(lists: Any, given: dict[str, Any]) -> int:
    lines = (
        f"{each.user}\t{place}\t{item}\t{score:.6g}\n"
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
    """A line of a table for a terminal, whose tabs stay."""
    return "\t".join(map(visible, line.split("\t")))


def _show_prepare(report: Any, given: dict[str, Any]) -> int:
    from recbole_llm.raw.prepare import render_report

    print(visible(render_report(report)))
    for difference in report.differences():
        print(visible(f"warning: {difference}"), file=sys.stderr)
    return 0


def _show_list(found: Any, given: dict[str, Any]) -> int:
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


def _show_doctor(findings: Any, given: dict[str, Any]) -> int:
    for finding in findings:
        mark = "ok  " if finding.good else "FAIL" if finding.fatal else "note"
        print(visible(f"{mark} {finding.text}"))
    return 1 if any(finding.fatal and not finding.good for finding in findings) else 0


def _show_estimate(found: Any, given: dict[str, Any]) -> int:
    from recbole_llm.experiments.estimate import render_estimate

    print(visible(render_estimate(found)))
    return 0


def _show_suite(results: Any, given: dict[str, Any]) -> int:
    """Print each command, then what it gave; in a dry run all commands, then what they will take."""
    code = 0
    for result in results:
        stage: Stage = result.stage
        if result.error is not None:
            code = _told(result.error, bool(given.get("verbose")))
        elif result.value is None:
            print(visible(f"[{result.place}] recbole-llm {redact(shlex.join(stage.words))}"), flush=True)
        else:
            code = max(code, VERBS[stage.verb].show(result.value, {**stage.keys, "quiet": given.get("quiet")}))
    if given.get("dry_run"):
        asked = {key: value for key, value in given.items() if key not in ("dry_run", "quiet", "verbose")}
        print()
        return _show_estimate(api.estimate_suite(**asked), given)
    return code


# ---- verbs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        function: of the API.
        show: prints what it gave; returns the exit code.
        output: takes ``--output``, which the function has not.
        estimated: takes ``--dry_run``, which shows an estimate instead.
    """

    function: Callable[..., Any]
    show: Callable[[Any, dict[str, Any]], int]
    output: bool = False
    estimated: bool = False


VERBS: dict[str, Verb] = {
    "run": Verb(api.run, _show_run, estimated=True),
    "tune": Verb(api.tune, _show_tune, estimated=True),
    "estimate": Verb(api.estimate, _show_estimate),
    "generate": Verb(api.generate, _show_text),
    "advise": Verb(api.advise, _show_advise),
    "probe": Verb(api.probe, _show_probe),
    "answers": Verb(api.answers, _show_text),
    "suite": Verb(api.suite, _show_suite),
    "recommend": Verb(api.recommend, _show_recommend, output=True),
    "prepare": Verb(api.prepare, _show_prepare),
    "list": Verb(api.list_, _show_list),
    "table": Verb(api.table, _show_table),
    "report": Verb(api.report, _show_text),
    "submit": Verb(api.submit, _show_text),
    "board": Verb(api.board, _show_text),
    "doctor": Verb(api.doctor, _show_doctor),
}
SETTINGS = [
    name for name, verb in VERBS.items()
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(verb.function).parameters.values())
]  # fmt: skip


def _typed(annotation: Any) -> tuple[Any, str]:
    """A parameter's type as the command line takes it, and its help."""
    doc = (
        next((item.documentation for item in get_args(annotation)[1:]), "")
        if get_origin(annotation) is Annotated
        else ""
    )
    kinds = [annotation, *get_args(annotation)]
    flat = {part for kind in kinds for part in (kind, *get_args(kind))}
    for kind in (bool, int, float):
        if kind in flat:
            return (kind if kind is bool else kind | None), doc
    return str | None, doc


def _parameters(name: str, verb: Verb) -> list[inspect.Parameter]:
    """The options of a verb."""
    found = []
    for parameter in inspect.signature(verb.function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD or parameter.name == "quiet":
            continue
        kind, doc = _typed(parameter.annotation)
        default = parameter.default if parameter.default not in (parameter.empty, "", ()) else None
        if parameter.name == POSITIONAL.get(name):
            info: Any = typer.Argument(help=doc, metavar=parameter.name.upper())
        elif parameter.name == SEVERAL:
            kind, default, info = list[str], [], typer.Option(f"--{SEVERAL}", help=doc, metavar="FILE")
        else:
            spelt = SPELT.get(parameter.name, parameter.name)
            info = typer.Option(f"--{spelt}", help=doc, autocompletion=_completions(parameter.name))
        found.append(_parameter(parameter.name, kind, default if kind is not bool else bool(default), info))
    if verb.output:
        found.append(_parameter("output", str | None, None, typer.Option("--output", help="File that is written.")))
    if verb.estimated:
        found.append(_parameter("dry_run", bool, False, typer.Option("--dry_run", help=DRY_RUN)))
    for flag, doc in (("quiet", "Show no progress."), ("verbose", "Show where an error came from.")):
        found.append(_parameter(flag, bool, False, typer.Option(f"--{flag}", help=doc)))
    return found


def _parameter(name: str, kind: Any, default: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _completions(name: str) -> Callable[[str], list[str]] | None:
    """Words that the shell may complete."""

    def words() -> list[str]:
        found = api.list_()
        return {
            "model": [*found.models, *(model for names in found.recbole.values() for model in names)],
            "dataset": [*found.datasets],
            "protocol": [*found.protocols],
        }[name]

    if name not in ("model", "dataset", "protocol"):
        return None
    return lambda incomplete: [word for word in words() if word.startswith(incomplete)]


def _command(name: str, verb: Verb) -> Callable[..., int]:
    """A verb as Typer takes it."""
    parameters = _parameters(name, verb)

    def command(ctx: typer.Context, **given: Any) -> int:
        _set_up_logging(given["quiet"], given["verbose"])
        takes = inspect.signature(verb.function).parameters
        given |= _settings(ctx.args)
        own = {"verbose", "quiet", "output"} - takes.keys()  # of the command line alone
        arguments = {key: value for key, value in given.items() if key not in own}
        if isinstance(given.get("seeds"), str):
            arguments["seeds"] = parse_assignment(f"seeds={given['seeds']}")[1] if given["seeds"].strip() else []
        defaults = {key: p.default for key, p in takes.items() if p.default is not p.empty}
        arguments = {k: defaults[k] if v is None and k in defaults else v for k, v in arguments.items()}
        if arguments.get("format") == "text" and not given.get("output"):
            arguments["format"] = screen_style()
        if verb.estimated and arguments.pop("dry_run"):
            wanted = inspect.signature(api.estimate).parameters
            arguments = {key: value for key, value in arguments.items() if key in wanted or key not in takes}
            return _show_estimate(api.estimate(**arguments), given)
        return verb.show(verb.function(**arguments), given)

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (context, *parameters)}
    command.__name__ = name
    command.__doc__ = (inspect.getdoc(verb.function) or "").partition("\n")[0]
    return command


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """``--key=value`` words to settings.

    Raises:
        UserError: a word is written otherwise.
    """
    found: dict[str, Any] = {}
    for word in words:
        if not word.startswith("--") or "=" not in word:
            raise UserError(f"{word!r}: settings are written --key=value.")
        key, value = parse_assignment(word[2:])
        found[key] = value
    return found


HELP = {"help_option_names": ["-h", "--help"]}


def _application() -> typer.Typer:
    app = typer.Typer(
        name="recbole-llm", add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
        help="Does an LLM-enhanced recommender beat a well-tuned ordinary one, by how much, and at what cost?",
        epilog=EXAMPLES, context_settings=HELP,
    )  # fmt: skip
    for name, verb in VERBS.items():
        open_ended = name in SETTINGS
        context = {"allow_extra_args": open_ended, "ignore_unknown_options": open_ended, **HELP}
        epilog = SETTINGS_HELP if open_ended else None
        app.command(name, context_settings=context, epilog=epilog)(_command(name, verb))
    return app


SETTINGS_HELP = "\b\nSettings of every run, as --key=value (--MODEL.key=value for one model of several):\n" + "\n".join(
    f"  --{name:<29} {field.description}" for name, field in CoreSettings.model_fields.items()
)


# ---- words ----------------------------------------------------------------------------------------


def _canonical(words: Sequence[str]) -> list[str]:
    """Words with their options spelt by ``_``.

    Raises:
        UserError: an option is given twice with different values; the last one alone would count.
    """
    found: list[str] = []
    values: dict[str, str] = {}
    for word in words:
        if not word.startswith("--") or word == "--":
            found.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_") if not name.startswith(("install", "show_c", "show-c")) else name
        if name == OPTIONAL_VALUE and not equals and "tune" in words[:1]:
            equals = "="
        if name in FLAGS and not equals and words[0] not in ("table", "report"):
            equals, value = "=", "True"
        if equals and name != SEVERAL and values.setdefault(name, value) != value:
            raise UserError(f"--{name} is given twice with different values.")
        found.append(f"--{name}{equals}{value}")
    return found


def _with_verb(words: Sequence[str]) -> list[str]:
    """The words with their verb; ``run`` where the first word is an option.

    Raises:
        UserError: there is no such verb.
    """
    if not words:
        return ["--help"]
    if words[0] == "help":
        return [*words[1:2], "--help"]
    if words[0].startswith("-"):
        general = ("-h", "--help", "--install-completion", "--show-completion")
        return list(words) if words[0] in general else ["run", *words]
    if words[0] not in VERBS:
        raise UserError(f"there is no verb {words[0]!r}.{did_you_mean(words[0], VERBS)} Known: {', '.join(VERBS)}.")
    return list(words)


def _set_up_logging(quiet: bool, verbose: bool) -> None:
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
    """Run one command; returns 0 (fine), 1 (some failed), 2 (a user's error, or every run failed), 130 (Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.argv[1:] = []  # nobody else reads the command line
    try:
        if arguments[:1] in (["--version"], ["-V"]):
            print(recbole_llm.__version__)
            return 0
        code = _application()(_with_verb(_canonical(arguments)), standalone_mode=False, prog_name="recbole-llm")
        if code == 130:
            raise KeyboardInterrupt  # Typer makes an exit code of it
        sys.stdout.flush()  # a reader that went away is noticed here, not when Python ends
        return int(code or 0)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped; finished results and checkpoints are kept, the same command goes on.", file=sys.stderr)
        return 130
    except (BrokenPipeError, SystemExit):  # the reader of the output went away; Typer then leaves the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _told(error, "--verbose" in arguments)


def _told(error: Exception, verbose: bool) -> int:
    """Say what a user or a model did wrong in a line, with ``--verbose`` where a model did; returns the exit code.

    Anything else is a defect of this program and passes through.
    """
    if isinstance(error, (UserError, NoRoomError)):
        print(visible(f"error: {error}"), file=sys.stderr)  # messages hold names and titles from files
    elif hasattr(error, "format_message"):  # Typer's: a word that is no number, a value that is missing
        print(visible(f"error: {error.format_message().rstrip('.')}. See recbole-llm --help."), file=sys.stderr)
    elif isinstance(error, FAILURES):
        if verbose:
            traceback.print_exception(error)
        print(visible(f"error: {type(error).__name__}: {' '.join(str(error).split())}"), file=sys.stderr)
        if not verbose:
            print("The same command with --verbose shows where it came from.", file=sys.stderr)
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        print(visible(f"error: {NoRoomError(error.filename or 'a file', error.strerror)}"), file=sys.stderr)
    else:
        raise error
    return 2
