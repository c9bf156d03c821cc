"""The pictures of the documentation, drawn from kept records.

python docs/pictures.py     # writes docs/gain.svg, docs/twin.svg and docs/price.svg
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from math import ceil, floor, log10
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import Comparison, Family
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.llm.endpoint import load_endpoint

ROOT = Path(__file__).parents[1]
METRIC = "ndcg@10"


class Kept(NamedTuple):
    """Where the records of a picture are.

    Attributes:
        folder: in ``results/``.
        tuned: whether the rows have searched settings, or the same fixed ones.
    """

    folder: str
    tuned: bool

    @property
    def settings(self) -> str:
        """How a title calls the settings of the rows."""
        return "searched settings" if self.tuned else "fixed settings"


GAIN_ANSWERS, GAIN_RULE = Kept("answers", False), Kept("one-budget", True)
TWIN = Kept("times", False)
PRICE = Kept("answers", False)


@cache
def everything(folder: str) -> list[Record]:
    """All records of a folder."""
    return list(ResultStore(ROOT / "results" / folder))


def records(kept: Kept, dataset: str, protocol: str) -> list[Record]:
    """The finished records of a dataset under a protocol."""
    return [
        each for each in everything(kept.folder)
        if (each.dataset, each.protocol, each.tuned) == (dataset, protocol, kept.tuned)
        and each.status == "ok" and each.ranks_file
    ]  # fmt: skip


def seeds_of(row: Sequence[Record]) -> Sequence[Record]:
    """The records of one row, one a seed.

    Raises:
        UserError: two have the same seed, so they are of two rows.
    """
    if len({each.seed for each in row}) < len(row):
        raise UserError(f"Two records of {row[0].label} have the same seed: say which settings are drawn.")
    return row


def ranks_of(kept: Kept, row: Sequence[Record]) -> list[Ranks]:
    """The ranks of the records of one row."""
    folder = ROOT / "results" / kept.folder
    return [Ranks.load(folder / each.dataset / each.protocol / str(each.ranks_file)) for each in seeds_of(row)]


def has(record: Record, where: Mapping[str, Any]) -> bool:
    """Whether a record has these settings."""
    return all(record.settings.get(name) == value for name, value in where.items())


def difference(kept: Kept, first: Sequence[Record], second: Sequence[Record]) -> Comparison:
    """The first row less the second."""
    return Family({"first": ranks_of(kept, first), "second": ranks_of(kept, second)}, METRIC).compare()[0]


# Drawing. Lengths are those of the viewBox.

WIDTH, LEFT, RIGHT, ROW = 720, 110, 32, 22
LETTER, LINE = 8, 16  # width of a letter of a label, on average at most, and height of a line of text
GREY = "#6b7280"
STYLE = (
    "text{font:13px sans-serif;fill:#1f2937}.b{font-weight:bold}.m{fill:#6b7280}.z{stroke:#6b7280;"
    "stroke-dasharray:3 3}@media (prefers-color-scheme:dark){text{fill:#e5e7eb}.m{fill:#9ca3af}}"
)


class Row(NamedTuple):
    """A line of a picture of intervals.

    Attributes:
        label: at the left.
        colour: of the dot and its interval.
        found: what is drawn; ``None`` where there is no run.
    """

    label: str
    colour: str
    found: Comparison | None


class Box(NamedTuple):
    """The rectangle that a text or a line covers."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two boxes overlap."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    """A text whose letters are centred on the height ``y``."""
    marks = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y + 4:.1f}"{marks}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "", width: float = 1) -> str:
    """A solid line of a colour, or a dashed grey one."""
    look = f'stroke="{colour}" stroke-width="{width:g}"' if colour else 'class="z"'
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {look}/>'


