"""The command line: the functions of ``api.py`` as verbs, with messages and exit codes; ``screen.py`` prints results.

Options, types and help come from the functions' signatures. Options may be spelt with ``-`` or ``_``. If a verb takes
settings, ``--key=value`` words that are not its options are settings. The functions import heavy packages where they
use them, so that help and error messages appear at once.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import typer

import recbole_llm
from recbole_llm import api, screen
from recbole_llm.errors import NoRoomError, UserError, check_known
from recbole_llm.experiments.suite import Stage
from recbole_llm.llm.address import redact
from recbole_llm.settings.core import CoreSettings
from recbole_llm.settings.layers import parse_assignment
from recbole_llm.utils.files import NO_ROOM
from recbole_llm.utils.progress import TqdmHandler
from recbole_llm.utils.text import one_line, visible

SPELT = {"export_to": "export", "import_from": "import"}  # import is a Python keyword
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
EXAMPLES = """\b
recbole-llm --model=LLMDMsRec --dataset=ml-100k                   train, test, show the table (the verb is run)
recbole-llm run --model=Pop,SASRec --dataset=ml-100k --seeds=5    only what is missing is run
recbole-llm generate --model=EIMF --dataset=ml-100k --llm=openai --dry-run
recbole-llm tune --model=GRU4Rec,LLMDMsRec --dataset=ml-100k --trials=20
recbole-llm estimate --model=SASRec,EIMF --dataset=ml-100k --seeds=5   seconds, memory, requests and dollars beforehand
recbole-llm list settings --model=EIMF                            every setting, what it takes and does
"""


def _show_suite(results: Any, given: dict[str, Any]) -> int:
    """Print each command, then its result; in a dry run all commands, then their estimate."""
    code = 0
    for result in results:
        stage: Stage = result.stage
        if result.error is not None:
            code = _report(result.error, bool(given.get("verbose")))
        elif result.value is None:
            print(visible(f"[{result.place}] recbole-llm {redact(shlex.join(stage.words))}"), flush=True)
        else:
            code = max(code, VERBS[stage.verb].show(result.value, {**stage.keys, "quiet": given.get("quiet")}))
    if given.get("dry_run"):
        asked = {key: value for key, value in given.items() if key not in ("dry_run", "quiet", "verbose")}
        print()
        return screen.show_estimate(api.estimate_suite(**asked), given)
    return code


# ---- verbs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        function: its function of the API.
        show: prints the function's result; returns the exit code.
        output: whether it takes ``--output``, which the function does not have.
        estimated: whether it takes ``--dry_run``, which shows an estimate instead.
    """

    function: Callable[..., Any]
    show: Callable[[Any, dict[str, Any]], int]
    output: bool = False
    estimated: bool = False


