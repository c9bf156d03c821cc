"""The reference pages of the site, each generated from the single definition of what it lists.

``make docs`` runs this file through mkdocs-gen-files. :func:`pages` gives the same text without mkdocs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import recbole_llm
from recbole_llm import cli
from recbole_llm.evaluation.names import LIST_METRICS, RANK_METRICS, UNCUT_METRICS, higher_is_better
from recbole_llm.experiments.record import DatasetFacts, MetricValue, Record, SemanticFacts
from recbole_llm.features.lookup import find_feature
from recbole_llm.listing import SettingEntry
from recbole_llm.registry import features, methods
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

ROLES = {
    "numbers": "changes results and tells two runs apart",
    "semantic": "changes how text features are made and tells runs apart whose model reads them",
    "loop": "changes our training loop and tells two runs apart",
    "machine": "changes where and how fast a run executes, never its result",
    "folder": "names a place on this machine and is not kept in records",
    "shown": "changes what is computed or shown from the ranks",
}
SEES = {
    "none": "items only",
    "prefix": "the history before the position asked about",
    "training": "the training segment",
}


def cell(value: Any) -> str:
    """Text as one cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell(each) for each in line) + " |" for line in lines) + "\n"


def command_line() -> str:
    """Every verb with its options, from the Typer application."""
    parts = [
        "# Command line\n\nAfter this page you can look up every verb and option. `recbole-llm VERB --help` prints the "
        "same. Options may be written with `-` or `_`. Where a verb takes settings, write them as `--key=value` "
        "([settings](settings.md)).\n"
    ]
    for name, verb in cli.VERBS.items():
        rows = []
        for option in cli._parameters(name, verb):
            kind, info = get_args(option.annotation)
            first = str(info.default)  # where Typer keeps the first spelling of an option
            spelt = first if first.startswith("--") else option.name.upper()
            kind = next((each for each in get_args(kind) if each is not type(None)), kind)
            shown = "" if option.default in (None, False, []) else f"`{option.default}`"
            rows.append((f"`{spelt}`", "flag" if kind is bool else kind.__name__, shown, info.help or ""))
        about = (inspect.getdoc(verb.function) or "").partition("\n")[0]
        takes = " Takes settings as `--key=value`." if name in cli.SETTINGS else ""
        parts.append(f"## {name}\n\n{about}{takes}\n\n{table(('option', 'type', 'default', 'meaning'), rows)}")
    return "\n".join(parts)


def _settings_table(entries: Iterable[SettingEntry]) -> str:
    rows = [
        (f"`{each.name}`", each.takes + (f", {each.bounds}" if each.bounds else ""),
         f"`{json.dumps(each.default)}`", each.role, each.help)
        for each in entries
    ]  # fmt: skip
    return table(("setting", "takes", "default", "role", "meaning"), rows)


def settings() -> str:
    """The settings of every run, then those that each model adds, with the values of ``properties/``."""
    parts = [
        "# Settings\n\nAfter this page you can set anything as `--key=value`, in a YAML file or in Python. "
        "`recbole-llm list settings --model=NAME` prints the same. Defaults are those on ml-100k under `loo`.\n",
        table(("role", "what such a setting changes"), ROLES.items()),
        "## Every run\n\n" + _settings_table(recbole_llm.list("settings").settings),
    ]
    for name in (*methods(), "SASRec", "GRU4Rec"):
        own = [each for each in recbole_llm.list("settings", model=name).settings if each.of != "run"]
        if own:
            parts.append(f"## {name}\n\n{_settings_table(own)}")
    return "\n".join(parts)


def record() -> str:
    """The fields of a record and of its parts, from their pydantic classes."""
    parts = ["# Record\n\nAfter this page you can read any JSON file under `results/`. "
             "[Results folder](results.md) says where records lie and when a run is repeated.\n"]  # fmt: skip
    for model in (Record, DatasetFacts, SemanticFacts, MetricValue):
        about = (model.__doc__ or "").partition("\n")[0]
        rows = [
            (f"`{name}`", getattr(field.annotation, "__name__", None) if not getattr(field.annotation, "__args__", ())
             else str(field.annotation).replace("typing.", "").replace("recbole_llm.experiments.record.", ""),
             field.description or "")
            for name, field in model.model_fields.items()
        ]  # fmt: skip
        parts.append(f"## {model.__name__}\n\n{about}\n\n{table(('field', 'type', 'meaning'), rows)}")
    return "\n".join(parts)