def dot(x: float, y: float, colour: str) -> str:
    """A filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'


def picture(title: Sequence[str], height: float, parts: Iterable[str]) -> str:
    """An SVG that is readable on a light and on a dark page, with its title in lines at the top."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
    lines = [text(8, 14 + 18 * number, words) for number, words in enumerate(title)]
    name = f"<title>{escape('. '.join(title))}</title>"
    return "\n".join([head + name, f"<style>{STYLE}</style>", *lines, *parts, "</svg>"]) + "\n"


def ticks_to(largest: float) -> list[float]:
    """Ticks of an axis: 0 and at most three multiples of 1, 2 or 5 times a power of ten, the last above a value."""
    power = 10.0 ** floor(log10(largest))
    step = next(size * power for size in (0.5, 1, 2, 5) if largest < 3 * size * power)
    return [number * step for number in range(floor(largest / step) + 2)]


def intervals(title: Sequence[str], groups: Mapping[str, Sequence[Row]], legend: Mapping[str, str]) -> str:
    """Groups of differences with their 95 % intervals, around zero.

    Args:
        title: lines at the top.
        groups: rows by the heading above them.
        legend: colours by what they stand for; empty where the rows say it.
    """
    drawn = [row.found for rows in groups.values() for row in rows if row.found]
    ticks = ticks_to(max(abs(end) for each in drawn for end in (each.low, each.high)))
    middle = (LEFT + WIDTH - RIGHT) / 2
    scale = (WIDTH - LEFT - RIGHT) / 2 / ticks[-1]
    parts, x, y = [], float(LEFT), 18 + 18 * len(title)
    for words, colour in legend.items():
        parts += [dot(x, y, colour), text(x + 12, y, words)]
        x += 40 + LETTER * len(words)
    y += 26 if legend else 6
    top = y - 12
    for heading, rows in groups.items():
        parts.append(text(8, y, heading, "b"))
        y += ROW
        for label, colour, found in rows:
            parts.append(text(LEFT - 10, y, label, anchor="end"))
            if found is None:
                parts.append(text(middle + 8, y, "no run", "m"))
            else:
                low, high, at = (middle + scale * value for value in (found.low, found.high, found.difference))
                parts += [line(low, y, high, y, colour, 3), dot(at, y, colour)]
            y += ROW
        y += 10
    axis = [line(middle, top, middle, y - 12)]
    digits = max(0, -floor(log10(ticks[1])))
    for tick in [*(-tick for tick in ticks[:0:-1]), *ticks]:
        label = f"{tick:+.{digits}f}" if tick else "0"
        axis.append(text(middle + scale * tick, y + 2, label, anchor="middle"))
    return picture(title, y + 20, [*axis, *parts])


# Gain over the backbone.

CONTROLS = ("llm", "offline", "shuffled", "none")
COLOURS = dict(zip(CONTROLS, ("#c2410c", "#2563eb", "#7c3aed", GREY), strict=True))


class Backbone(NamedTuple):
    """What a method is compared with.

    Attributes:
        model: of the backbone's rows.
        kept: the backbone's and the method's records.
        where: settings that make the backbone.
        title: its name in the picture.
    """

    model: str
    kept: Kept
    where: Mapping[str, Any]
    title: str


# Of the methods that read LLM answers; DUIP reads titles alone.
BACKBONES = {
    "EIMF": Backbone("REMI", GAIN_ANSWERS, {}, "REMI"),
    "LDMI": Backbone(
        "ComiRecDR", GAIN_ANSWERS, {"routing_transform": "interest", "interest_scale": 1.0}, "ComiRecDR"
    ),
    "LLMDMsRec": Backbone("SRGNN", GAIN_RULE, {}, "SRGNN"),
    "ISRF": Backbone("ISRF", GAIN_RULE, {"graph_words": False}, "ISRF without its graph"),
}  # fmt: skip


def control_of(record: Record) -> str:
    """Which of the four a record is: the answers of an LLM, or a control's."""
    real = record.semantics == "llm" and record.features is not None and record.features.llm != "offline"
    return "llm" if real else "offline" if record.semantics == "llm" else record.semantics


