"""The pictures of the documentation, drawn from stored records.

python docs/pictures.py     # writes docs/gain.svg, docs/twin.svg and docs/price.svg
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import Family
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.llm.endpoint import load_endpoint

ROOT = Path(__file__).parents[1]
METRIC = "ndcg@10"

Bar = tuple[float, float, float]  # low end, dot, high end


@cache
def everything(store: ResultStore) -> list[Record]:
    """All records of a folder."""
    return list(store)


class Kept(NamedTuple):
    """A folder of records with fixed settings, from which a picture is drawn."""

    store: ResultStore

    def records(self, dataset: str, protocol: str) -> list[Record]:
        """The finished records of a dataset under a protocol."""
        return [
            each for each in everything(self.store)
            if (each.dataset, each.protocol) == (dataset, protocol) and each.status == "ok" and each.ranks_file
        ]  # fmt: skip

    def difference(self, first: Sequence[Record], second: Sequence[Record]) -> Bar | None:
        """The first row minus the second, with its 95 % interval; ``None`` where a row has no record."""
        if not (first and second):
            return None
        rows = {"first": seeds_of(first), "second": seeds_of(second)}
        ranks = {name: [Ranks.load(self.store.ranks_of(each)) for each in row] for name, row in rows.items()}
        (found,) = Family(ranks, METRIC).compare()
        return found.low, found.difference, found.high


ANSWERS = Kept(ResultStore(ROOT / "results/answers"))
TIMES = Kept(ResultStore(ROOT / "results/times"))


def seeds_of(row: Sequence[Record]) -> Sequence[Record]:
    """The records of one row, after a check that each seed has one record.

    Raises:
        UserError: two records have the same seed, so they belong to different rows.
    """
    if len({each.seed for each in row}) < len(row):
        raise UserError(f"Two records of {row[0].label} have the same seed: say which settings are drawn.")
    return row


def has(record: Record, where: Mapping[str, Any]) -> bool:
    """Whether a record has these settings."""
    return all(record.settings.get(name) == value for name, value in where.items())


# Drawing.

GREY, RED, BLUE, VIOLET, GREEN = "#6b7280", "#c2410c", "#2563eb", "#7c3aed", "#15803d"
STYLE = {
    "svg.fonttype": "none",  # texts are not drawn as paths
    "svg.hashsalt": "recbole_llm",  # the same ids in every run
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 9,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "butt",  # a bar ends at its value
    "figure.titlesize": "medium",
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": GREY,
    "grid.alpha": 0.25,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    **{f"{axis}tick.major.size": 0 for axis in "xy"},
}
# Matplotlib writes no colour for black texts, so this rule can set one.
DARK = "@media (prefers-color-scheme: dark) {text {fill: #e5e7eb} #page path {fill: #0d1117 !important}}"


class Row(NamedTuple):
    """A line of a picture.

    Attributes:
        label: text at the left.
        colour: colour of the bar.
        bar: what is drawn; ``None`` where there is no run.
    """

    label: str
    colour: str
    bar: Bar | None


def bars(
    title: str, groups: Mapping[str, Sequence[Row]], marks: Iterable[float], legend: Mapping[str, str] | None = None
) -> Figure:
    """Groups of bars on one scale.

    Args:
        title: lines at the top.
        groups: rows by the heading above them.
        marks: values with a dashed line through all groups.
        legend: colours by their meaning; ``None`` if the labels name it.
    """
    rows = [len(group) for group in groups.values()]
    height = 0.22 * (sum(rows) + len(rows)) + 0.8  # inches; a heading takes a row, title and axis the rest
    figure = Figure(figsize=(7.2, height), layout="constrained")
    figure.patch.set_gid("page")
    figure.suptitle(title, x=0.01, horizontalalignment="left")
    panels = figure.subplots(len(groups), sharex=True, height_ratios=rows)
    for number, (panel, (heading, group)) in enumerate(zip(panels, groups.items(), strict=True)):
        panel.set_title(heading)
        panel.set_yticks(range(len(group)), [row.label if row.bar else f"{row.label}: no run" for row in group])
        panel.set_ylim(len(group) - 0.5, -0.5)
        for place, value in enumerate(marks):
            panel.axvline(value, color=GREY, linestyle="--", linewidth=1, gid=f"mark-{number}-{place}")
        for place, (_, colour, bar) in enumerate(group):
            if bar:
                panel.plot(bar, [place] * 3, "o-", color=colour, markevery=[1], gid=f"bar-{number}-{place}")
    if legend:
        lines = [Line2D([], [], color=colour, marker="o", label=words) for words, colour in legend.items()]
        figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    return figure


# Gain over the backbone.

CONTROLS = {"llm": RED, "offline": BLUE, "shuffled": VIOLET, "none": GREY}
# The methods that read LLM answers (DUIP reads titles alone): method, backbone, and the backbone's settings.
BACKBONES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "EIMF − REMI": ("EIMF", "REMI", {}),
    "LDMI − ComiRecDR": ("LDMI", "ComiRecDR", {"routing_transform": "interest", "interest_scale": 1.0}),
    "LLMDMsRec − SRGNN": ("LLMDMsRec", "SRGNN", {}),
    "ISRF − ISRF without its graph": ("ISRF", "ISRF", {"graph_words": False}),
}


def control_of(record: Record) -> str:
    """Which of ``CONTROLS`` a record belongs to: ``llm`` for real answers of an LLM, else the control's name."""
    real = record.semantics == "llm" and record.features is not None and record.features.llm != "offline"
    return "llm" if real else "offline" if record.semantics == "llm" else record.semantics


