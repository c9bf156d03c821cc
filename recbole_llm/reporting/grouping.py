"""Which records share a table, which of them are seeds of one row, and how the rows are named."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from recbole_llm.experiments.record import Record
from recbole_llm.registry import methods
from recbole_llm.settings.core import SEMANTICS
from recbole_llm.settings.definitions import Definitions, definitions_of_name
from recbole_llm.settings.differences import Variant, by_preset, differences, row_settings, text_of, with_files
from recbole_llm.settings.identity import BY_CONTENTS
from recbole_llm.utils.text import counted, percent, visible
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

# Settings that decide what a test case is, besides the protocol's name, the data and the masking.
_CASE_KEYS = (
    *("split", "sessions", "user_order", "candidates", "val_interval", "rm_dup_inter"),
    *("user_inter_num_interval", "item_inter_num_interval", "valid_from", "test_from", "targets"),
)
_ASK_NOTHING = ("itemtext", "candidates", "codes")  # features without requests; their coverage counts titles


class TableKey(NamedTuple):
    """What the rows of one table share.

    Attributes:
        dataset, protocol: their names.
        data: first digits of the hash of the interactions.
        masked: whether items of the history are left out of the ranking.
        cases: other settings that decide what a test case is, as JSON.
    """

    dataset: str
    protocol: str
    data: str
    masked: bool
    cases: str

    @property
    def case_settings(self) -> dict[str, Any]:
        """The settings behind ``cases``."""
        return dict(json.loads(self.cases))


@dataclass(frozen=True)
class RowName:
    """How a table names a row.

    Attributes:
        label: unique in its table; charts, notes and ``--baseline`` use it.
        model: the first column: the model, the settings by which its rows differ, and the share of questions that have
            an answer where it is below 100 %.
        semantics: source of the answers: an LLM's name, ``offline``, or the control's name; empty if none is read.
        language_model: the language model inside the method, with its size; empty if there is none.
        tuned: budget of the search that found the settings, ``yes`` if it is unknown; empty without a search.
    """

    label: str
    model: str
    semantics: str = ""
    language_model: str = ""
    tuned: str = ""


class Label(NamedTuple):
    """A row's label, read back.

    Attributes:
        head: the label before its settings, such as ``DUIP (text, no language model)``.
        listed: the settings in its brackets, as text.
        more: whether it also names what is no setting, such as a file's hash or a number of further differences.
    """

    head: str
    listed: Mapping[str, str]
    more: bool

    @classmethod
    def of(cls, text: str) -> Label:
        """The parts of a label such as ``ISRF (none) [graph_words=False]``."""
        head, _, rest = text.partition(" [")
        inside, _, ending = rest.rpartition("]")
        named = re.split(r", (?=[\w.]+[=#]|\+\d)", inside) if inside else []
        listed = dict(each.split("=", 1) for each in named if "=" in each)
        return cls(head, listed, len(listed) < len(named) or " #" in ending)

    @property
    def settings(self) -> dict[str, str]:
        """All settings that it tells, as text; ``no language model`` is one of them."""
        without = {"use_lm": "False"} if ", no language model" in self.head else {}
        return {**self.listed, **without}

    @property
    def model(self) -> str:
        """The model's name."""
        return re.split(r" \(|, ", self.head)[0]

    @property
    def source(self) -> str:
        """Source of the answers; empty if the label names none."""
        found = re.search(r" \(([^,)]+)", self.head)
        return found[1] if found else ""

    def may_name(self, record: Record) -> bool:
        """Whether it can name the row of a record, perhaps one yet to run; an unknown setting may have any value."""
        own = Label.of(record.label).source if record.semantics != "none" else ""
        if own in ("", "llm"):  # lists made elsewhere, or a run that failed early: whose is known only after the run
            known = {*get_args(SEMANTICS), "text", "codes"} - {"llm"}
            fits = self.source not in known or self.source == record.semantics
        else:
            fits = self.source in ("", own)
        certain = {
            key: shown
            for key, shown in self.settings.items()
            if key in record.settings and key not in BY_CONTENTS and "…" not in shown
        }
        return (
            fits
            and self.model == record.model
            and all(text_of(record.settings[key]) == shown for key, shown in certain.items())
        )

    def names(self, label: str, settings: Mapping[str, Any]) -> bool:
        """Whether it names the row with a label and settings in a table whose labels need fewer settings."""
        shown = {key: text_of(value) for key, value in settings.items()}
        same = self.head == Label.of(label).head and self.listed.items() <= shown.items()
        return same and bool(self.listed) and not self.more