def gains() -> dict[tuple[str, str], Comparison]:
    """Difference of each method under each control to its backbone; what has no record is missing."""
    found = {}
    for method, base in BACKBONES.items():
        rows = records(base.kept, "ml-100k", "loo")
        below = [each for each in rows if each.model == base.model and has(each, base.where)]
        for control in CONTROLS:
            runs = [
                each for each in rows
                if each.model == method and control_of(each) == control
                and not (method == base.model and has(each, base.where))
            ]  # fmt: skip
            if runs:
                found[method, control] = difference(base.kept, runs, below)
    return found


def gain_svg() -> str:
    """The picture of the README."""
    found = gains()
    groups = {
        f"{method} − {base.title}": [Row(each, COLOURS[each], found.get((method, each))) for each in CONTROLS]
        for method, base in BACKBONES.items()
    }
    title = "Gain in NDCG@10 over the backbone; 95 % intervals over users and seeds (ml-100k, three seeds)"
    return intervals([title], groups, {})


# Differences under leave-one-out and under a split in time.

DATASETS = {"beauty-times": "Beauty", "toys-times": "Toys", "games18-times": "Games"}
PROTOCOLS = {"loo": "#2563eb", "gts": "#c2410c"}


class Pair(NamedTuple):
    """Two models that are compared.

    Attributes:
        first: model whose difference is drawn.
        semantics: where its texts come from.
        second: model that it is compared with; reads no text.
    """

    first: str
    semantics: str
    second: str

    @property
    def title(self) -> str:
        """The pair in the picture."""
        source = "" if self.semantics == "none" else f" ({self.semantics})"
        return f"{self.first}{source} − {self.second}"


PAIRS = (
    Pair("LLMDMsRec", "offline", "SRGNN"),
    Pair("EIMF", "offline", "REMI"),
    Pair("EIMF", "offline", "SASRec"),
    Pair("VSKNN", "none", "SASRec"),
    Pair("SASRecText", "text", "SASRec"),
)


def twins() -> dict[tuple[Pair, str, str], Comparison]:
    """Difference of each pair by dataset and protocol; what lacks a record is missing."""
    found = {}
    for dataset in DATASETS:
        for protocol in PROTOCOLS:
            rows = records(TWIN, dataset, protocol)
            for pair in PAIRS:
                first = [each for each in rows if (each.model, each.semantics) == (pair.first, pair.semantics)]
                second = [each for each in rows if (each.model, each.semantics) == (pair.second, "none")]
                if first and second:
                    found[pair, dataset, protocol] = difference(TWIN, first, second)
    return found


def twin_svg() -> str:
    """The picture of the page on the split in time; a dataset where neither protocol has a pair is left out."""
    found = twins()
    groups = {
        pair.title: [
            Row(f"{name}, {protocol}", colour, found.get((pair, dataset, protocol)))
            for dataset, name in DATASETS.items()
            if any((pair, dataset, protocol) in found for protocol in PROTOCOLS)
            for protocol, colour in PROTOCOLS.items()
        ]
        for pair in PAIRS
    }
    title = [
        "Difference in NDCG@10 under leave-one-out and under a split in time, with 95 % intervals",
        f"Most rows have one seed: their intervals hold for these trainings alone ({TWIN.settings})",
    ]
    return intervals(title, groups, {"loo: leave-one-out": PROTOCOLS["loo"], "gts: split in time": PROTOCOLS["gts"]})


# Accuracy against dollars.

LLM = "claude-2026-11"  # wrote the answers
RATES = "gpt-4o-mini"  # whose prices they are counted at
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # colour, and settings that tell a method from its ablations
    "EIMF": ("#c2410c", {}),
    "LDMI": ("#2563eb", {}),
    "ISRF": ("#7c3aed", {"graph_words": True}),
}
START, PAID, END = 60, 140, WIDTH - 120  # rows without answers are drawn left of PAID
TOP, BOTTOM = 62, 422
BASELINES = ("VSKNN", "EASE", "Pop", "REMI")


