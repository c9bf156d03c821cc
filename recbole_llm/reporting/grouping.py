"""Which records may stand in one table, and which of them are seeds of one row."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from recbole_llm.experiments.record import Record
from recbole_llm.registry import methods
from recbole_llm.settings.definitions import Definitions, definitions_of_name
from recbole_llm.settings.identity import before, tells_apart

# Settings that decide what a test case is, besides the protocol's name, the data and the masking.
_CASE_KEYS = (
    *("split", "sessions", "user_order", "candidates", "val_interval", "rm_dup_inter"),
    *("user_inter_num_interval", "item_inter_num_interval"),
)
_UNDERNEATH = ("backbone",)  # names the model that a method is built on, whose own settings come with it
_SHOWN_DIFFERENCES = 3


class TableKey(NamedTuple):
    """What the rows of one table share.

    Attributes:
        dataset, protocol: their names.
        data: first digits of the hash of the interactions.
        masked: items of the history are not ranked.
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


def group(records: Iterable[Record]) -> dict[TableKey, dict[str, list[Record]]]:
    """Records by place, then by the label of their row.

    Numbers of different protocols, data, masking or candidates never stand in one table. A cell that failed
    before its data were read stands where its neighbours stand. Runs of one model with different settings are
    different rows, whose labels name the difference.
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
    return {key: _by_label(found) for key, found in places.items()}


def _surroundings(record: Record) -> tuple[str, str, bool, str]:
    settings = record.settings
    cases = {key: settings[key] for key in _CASE_KEYS if settings.get(key) is not None}
    if str(settings.get("candidates", "all")) not in ("all", "None"):
        cases["candidate_seed"] = settings.get("candidate_seed")
    masked = bool(settings.get("mask_history", True))
    return record.dataset, record.protocol, masked, json.dumps(cases, sort_keys=True, default=str)


def _identity(record: Record) -> dict[str, Any]:
    """The settings that tell two rows of one model apart; two searches may find the same settings."""
    definitions = _definitions(record)
    kept = {k: v for k, v in record.settings.items() if tells_apart(k, v, definitions) and k not in ("seed", "model")}
    return {**kept, "semantics": record.semantics, "search": _search(record)}


def _definitions(record: Record) -> Definitions:
    return definitions_of_name(record.model, record.settings.get("backbone"))


def _by_label(records: Sequence[Record]) -> dict[str, list[Record]]:
    variants: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        identity = json.dumps(_identity(record), sort_keys=True, default=str)
        variants[record.model, identity].append(record)
    rows = [part for runs in variants.values() for part in _by_answers(runs)]
    alike: dict[str, list[list[Record]]] = defaultdict(list)
    for runs in rows:
        alike[_plain_label(runs)].append(runs)
    labels: dict[int, str] = {}
    for label, found in alike.items():
        names = _variant_labels(label, [_identity(runs[0]) for runs in found], _definitions(found[0][0]))
        labels |= {id(runs): name for runs, name in zip(found, names, strict=True)}
    return {labels[id(runs)]: runs for runs in rows}


def _by_answers(runs: Sequence[Record]) -> list[list[Record]]:
    """Runs of equal settings by what they read; those that failed before they knew go with the first."""
    parts: dict[str, list[Record]] = defaultdict(list)
    unknown = []
    for run in runs:
        if run.lists is not None:
            parts[run.lists["name"]].append(run)
        elif run.features is not None:
            parts[run.source].append(run)
        else:
            unknown.append(run)
    return [part + (unknown if number == 0 else []) for number, part in enumerate(parts.values())] or [unknown]


def _plain_label(runs: Sequence[Record]) -> str:
    """A row's model with its source of semantics, and the trials behind its settings where it was tuned.

    A run that failed before it knew its source has the name of the others.
    """
    known = next((run for run in runs if run.features is not None), runs[0])
    label = known.labelled("none") if known.semantics == "none" and kind_of(known) == "control" else known.label
    return f"{label}, {_search(known)}" if known.tuned else label


def _search(record: Record) -> str | None:
    """What the search behind a run's settings had; ``None`` where there was none."""
    if not record.trials:
        return "tuned" if record.tuned else None
    limits = [
        *([f"{record.trial_epochs} epoch{'s' * (record.trial_epochs > 1)}"] if record.trial_epochs else []),
        *([f"{record.trial_minutes:g} min"] if record.trial_minutes else []),
    ]
    each = f" of {' or '.join(limits)}" if limits else ""
    return f"tuned ({record.trials} trial{'s' * (record.trials > 1)}{each})"


def _variant_labels(label: str, identities: Sequence[dict[str, Any]], definitions: Definitions) -> list[str]:
    """One label for each variant of a model: with the settings that differ among them.

    A value that most of the variants have goes without saying, so that ablations name what they change.
    """
    if len(identities) == 1:
        return [label]
    values = [
        {key: _text(each, key, definitions) for key in dict.fromkeys(k for one in identities for k in one)}
        for each in identities
    ]
    values = _without_what_comes_along(values, identities, definitions)
    usual = {key: _of_most([each[key] for each in values]) for key in values[0]}
    named = []
    for each in values:
        keys = [key for key, value in each.items() if value != usual[key]]
        shown = [f"{key}={_short(each[key])}" for key in keys[:_SHOWN_DIFFERENCES]]
        more = f", +{len(keys) - len(shown)}" if len(keys) > len(shown) else ""
        named.append(f"{label} [{', '.join(shown)}{more}]" if shown else label)
    seen: dict[str, int] = defaultdict(int)
    for number, name in enumerate(named):
        seen[name] += 1
        named[number] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    return named


def _without_what_comes_along(
    values: Sequence[dict[str, str]], identities: Sequence[dict[str, Any]], definitions: Definitions
) -> list[dict[str, str]]:
    """The variants' values, first the model underneath; settings that another one does not have follow from its name.

    They stay where variants of one model underneath differ by them.
    """
    first = [key for key in _UNDERNEATH if len({each.get(key) for each in values}) > 1]
    if not first:
        return list(values)
    kinds: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for each in values:
        kinds[tuple(each[key] for key in first)].append(each)
    along = {
        key
        for key in values[0]
        if before(key, definitions) is None
        and any(key not in one for one in identities)
        and all(len({each[key] for each in alike}) == 1 for alike in kinds.values())
    }
    kept = [*first, *(key for key in values[0] if key not in first and key not in along)]
    return [{key: each[key] for key in kept} for each in values]


def _of_most(values: Sequence[str]) -> str | None:
    """The value that more than half have."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _text(identity: dict[str, Any], key: str, definitions: Definitions) -> str:
    value = identity.get(key, before(key, definitions))
    return "unset" if value is None else str(value)


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def latest(runs: Iterable[Record]) -> list[Record]:
    """One record a seed, in the order of seeds: a finished one before a failed one, then the newest."""
    by_seed: dict[int, Record] = {}
    for run in sorted(runs, key=lambda run: (run.status == "ok", run.created)):
        by_seed[run.seed] = run
    return [by_seed[seed] for seed in sorted(by_seed)]


def kind_of(record: Record) -> str:
    """``baseline``, ``method`` (it reads what an LLM said, or was made elsewhere) or ``control`` (without answers)."""
    if record.lists is not None:
        return "method"
    row = methods().get(record.model)
    # A model from outside has no row here; the encoder is set for those that read features.
    has_features = bool(row.features) if row else record.settings.get("encoder") is not None
    reads = record.features is not None or record.semantics != "none" or has_features
    if not reads:
        return "baseline"
    return "method" if record.semantics == "llm" else "control"
