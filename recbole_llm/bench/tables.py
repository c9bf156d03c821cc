"""Tables from records: one a dataset and protocol, means over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from tabulate import tabulate

from recbole_llm.bench.record import Record

FORMATS = {"text": "simple", "markdown": "github"}
GroupKey = tuple[str, str, str, bool]


def group(records: Iterable[Record]) -> dict[GroupKey, dict[str, list[Record]]]:
    """Records by (dataset, protocol, dataset hash, history masking), then by label.

    Numbers of different protocols, data or masking never stand in one table. A cell that failed before its
    data were read stands where its neighbours stand.
    """
    records = list(records)
    hashes: dict[tuple[str, str, bool], set[str]] = defaultdict(set)
    for record in records:
        if record.data:
            hashes[_place(record)].add(record.data.sha256[:12])
    groups: dict[GroupKey, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        dataset, protocol, masked = _place(record)
        around = hashes[dataset, protocol, masked]
        sha = record.data.sha256[:12] if record.data else (next(iter(around)) if len(around) == 1 else "")
        groups[dataset, protocol, sha, masked][record.label].append(record)
    return groups


def _place(record: Record) -> tuple[str, str, bool]:
    return record.dataset, record.protocol, bool(record.settings.get("mask_history", True))


def _reason(record: Record) -> str:
    """Why a cell failed, as one cell of a table."""
    return " ".join((record.error or "").split())[:60].replace("|", "/")


def _seeds(runs: Iterable[Record]) -> str:
    return ",".join(str(seed) for seed in sorted(run.seed for run in runs))


def _columns(records: Iterable[Record], metrics: Sequence[str] | None) -> list[str]:
    if metrics:
        return [name.lower() for name in metrics]
    found = dict.fromkeys(name for record in records for name in record.metrics)
    return [name for name in found if not name.startswith("recall")] or list(found)


def _title(name: str) -> str:
    metric, _, cut = name.partition("@")
    return f"{metric.upper() if metric != 'hit' else 'Hit'}@{cut}"


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{np.mean(values):.4f}"
    return f"{mean} ±{np.std(values, ddof=1):.4f}" if len(values) > 1 else mean


PHASES = ("data", "stage_one", "features", "llm", "encode", "train", "validate", "evaluate")


def render(records: Iterable[Record], style: str = "text", metrics: Sequence[str] | None = None) -> str:
    """All tables of some records.

    Args:
        records: what to show.
        style: ``text`` or ``markdown``.
        metrics: columns such as ``ndcg@10``; default all but Recall, which equals Hit with one target.
    """
    blocks = []
    for (dataset, protocol, _, masked), by_label in sorted(group(records).items()):
        everything = [record for records_of in by_label.values() for record in records_of]
        columns = _columns(everything, metrics)
        rows = []
        for label, runs in by_label.items():
            done = [run for run in runs if run.status == "ok"]
            if not done:
                rows.append([label, f"failed: {_reason(runs[0])}"] + [""] * len(columns))
                continue
            values = [_cell([v for run in done if (v := run.metric(name)) is not None]) for name in columns]
            lost = [run for run in runs if run.status != "ok"]
            rows.append([label, _seeds(done) + (f" (failed: {_seeds(lost)})" if lost else ""), *values])
        cases = next((record.data.test_cases for record in everything if record.data), 0)
        head = f"{dataset}, {protocol}: {cases:,} test cases, " + (
            "seen items not ranked" if masked else "seen items ranked too"
        )
        blocks.append(
            head
            + "\n\n"
            + tabulate(rows, ["model", "seed", *map(_title, columns)], FORMATS[style], disable_numparse=True)
        )
        blocks.append(_times(by_label, style))
    return "\n\n".join(blocks)


def _times(by_label: dict[str, list[Record]], style: str) -> str:
    """Seconds of each phase and what the semantic features cost."""
    rows = []
    for label, runs in by_label.items():
        done = [run for run in runs if run.status == "ok"]
        if not done:
            continue
        means = [float(np.mean([run.seconds.get(phase, 0.0) for run in done])) for phase in PHASES]
        epochs = float(np.mean([run.epochs or 0 for run in done]))
        memory = max(run.memory_mib.get("device", run.memory_mib.get("host", 0.0)) for run in done)
        requests = sum(run.features.requests for run in done if run.features)
        price = max((run.features.price for run in done if run.features), default=0.0)
        rows.append(
            [label, *(f"{value:.1f}" if value >= 0.05 else "-" for value in means), f"{epochs:.0f}",
             f"{memory:.0f}", f"{done[0].parameters or 0:,}", requests or "-", f"{price:.2f}" if price else "-"]
        )  # fmt: skip
    header = ["seconds", *PHASES, "epochs", "MiB", "parameters", "LLM requests", "US$"]
    return tabulate(rows, header, FORMATS[style], disable_numparse=True)