class Point(NamedTuple):
    """A row of a method.

    Attributes:
        dollars: of all its answers; 0 without any.
        values: NDCG@10 of each seed.
    """

    dollars: float
    values: Sequence[float]

    @property
    def ends(self) -> tuple[float, float]:
        """One standard deviation below and above the mean."""
        mean, deviation = fmean(self.values), stdev(self.values)
        return mean - deviation, mean + deviation


def values_of(row: Sequence[Record]) -> list[float]:
    """NDCG@10 of each seed of a row."""
    return [each.metrics[METRIC].value for each in seeds_of(row)]


def dollars_of(row: Iterable[Record]) -> float:
    """US dollars of a row's answers, at :data:`RATES`; the seeds share them."""
    facts = [each.features for each in row if each.features]
    return max(load_endpoint(RATES).price(each.tokens_in, each.tokens_out) for each in facts)


def prices() -> dict[str, tuple[Point, Point]]:
    """Each method without answers and with the LLM's."""
    rows = records(PRICE, "ml-100k", "loo")
    found = {}
    for method, (_, where) in METHODS.items():
        runs = [each for each in rows if each.model == method and has(each, where)]
        without = [each for each in runs if each.semantics == "none"]
        answered = [
            each for each in runs if each.semantics == "llm" and each.features is not None and each.features.llm == LLM
        ]
        found[method] = (Point(0.0, values_of(without)), Point(dollars_of(answered), values_of(answered)))
    return found


def baselines() -> dict[str, float]:
    """Mean NDCG@10 of the models that ask no LLM, the largest first."""
    rows = records(PRICE, "ml-100k", "loo")
    found = {name: fmean(values_of([each for each in rows if each.model == name])) for name in BASELINES}
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def spread(heights: Sequence[float]) -> list[float]:
    """Heights of texts, from the top down, moved apart until each has a line of its own."""
    found = list(heights)
    for _ in range(100):  # a move may bring the next two together
        for upper in range(len(found) - 1):
            lacking = LINE - (found[upper + 1] - found[upper])
            if lacking > 0:
                found[upper] -= lacking / 2
                found[upper + 1] += lacking / 2
    return found


def along(x1: float, y1: float, x2: float, y2: float) -> list[Box]:
    """Small boxes that cover a sloping line."""
    steps = ceil(abs(x2 - x1) / 4)
    middles = [(x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps) for step in range(steps + 1)]
    return [Box(x - 3, y - 2, x + 3, y + 2) for x, y in middles]


def beside(point: Box, words: str, taken: Sequence[Box]) -> Box:
    """The place of a point's label: the first free one above, below, right, left, and farther above or below.

    Args:
        point: the dot with its whisker.
        words: the label.
        taken: boxes that it must not overlap.

    Raises:
        UserError: there is no room within 120 pixels of the whisker.
    """
    x, y, width = (point.left + point.right) / 2, (point.top + point.bottom) / 2, LETTER * len(words)
    ends = [(x - width / 2, top) for far in range(2, 121) for top in (point.top - far - LINE, point.bottom + far)]
    sides = [(point.right + 4, y - LINE / 2), (point.left - 4 - width, y - LINE / 2)]
    for left, top in (*ends[:2], *sides, *ends[2:]):
        box = Box(left, top, left + width, top + LINE)
        if not any(box.meets(each) for each in taken):
            return box
    raise UserError(f"No room beside the point for {words!r}.")


