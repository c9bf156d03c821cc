"""The command line: verbs, messages, exit codes."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import recbole_llm
from recbole_llm.commands import VERBS, check, overrides_of
from recbole_llm.errors import UserError, did_you_mean

USAGE = """\
recbole-llm [run] --model=NAME[,NAME...] --dataset=NAME [--key=value ...]   train, test, show the table
recbole-llm tune --model=NAME[,NAME...] --dataset=NAME [--trials=50]        search settings, then run the best
recbole-llm generate --model=NAME --dataset=NAME --llm=NAME [--dry-run]    make (or price) the LLM's features alone
recbole-llm suite NAME [--budget=NAME] [--dry-run] [--key=value ...]        a list of commands, such as flagship
recbole-llm recommend --model=NAME --dataset=NAME --users=U1,U2 [--topk=10]   lists from a model that was run
recbole-llm prepare NAME [--raw=FOLDER] [--kcore=5] [--force]               raw files to a dataset's atomic files
recbole-llm list [models|datasets|protocols|suites] [--stats]               what there is
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


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of the machine: neither a mistake nor a defect


class _Once(argparse.Action):
    """Keeps a value; of two that differ argparse would keep the last one, and ``--model=A --model=B`` run B alone."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        if getattr(namespace, self.dest, self.default) not in (self.default, values):
            raise UserError(f"{option} is given twice with different values.")
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Errors as ``UserError``, so that all messages look alike; options may be spelt with ``-`` and with ``_``."""

    def add_argument(self, *names: str, **kwargs: Any) -> Any:
        kwargs.setdefault("action", _Once)
        options = [name[2:] for name in names if name.startswith("--")]
        spelt = [f"--{form}" for name in options for form in (name.replace("_", "-"), name.replace("-", "_"))]
        return super().add_argument(*dict.fromkeys([*names, *spelt]), **kwargs)

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
    elif verb == "suite":
        parser.add_argument("name")
        parser.add_argument("--budget", default="full")
        parser.add_argument("--dataset")
        parser.add_argument("--dry-run", action="store_true")
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
        parser.add_argument("what", nargs="?", choices=("models", "datasets", "protocols", "suites"))
        parser.add_argument("--stats", action="store_true")
        parser.add_argument("--data_path")
        parser.add_argument("--dataset_dir", default="dataset")
    elif verb in ("table", "report"):
        parser.add_argument("--model")
        parser.add_argument("--dataset")
        parser.add_argument("--protocol")
        parser.add_argument("--baseline")
        parser.add_argument("--correction", default="holm", help="holm, or fdr: the false discovery rate")
        parser.add_argument("--margin", type=float, help="differences smaller than this count as none")
        parser.add_argument("--output")
    if verb == "table":
        parser.add_argument("--metrics")
        parser.add_argument("--topk")
        parser.add_argument("--sort", help="a metric, model or kind")
        parser.add_argument("--groups", action="store_true")
        parser.add_argument("--check-reference", action="store_true")
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


def _split_verb(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The verb and the rest; ``run`` where the first word is an option."""
    if not arguments or arguments[0].startswith("-"):
        return "run", list(arguments)
    known = (*VERBS, "suite")
    if arguments[0] not in known:
        raise UserError(
            f"there is no verb {arguments[0]!r}.{did_you_mean(arguments[0], known)} Known: {', '.join(known)}."
        )
    return arguments[0], list(arguments[1:])


def _set_up_logging(quiet: bool, verbose: bool) -> None:
    from recbole_llm.utils.progress import TqdmHandler

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
    """Run one command; returns 0 (fine), 1 (something failed), 2 (a user's error or a lone model's), 130 (Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.argv[1:] = []  # nobody else reads the command line
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # a reader that went away is noticed here, not when Python ends
        return code
    except KeyboardInterrupt:
        print("stopped; finished results and checkpoints are kept, the same command goes on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _told(error, "--verbose" in arguments)


def _told(error: Exception, verbose: bool) -> int:
    """Say what a user or a model did wrong in a line, with ``--verbose`` where a model did; returns the exit code.

    Anything else is a defect of this program and passes through.
    """
    from recbole_llm.execution.executors import FAILURES

    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif isinstance(error, FAILURES):
        if verbose:
            traceback.print_exception(error)
        print(f"error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        if not verbose:
            print("The same command with --verbose shows where it came from.", file=sys.stderr)
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        name = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror}{name}; what is finished is kept, the same command goes on.", file=sys.stderr)
    else:
        raise error
    return 2


def _dispatch(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(recbole_llm.__version__)
        return 0
    verb, words = _split_verb(arguments)
    if not arguments or {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    options, rest = _parse(verb, words)
    _set_up_logging(options.quiet, options.verbose)
    if verb == "suite":
        return _suite(options, rest)
    return VERBS[verb](options, rest)


def _parse(verb: str, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    options, rest = _parser(verb).parse_known_args(words)
    if rest and verb not in ("run", "tune", "generate", "recommend", "suite"):
        raise UserError(f"recbole-llm {verb} has no option {rest[0]!r}.")
    return options, rest


def _suite(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run the commands of a suite one after the other; one that fails does not keep the others from running.

    All of them are looked through first, so that a mistake in the last one costs no hours.
    """
    from recbole_llm.experiments.suite import read_suite
    from recbole_llm.llm.endpoint import redact

    given = overrides_of(rest)
    given |= {key: value for key in ("dataset", "results_dir") if (value := getattr(options, key))}
    stages = read_suite(options.name, options.budget, given)
    parsed = [_parse(stage.verb, stage.words[1:]) for stage in stages]
    for stage, (chosen, own) in zip(stages, parsed, strict=True):
        check(stage.verb, chosen, own)
    code = 0
    for number, (stage, (chosen, own)) in enumerate(zip(stages, parsed, strict=True), start=1):
        print(f"[{number}/{len(stages)}] recbole-llm {redact(shlex.join(stage.words))}", flush=True)
        if options.dry_run:
            continue
        chosen.quiet, chosen.verbose = options.quiet, options.verbose
        try:
            code = max(code, VERBS[stage.verb](chosen, own))
        except Exception as error:
            code = _told(error, options.verbose)
    return code