def group(records: Iterable[Record]) -> dict[TableKey, dict[RowName, list[Record]]]:
    """Records by table, then by the name of their row.

    Results of different protocols, data, masking or candidates never share a table. A run that failed before its data
    were read joins the table that is alike in everything else, if there is exactly one. Runs of one model with
    different settings are different rows, whose labels name the difference.
    """
    records = list(records)
    hashes: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for record in records:
        if record.data:
            hashes[_surroundings(record)].add(record.data.sha256[:12])
    places: dict[TableKey, list[Record]] = defaultdict(list)
    for record in records:
        around = hashes[_surroundings(record)]
        data = record.data.sha256[:12] if record.data else (next(iter(around)) if len(around) == 1 else "")
        dataset, protocol, masked, cases = _surroundings(record)
        places[TableKey(dataset, protocol, data, masked, cases)].append(record)
    return {key: _by_name(found) for key, found in places.items()}


def _surroundings(record: Record) -> tuple[str, str, bool, str]:
    settings = record.settings
    cases = {key: settings[key] for key in _CASE_KEYS if settings.get(key) is not None}
    if str(settings.get("candidates", "all")) not in ("all", "None"):
        cases["candidate_seed"] = settings.get("candidate_seed")
    masked = bool(settings.get("mask_history", True))
    return record.dataset, record.protocol, masked, json.dumps(cases, sort_keys=True, default=str)


def row_identity(record: Record) -> dict[str, Any]:
    """What tells two rows of a model apart: settings, semantics, and the search, as two may find the same settings."""
    definitions = _definitions(record)
    return {**row_settings(record.settings, definitions), "semantics": record.semantics, "search": _search(record)}


def _definitions(record: Record) -> Definitions:
    return definitions_of_name(record.model, record.settings.get("backbone"))


def _by_name(records: Sequence[Record]) -> dict[RowName, list[Record]]:
    variants: dict[tuple[str, str], list[Record]] = defaultdict(list)
    held = _held_by_paths(records)
    for record in records:
        own = {key: held.get((key, str(value)), value) for key, value in row_identity(record).items()}
        identity = json.dumps(own, sort_keys=True, default=str)
        variants[record.model, identity].append(record)
    rows = [part for runs in variants.values() for part in _by_reading(runs)]
    return dict(zip(_names(rows), rows, strict=True))


def _held_by_paths(records: Iterable[Record]) -> dict[tuple[str, str], str]:
    """Hashes of the files that settings name by path: two paths to one encoder make one row, as they make one key."""
    found: dict[tuple[str, str], str] = {}
    for record in records:
        for key in (record.reads or {}).keys() & {*BY_CONTENTS}:
            found.setdefault((key, str(record.settings.get(key))), (record.reads or {})[key])
    return found


def _by_reading(runs: Sequence[Record]) -> list[list[Record]]:
    """Split runs with equal settings by what they read.

    A run whose record lacks a part of this joins the only group that it fits. If it fits several groups, a failed run
    joins the first of them, and a run with numbers is kept apart from them.
    """
    parts: dict[tuple[str | None, str | None], list[Record]] = {}
    for run in sorted(runs, key=lambda run: _reading(run).count(None)):
        own = _reading(run)
        fitting = [part for part in parts if all(a in (None, b) for a, b in zip(own, part, strict=True))]
        certain = len(fitting) == 1 or (fitting and run.status == "failed")
        parts.setdefault(fitting[0] if certain else own, []).append(run)
    return list(parts.values())


def _reading(run: Record) -> tuple[str | None, str | None]:
    """Source of a run's answers (or name of its lists), and the files it read; ``None`` for what its record lacks."""
    source = run.source if run.features is not None else None
    files = None if run.reads is None else json.dumps(run.reads, sort_keys=True)
    return (source if run.lists is None else run.lists["name"]), files


class _Parts(NamedTuple):
    """What a row's name is made of."""

    model: str
    semantics: str
    language_model: str
    tuned: str


def _names(rows: Sequence[Sequence[Record]]) -> list[RowName]:
    """The names of a table's rows; what has a column of its own is in a label only where it tells rows apart."""
    parts = [_parts(runs) for runs in rows]
    alike: dict[_Parts, list[int]] = defaultdict(list)
    for place, own in enumerate(parts):
        alike[own].append(place)
    names: dict[int, RowName] = {}
    seen: Counter[str] = Counter()
    for own, places in alike.items():
        head = _head(own, parts)
        first = [rows[place][0] for place in places]
        identities = with_files([row_identity(row) for row in first], [row.reads or {} for row in first])
        identities = by_preset(identities, [(row.settings.get("preset"), row.origin) for row in first])
        identities = _chosen(identities, first)
        for place, difference in zip(places, differences(identities, _definitions(first[0])), strict=True):
            ending = visible(difference) + _coverage(rows[place])
            seen[head + ending] += 1
            number = f" #{seen[head + ending]}" if seen[head + ending] > 1 else ""  # nothing else tells the two apart
            names[place] = RowName(head + ending + number, own.model + ending + number, *own[1:])
    return [names[place] for place in range(len(rows))]