class Plane(NamedTuple):
    """Positions of prices and accuracies in the picture.

    Attributes:
        first, last: decimal logarithms of the dollars at both ends.
        lowest, highest: hundredths of NDCG@10 at both ends.
    """

    first: float
    last: float
    lowest: int
    highest: int

    @classmethod
    def around(cls, points: Sequence[Point], lines: Iterable[float]) -> Plane:
        """The plane that holds some points with their deviations, and some lines."""
        paid = [log10(point.dollars) for point in points if point.dollars]
        seen = [*lines, *(end for point in points for end in point.ends)]
        return cls(min(paid) - 0.4, max(paid) + 0.4, floor(100 * min(seen)), ceil(100 * max(seen)))

    def x(self, dollars: float) -> float:
        """Position of a price above 0."""
        return PAID + (END - PAID) * (log10(dollars) - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        """Position of an NDCG@10."""
        return BOTTOM - (BOTTOM - TOP) * (100 * value - self.lowest) / (self.highest - self.lowest)

    def axes(self) -> list[str]:
        """Both axes; $0 has a column of its own at the left, since it has no logarithm."""
        parts = [line(START, TOP, START, BOTTOM, GREY), line(START, BOTTOM, END, BOTTOM, GREY)]
        parts += [line(PAID, TOP, PAID, BOTTOM), text((START + PAID) / 2, BOTTOM + 14, "$0 (none)", anchor="middle")]
        for percent in range(self.lowest, self.highest + 1):
            parts.append(text(START - 8, self.y(percent / 100), f"{percent / 100:.2f}", anchor="end"))
        for power in range(ceil(self.first), floor(self.last) + 1):
            x = self.x(10.0**power)
            parts += [line(x, BOTTOM, x, BOTTOM + 5, GREY), text(x, BOTTOM + 14, f"${10.0**power:g}", anchor="middle")]
        parts.append(text((PAID + END) / 2, BOTTOM + 34, "US$ of all answers, logarithmic", anchor="middle"))
        return parts


def price_svg() -> str:
    """The picture of the page on prices."""
    methods, lines = prices(), baselines()
    plane = Plane.around([point for pair in methods.values() for point in pair], lines.values())
    parts = plane.axes()
    # Labels of points keep off the title, both axes, the names of the baselines and every line.
    taken = [Box(0, 0, WIDTH, TOP - LINE), Box(0, BOTTOM, WIDTH, BOTTOM + 50)]
    taken += [Box(0, TOP, START, BOTTOM), Box(END, TOP, WIDTH, BOTTOM), Box(PAID - 1, TOP, PAID + 1, BOTTOM)]
    for (name, value), y in zip(lines.items(), spread([plane.y(value) for value in lines.values()]), strict=True):
        at = plane.y(value)
        parts += [line(START, at, END, at), line(END, at, END + 14, y, GREY)]
        parts.append(text(END + 18, y, f"{name} {value:.4f}"))
        taken.append(Box(START, at - 1, END, at + 1))
    labels = []
    for number, (method, (without, answered)) in enumerate(methods.items(), start=1):
        colour = METHODS[method][0]
        xs = (START + (PAID - START) * number / (len(methods) + 1), plane.x(answered.dollars))  # side by side at $0
        ys = [plane.y(fmean(point.values)) for point in (without, answered)]
        parts.append(line(xs[0], ys[0], xs[1], ys[1], colour))
        taken += along(xs[0], ys[0], xs[1], ys[1])
        for x, y, point in zip(xs, ys, (without, answered), strict=True):
            low, high = map(plane.y, point.ends)
            parts += [line(x, low, x, high, colour, 3), dot(x, y, colour)]
            taken.append(Box(x - 5, high, x + 5, low))
        labels.append((taken[-1], f"{method}, ${answered.dollars:.3f}"))
    for whisker, words in labels:
        taken.append(beside(whisker, words, taken))
        parts.append(text(taken[-1].left, taken[-1].top + LINE / 2, words))
    title = [
        f"NDCG@10 (mean ± deviation) and price of the answers (ml-100k, three seeds, {PRICE.settings})",
        f"Answers of {LLM}, priced at {RATES}'s rates whoever wrote them; dashed: no LLM",
    ]
    return picture(title, BOTTOM + 50, parts)


PICTURES: Mapping[str, Callable[[], str]] = {"gain": gain_svg, "twin": twin_svg, "price": price_svg}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (ROOT / f"docs/{name}.svg").write_text(draw(), encoding="utf-8")