def metrics() -> str:
    """Every metric, how it is computed and which way is better."""
    kinds = (
        (RANK_METRICS, "ranks", "any, after the run too"),
        (UNCUT_METRICS, "ranks", "none"),
        (LIST_METRICS, "shown lists", "those of the run"),
    )
    rows = [
        (title, source, cut, "higher" if higher_is_better(name) else "lower")
        for known, source, cut in kinds
        for name, title in known.items()
    ]
    head = ("# Metrics\n\nAfter this page you know which metrics a table can compute later. "
            "Definitions: [ranks, ties and metrics](../explanation/ties.md#metrics).\n\n")  # fmt: skip
    return head + table(("metric", "computed from", "cut-offs", "better"), rows)


def protocols() -> str:
    """Every file of ``properties/protocol/``."""
    parts = ["# Protocol files\n\nAfter this page you know what each `--protocol` sets. "
             "[Protocols](../explanation/protocols.md) explains the choices.\n"]  # fmt: skip
    for name in property_names("protocol"):
        values = read_yaml(properties_folder() / "protocol" / f"{name}.yaml")
        rows = [(f"`{key}`", f"`{json.dumps(value)}`") for key, value in values.items() if key != "about"]
        parts.append(f"## {name}\n\n{values.get('about', '')}\n\n{table(('setting', 'value'), rows)}")
    return "\n".join(parts)


def feature_files() -> str:
    """Every feature with its files, its prompts and the part of a user's history that it may see."""
    rows = []
    for name in features():
        found = find_feature(name)
        users = [model for model, row in methods().items() if name in row.features]
        sees = SEES[getattr(found, "visible", "none")]
        files = ", ".join(f"`.{each}`" for each in found.files)
        rows.append((f"`{name}`", files, ", ".join(found.prompts), sees, ", ".join(users)))
    head = ("# Feature files\n\nAfter this page you can find what an LLM said in "
            "`dataset/NAME/semantics/`. [LLM sources](llm.md) says how the files are made.\n\n")  # fmt: skip
    return head + table(("feature", "files", "prompts", "sees of a user", "read by"), rows)


def python() -> str:
    """The public names, documented by mkdocstrings from their docstrings."""
    homes = {name: recbole_llm._HOMES[name] for name in recbole_llm.__all__ if not name.startswith("__")}
    parts = ["# Python API\n\nAfter this page you can do from Python what the command line does. `import recbole_llm` "
             "has these names.\n\nCalls that train, ask or estimate leave the random generators of your process as "
             "they were, and run one after the other if several threads make them; `workers` runs several trainings at "
             "once. Progress is shown on a "
             "terminal alone: in a notebook, `logging.basicConfig(level=logging.INFO)` shows what is being done. "
             "Importing `recbole_llm` also repairs RecBole for today's numpy, pandas, scipy and torch. In RecBole code "
             "of your own, `Pop` then counts each interaction, and trainers write no TensorBoard logs.\n"]  # fmt: skip
    for name, home in homes.items():
        parts.append(f"## recbole_llm.{name}\n\n::: recbole_llm.{home}.{'list_' if name == 'list' else name}\n")
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "command_line": command_line,
    "settings": settings,
    "record": record,
    "metrics": metrics,
    "protocols": protocols,
    "features": feature_files,
    "python": python,
}


def pages() -> dict[str, str]:
    """The text of each generated page, by its path in the site."""
    return {f"reference/{name}.md": make() for name, make in PAGES.items()}


def write() -> None:
    """Write the pages into the site that is being built."""
    import mkdocs_gen_files  # in the docs extra

    for path, text in pages().items():
        with mkdocs_gen_files.open(path, "w") as stream:
            stream.write(text)


if __name__ == "<run_path>":  # the name under which mkdocs-gen-files runs a script
    write()
