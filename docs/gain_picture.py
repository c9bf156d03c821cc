"""The picture of the README: the gain of each method over its backbone, drawn from kept records.

python docs/gain_picture.py     # writes docs/gain.svg
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import Comparison, Family
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore

ROOT = Path(__file__).parents[1]
METRIC = "ndcg@10"
CONTROLS = ("llm", "offline", "shuffled", "none")
COLOURS = dict(zip(CONTROLS, ("#c2410c", "#2563eb", "#7c3aed", "#6b7280"), strict=True))


class Backbone(NamedTuple):
    """What a method is compared with.

    Attributes:
        model: of the backbone's rows.
        records: folder of the backbone's and the method's records.
        tuned: whether the rows have searched settings, or the same fixed ones.
        where: settings that make the backbone.
        title: its name in the picture.
    """

    model: str
    records: str
    tuned: bool
    where: Mapping[str, Any]
    title: str


LDMI_ROUTING = {"routing_transform": "interest", "interest_scale": 1.0}
# Of the methods that read LLM answers; DUIP reads titles alone.
BACKBONES = {
    "EIMF": Backbone("REMI", "answers", False, {}, "REMI"),
    "LDMI": Backbone(
        "ComiRecDR", "answers", False, {"routing_transform": "interest", "interest_scale": 1.0}, "ComiRecDR"
    ),
    "LLMDMsRec": Backbone("SRGNN", "one-budget", True, {}, "SRGNN"),
    "ISRF": Backbone("ISRF", "one-budget", True, {"graph_words": False}, "ISRF without its graph"),
}
SPAN, LEFT, RIGHT, ROW = 0.04, 110, 20, 22


def kept(base: Backbone) -> list[tuple[Record, Ranks]]:
    """The records of a leave-one-out table, with their ranks."""
    folder = ROOT / "results" / base.records
    return [
        (each, Ranks.load(folder / "ml-100k/loo" / each.ranks_file))
        for each in ResultStore(folder)
        if each.protocol == "loo" and each.tuned == base.tuned and each.status == "ok" and each.ranks_file
    ]


def control_of(record: Record) -> str:
    """Which of the four a record is: the answers of an LLM, or a control's."""
    real = record.semantics == "llm" and record.features is not None and record.features.llm != "offline"
    return "llm" if real else "offline" if record.semantics == "llm" else record.semantics


def _has(record: Record, where: Mapping[str, Any]) -> bool:
    return all(record.settings.get(name) == value for name, value in where.items())


def gains() -> dict[tuple[str, str], Comparison]:
    """Difference of each method under each control to its backbone; what has no record is missing."""
    found = {}
    for method, base in BACKBONES.items():
        records = kept(base)
        below = [ranks for record, ranks in records if record.model == base.model and _has(record, base.where)]
        for control in CONTROLS:
            runs = [
                ranks for record, ranks in records
                if record.model == method and control_of(record) == control
                and not (method == base.model and _has(record, base.where))
            ]  # fmt: skip
            if runs:
                (found[method, control],) = Family({"method": runs, "backbone": below}, METRIC).compare()
    return found


def svg(found: dict[tuple[str, str], Comparison]) -> str:
    """The picture as SVG; readable on a light and on a dark page."""
    width, middle = 720, LEFT + (720 - LEFT - RIGHT) / 2
    scale = (720 - LEFT - RIGHT) / 2 / SPAN
    lines, y = [], 40
    for method, base in BACKBONES.items():
        lines.append(f'<text x="8" y="{y + 5}" class="b">{escape(method)} − {escape(base.title)}</text>')
        y += ROW
        for control in CONTROLS:
            each = found.get((method, control))
            lines.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{control}</text>')
            if each is None:
                lines.append(f'<text x="{middle + 8:.1f}" y="{y + 4}" class="m">no run</text>')
            else:
                low, high, at = (middle + scale * value for value in (each.low, each.high, each.difference))
                colour = COLOURS[control]
                lines.append(f'<path d="M{low:.1f} {y}H{high:.1f}" stroke="{colour}" stroke-width="3"/>')
                lines.append(f'<circle cx="{at:.1f}" cy="{y}" r="5" fill="{colour}"/>')
            y += ROW
        y += 10
    axis = [f'<path d="M{middle:.1f} 28V{y - 12}" class="z"/>']
    for tick in (-0.04, -0.02, 0.0, 0.02, 0.04):
        label = f"{tick:+.2f}" if tick else "0"
        axis.append(f'<text x="{middle + scale * tick:.1f}" y="{y + 6}" text-anchor="middle">{label}</text>')
    style = (
        "text{font:13px sans-serif;fill:#1f2937}.b{font-weight:bold}.m{fill:#6b7280}.z{stroke:#6b7280;"
        "stroke-dasharray:3 3}@media (prefers-color-scheme:dark){text{fill:#e5e7eb}.m{fill:#9ca3af}}"
    )
    title = "Gain in NDCG@10 over the backbone; 95 % intervals over users and seeds (ml-100k, three seeds)"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 20}" role="img"><title>{title}</title>'
    text = f'<text x="8" y="18">{title}</text>'
    return "\n".join([head, f"<style>{style}</style>", text, *axis, *lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs/gain.svg").write_text(svg(gains()), encoding="utf-8")