def _chosen(identities: Sequence[Variant], rows: Sequence[Record]) -> list[Variant]:
    """The settings that may name rows whose names are equal so far; for tuned rows, first those that no search sets.

    If these tell all rows apart, the searched settings are left out, since they differ after almost any two searches.
    """
    if not all(row.tuned for row in rows):
        return list(identities)
    found = set().union(*map(searchable, rows))
    own: list[Variant] = [{key: value for key, value in each.items() if key not in found} for each in identities]
    if len({json.dumps(each, sort_keys=True, default=str) for each in own}) == len(own):
        return own
    return [{**first, **each} for first, each in zip(own, identities, strict=True)]


def searchable(record: Record) -> set[str]:
    """The settings in the search spaces of a model and of its backbone."""
    folder = properties_folder() / "search"
    names = {record.model, str(record.settings.get("backbone"))} & {*property_names("search")}
    return {key for name in names for key in read_yaml(folder / f"{name}.yaml")}


def _parts(runs: Sequence[Record]) -> _Parts:
    """The parts of a row's name; they come from a run that knows its source, which a failed run may not."""
    known = next((run for run in runs if run.features is not None), runs[0])
    semantics = known.source if known.semantics != "none" or kind_of(known) == "control" else ""
    model = f"{known.model}, legacy leaks" if known.legacy_leaks else known.model
    model += ", refit" if known.refit else ""
    if runs[0].lists is not None:  # only the file's name tells which lists they are
        model = f"{model} ({runs[0].lists['name']}, foreign)"
    return _Parts(*map(visible, (model, semantics, known.language_model or "", _search(known) or "")))


def _head(own: _Parts, others: Sequence[_Parts]) -> str:
    """A label before its settings: the language model and the search are in it only where rows of a model differ."""
    rivals = [each for each in others if each[:2] == own[:2]]
    inside = [own.semantics] if own.semantics else []
    if own.language_model and len({each.language_model for each in rivals}) > 1:
        inside.append(own.language_model)
    head = f"{own.model} ({', '.join(inside)})" if inside else own.model
    searches = {each.tuned for each in rivals if each.language_model == own.language_model}
    if not own.tuned or len(searches) == 1:
        return head
    return f"{head}, tuned" if len(searches - {""}) == 1 or own.tuned == "yes" else f"{head}, tuned ({own.tuned})"


def answered(run: Record) -> dict[str, float]:
    """Share of the questions that have an answer, by feature; features that ask no LLM are left out."""
    found = run.features.coverage if run.features is not None else {}
    return {name: share for name, share in found.items() if name not in _ASK_NOTHING}


def _coverage(runs: Sequence[Record]) -> str:
    share = min((share for run in runs for share in answered(run).values()), default=1.0)
    return "" if share >= 1 else f", {percent(share)} answered"


def _search(record: Record) -> str | None:
    """Budget of the search behind a run's settings, ``yes`` if it is unknown; ``None`` without a search."""
    if not record.trials:
        return "yes" if record.tuned else None
    limits = [
        *([counted(record.trial_epochs, "epoch")] if record.trial_epochs else []),
        *([f"{record.trial_minutes:g} min"] if record.trial_minutes else []),
    ]
    each = f" of {' or '.join(limits)}" if limits else ""
    return f"{counted(record.trials, 'trial')}{each}"


def latest(runs: Iterable[Record]) -> list[Record]:
    """One record per seed, in the order of seeds: the newest finished one, or the newest failed one if all failed."""
    by_seed: dict[int, Record] = {}
    for run in sorted(runs, key=lambda run: (run.status == "ok", run.created)):
        by_seed[run.seed] = run
    return [by_seed[seed] for seed in sorted(by_seed)]


def kind_of(record: Record) -> str:
    """``baseline``, ``method`` (semantics ``llm``, or lists made elsewhere) or ``control`` (other features)."""
    if record.lists is not None:
        return "method"
    row = methods().get(record.model)
    # A model from outside is not among methods(); it reads features if an encoder is set.
    has_features = bool(row.features) if row else record.settings.get("encoder") is not None
    reads = record.features is not None or record.semantics != "none" or has_features
    if not reads:
        return "baseline"
    return "method" if record.semantics == "llm" else "control"