VERBS: dict[str, Verb] = {
    "run": Verb(api.run, screen.show_run, estimated=True),
    "tune": Verb(api.tune, screen.show_tune, estimated=True),
    "estimate": Verb(api.estimate, screen.show_estimate),
    "generate": Verb(api.generate, screen.show_text),
    "advise": Verb(api.advise, screen.show_advise),
    "probe": Verb(api.probe, screen.show_probe),
    "answers": Verb(api.answers, screen.show_text),
    "suite": Verb(api.suite, _show_suite),
    "recommend": Verb(api.recommend, screen.show_recommend, output=True),
    "prepare": Verb(api.prepare, screen.show_prepare),
    "list": Verb(api.list_, screen.show_list),
    "table": Verb(api.table, screen.show_table),
    "report": Verb(api.report, screen.show_text),
    "submit": Verb(api.submit, screen.show_text),
    "board": Verb(api.board, screen.show_text),
    "doctor": Verb(api.doctor, screen.show_doctor),
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
            default = parameter.empty if parameter.default is parameter.empty else default  # else None would reach it
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
    """A function that completes an option's value in the shell; ``None`` if there is nothing to complete from."""

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
    """A verb as a command function for Typer."""
    parameters = _parameters(name, verb)

    def command(ctx: typer.Context, **given: Any) -> int:
        _set_up_logging(given["quiet"], given["verbose"])
        takes = inspect.signature(verb.function).parameters
        given |= _settings(ctx.args)
        own = {"verbose", "quiet", "output"} - takes.keys()  # options that only the command line has
        arguments = {key: value for key, value in given.items() if key not in own}
        if isinstance(given.get("seeds"), str):
            arguments["seeds"] = parse_assignment(f"seeds={given['seeds']}")[1] if given["seeds"].strip() else []
        defaults = {key: p.default for key, p in takes.items() if p.default is not p.empty}
        arguments = {k: defaults[k] if v is None and k in defaults else v for k, v in arguments.items()}
        if arguments.get("format") == "text" and not given.get("output"):
            arguments["format"] = screen.screen_style()
        if verb.estimated and arguments.pop("dry_run"):
            wanted = inspect.signature(api.estimate).parameters
            arguments = {key: value for key, value in arguments.items() if key in wanted or key not in takes}
            return screen.show_estimate(api.estimate(**arguments), given)
        return verb.show(verb.function(**arguments), given)

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (context, *parameters)}
    command.__name__ = name
    command.__doc__ = (inspect.getdoc(verb.function) or "").partition("\n")[0]
    return command


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """The settings that ``--key=value`` words give.

    Raises:
        UserError: a word has another form.
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
    """The words, with options spelt with ``_``.

    Raises:
        UserError: an option is given twice with different values, of which only the last would count, or a name has
            one hyphen: Typer would read its letters as options of one letter (-epochs=3 as -h).
    """
    found: list[str] = []
    values: dict[str, str] = {}
    for word in words:
        if re.match(r"-[A-Za-z]\w", word):
            raise UserError(f"{word}: options begin with two hyphens: -{word}.")
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
    check_known(f"there is no verb {words[0]!r}", words[0], VERBS)
    return list(words)


def _set_up_logging(quiet: bool, verbose: bool) -> None:
    root = logging.getLogger()
    root.handlers[:] = [TqdmHandler()]
    root.setLevel(logging.WARNING)
    logging.getLogger("recbole_llm").setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    root.handlers[0].setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if not verbose:
        # Warnings of other packages (deprecations in RecBole, sparse CSR in beta) do not help a user.
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 (fine), 1 (some failed), 2 (a user's error, or every run failed), 130 (Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.argv[1:] = []  # RecBole would read these too
    try:
        if arguments[:1] in (["--version"], ["-V"]):
            print(recbole_llm.__version__)
            return 0
        code = _application()(_with_verb(_canonical(arguments)), standalone_mode=False, prog_name="recbole-llm")
        if code == 130:
            raise KeyboardInterrupt  # Typer turned it into an exit code
        sys.stdout.flush()  # a closed pipe raises here, not when Python exits
        return int(code or 0)
    except (KeyboardInterrupt, typer.Abort):
        print(
            "stopped; finished results and checkpoints are kept: run the same command again to continue.",
            file=sys.stderr,
        )
        return 130
    except (BrokenPipeError, SystemExit) as error:  # the reader closed the pipe; Typer answers that with SystemExit
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            return _report(RuntimeError(f"exit({error.code}) was called"), "--verbose" in arguments)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _report(error, "--verbose" in arguments)


def _report(error: Exception, verbose: bool) -> int:
    """Print an error on one line and return the exit code; ``--verbose`` adds the traceback of one that is not ours."""
    if isinstance(error, (UserError, NoRoomError)):
        print(visible(f"error: {error}"), file=sys.stderr)  # messages hold names and titles from files
    elif hasattr(error, "format_message"):  # Typer's errors, such as a bad number or a missing value
        print(visible(f"error: {error.format_message().rstrip('.')}. See recbole-llm --help."), file=sys.stderr)
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        print(visible(f"error: {NoRoomError(error.filename or 'a file', error.strerror)}"), file=sys.stderr)
    elif isinstance(error, PermissionError) and error.filename:
        message = f"error: {error.filename}: permission denied; it has to be readable and writable."
        print(visible(message), file=sys.stderr)
    else:
        if verbose:
            traceback.print_exception(error)
        print(visible(f"error: {type(error).__name__}: {one_line(error)}"), file=sys.stderr)
        if not verbose:
            print("The same command with --verbose shows where it came from.", file=sys.stderr)
    return 2