def gain() -> Figure:
    """The picture of the README."""
    groups = {}
    # Answers of a local, small model would be a second row of `llm`.
    kept = ANSWERS.records("ml-100k", "loo")
    records = [each for each in kept if each.features is None or each.features.llm != "llamacpp"]
    for heading, (method, backbone, where) in BACKBONES.items():
        below = [each for each in records if each.model == backbone and has(each, where)]
        above = [each for each in records if each.model == method and each not in below]
        groups[heading] = [
            Row(control, colour, ANSWERS.difference([each for each in above if control_of(each) == control], below))
            for control, colour in CONTROLS.items()
        ]
    title = "Gain in NDCG@10 over the backbone; 95 % intervals (ml-100k, three seeds, fixed settings)"
    return bars(title, groups, marks=[0])


# Differences under leave-one-out and under a split in time.

DATASETS = {"beauty-times": "Beauty", "toys-times": "Toys", "games18-times": "Games"}
PROTOCOLS = {"loo": BLUE, "gts": RED}
PAIRS = {  # models and where their texts come from
    "LLMDMsRec (offline) − SRGNN": (("LLMDMsRec", "offline"), ("SRGNN", "none")),
    "EIMF (offline) − REMI": (("EIMF", "offline"), ("REMI", "none")),
    "EIMF (offline) − SASRec": (("EIMF", "offline"), ("SASRec", "none")),
    "VSKNN − SASRec": (("VSKNN", "none"), ("SASRec", "none")),
    "SASRecText (text) − SASRec": (("SASRecText", "text"), ("SASRec", "none")),
}


def twin() -> Figure:
    """The picture of the page on the split in time; a dataset where neither protocol has a pair is left out."""
    groups: dict[str, list[Row]] = {}
    for heading, pair in PAIRS.items():
        groups[heading] = []
        for dataset, name in DATASETS.items():
            rows = []
            for protocol, colour in PROTOCOLS.items():
                records = TIMES.records(dataset, protocol)
                first, second = ([each for each in records if (each.model, each.semantics) == side] for side in pair)
                rows.append(Row(f"{name}, {protocol}", colour, TIMES.difference(first, second)))
            if any(row.bar for row in rows):
                groups[heading] += rows
    title = (
        "Difference in NDCG@10 under leave-one-out and under a split in time, with 95 % intervals\n"
        "Most rows have one seed: their intervals hold for these trainings alone (fixed settings)"
    )
    legend = {"loo: leave-one-out": PROTOCOLS["loo"], "gts: split in time": PROTOCOLS["gts"]}
    return bars(title, groups, [0], legend)


# Accuracy and dollars.

LLM = "claude-2026-11"  # wrote the answers
RATES = "gpt-4o-mini"  # the endpoint whose prices apply
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # colour, and settings that tell a method from its ablations
    "EIMF": (RED, {}),
    "LDMI": (BLUE, {}),
    "ISRF": (VIOLET, {"graph_words": True}),
    "LLMDMsRec": (GREEN, {}),
}
BASELINES = ("VSKNN", "EASE", "Pop", "REMI", "SRGNN")


def values_of(row: Sequence[Record]) -> list[float]:
    """NDCG@10 of each seed of a row."""
    return [each.metrics[METRIC].value for each in seeds_of(row)]


def spread(values: Sequence[float]) -> Bar:
    """The mean, between one standard deviation below and above it."""
    mean, deviation = fmean(values), stdev(values)
    return mean - deviation, mean, mean + deviation


def dollars_of(row: Iterable[Record]) -> float:
    """US dollars of a row's answers, at :data:`RATES`; the seeds share them."""
    facts = [each.features for each in row if each.features]
    return max(load_endpoint(RATES).price(each.tokens_in, each.tokens_out) for each in facts)


def price() -> Figure:
    """The picture of the page on prices."""
    records = ANSWERS.records("ml-100k", "loo")
    groups = {}
    for method, (colour, where) in METHODS.items():
        row = [each for each in records if each.model == method and has(each, where)]
        without = [each for each in row if each.semantics == "none"]
        answered = [each for each in row if each.semantics == "llm" and each.features and each.features.llm == LLM]
        groups[method] = [
            Row("without answers, $0", colour, spread(values_of(without))),
            Row(f"with answers, ${dollars_of(answered):.3f}", colour, spread(values_of(answered))),
        ]
    means = {name: fmean(values_of([each for each in records if each.model == name])) for name in BASELINES}
    means = dict(sorted(means.items(), key=lambda each: -each[1]))
    groups["No LLM"] = [Row(f"{name}, {mean:.4f}", GREY, (mean, mean, mean)) for name, mean in means.items()]
    title = (
        f"NDCG@10 (mean ± deviation) and price of the answers (ml-100k, three seeds, fixed settings)\n"
        f"Answers of {LLM}, priced at {RATES}'s rates whoever wrote them; dashed: no LLM"
    )
    return bars(title, groups, means.values())


PICTURES: Mapping[str, Callable[[], Figure]] = {"gain": gain, "twin": twin, "price": price}


def svg(name: str) -> str:
    """The SVG text of a picture, legible on light and dark pages and the same in every run."""
    with style.context(STYLE, after_reset=True), StringIO() as file:
        figure = PICTURES[name]()
        title = figure.get_suptitle().replace("\n", ". ")
        figure.savefig(file, format="svg", metadata={"Title": title, "Creator": None, "Date": None})
        return file.getvalue().replace("</style>", f"{DARK}</style>", 1)


if __name__ == "__main__":
    for name in PICTURES:
        (ROOT / f"docs/{name}.svg").write_text(svg(name), encoding="utf-8")
