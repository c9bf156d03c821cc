"""The documentation's pictures agree with the kept records and are legible."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox

from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import Comparison, Family
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.utils.yaml import read_yaml

ROOT = Path(__file__).parents[1]
PICTURES = runpy.run_path(str(ROOT / "docs/pictures.py"))
NAMES = sorted(PICTURES["PICTURES"])
SVG = "{http://www.w3.org/2000/svg}"
Values = tuple[float, ...]
every_picture = pytest.mark.parametrize("name", NAMES)


class Shown(NamedTuple):
    """What a picture shows, in axis values.

    Attributes:
        bars: low end, dot and high end, by heading and label; ``None`` where there is no run.
        colours: colours of the bars, by heading and label.
        marks: positions of the dashed lines, by heading.
    """

    bars: Mapping[tuple[str, str], Values | None]
    colours: Mapping[tuple[str, str], str]
    marks: Mapping[str, Values]


@cache
def on_disk(name: str) -> ElementTree.Element:
    return ElementTree.parse(ROOT / f"docs/{name}.svg").getroot()  # a trusted file


def named(element: ElementTree.Element, start: str) -> list[ElementTree.Element]:
    """The groups in an element whose id begins with ``start``."""
    return [each for each in element.iter(f"{SVG}g") if each.get("id", "").startswith(start)]


def place_of(text: ElementTree.Element) -> tuple[float, float]:
    """Anchor point of a text."""
    if "x" in text.attrib:
        return float(text.attrib["x"]), float(text.attrib["y"])
    x, y = re.findall(r"[-\d.]+", text.attrib["transform"])
    return float(x), float(y)


def points_of(group: ElementTree.Element) -> list[tuple[float, float]]:
    """Points of the line in a group."""
    path = group.find(f"{SVG}path")
    assert path is not None
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.attrib["d"])]


def texts_in(element: ElementTree.Element, start: str) -> list[ElementTree.Element]:
    return [text for group in named(element, start) for text in group.iter(f"{SVG}text")]


def shown(root: ElementTree.Element) -> Shown:
    """Read a picture."""
    ticks = {float((each.text or "").replace("−", "-")): place_of(each)[0] for each in texts_in(root, "xtick_")}
    (low, left), (high, right) = min(ticks.items()), max(ticks.items())

    def value(x: float) -> float:
        return low + (x - left) * (high - low) / (right - left)

    bars: dict[tuple[str, str], Values | None] = {}
    colours, marks = {}, {}
    for panel in named(root, "axes_"):
        heading = panel.findall(f"{SVG}g")[-1].findtext(f"{SVG}text", "")
        labels = {place_of(each)[1]: each.text or "" for each in texts_in(panel, "ytick_")}
        marks[heading] = tuple(value(x) for group in named(panel, "mark-") for x, _ in points_of(group)[:1])
        bars.update({(heading, each.removesuffix(": no run")): None for each in labels.values() if "no run" in each})
        for group in named(panel, "bar-"):
            (start, height), (_, _), (end, _) = points_of(group)
            dot = group.find(f".//{SVG}use")
            assert dot is not None
            label = labels[min(labels, key=lambda y, at=height: abs(y - at))]
            assert (heading, label) not in bars
            bars[heading, label] = (value(start), value(float(dot.attrib["x"])), value(end))
            (colours[heading, label],) = set(re.findall(r"#\w{6}", dot.attrib["style"]))
    return Shown(bars, colours, marks)


@cache
def kept(folder: str, dataset: str, protocol: str) -> list[Record]:
    records = ResultStore(ROOT / "results" / folder)
    return [each for each in records if (each.dataset, each.protocol) == (dataset, protocol)]


def compared(folder: str, first: list[Record], second: list[Record]) -> Comparison:
    store = ResultStore(ROOT / "results" / folder)
    ranks = {str(at): [Ranks.load(store.ranks_of(each)) for each in row] for at, row in enumerate((first, second))}
    found = Family(ranks, "ndcg@10").compare()[0]
    assert found.difference == pytest.approx(mean(first) - mean(second))
    return found


def mean(row: list[Record]) -> float:
    return fmean(each.metrics["ndcg@10"].value for each in row)


def assert_bars(bars: Mapping[tuple[str, str], Values | None], wanted: Mapping[tuple[str, str], Values | None]) -> None:
    assert list(bars) and set(bars) == set(wanted)
    for row, bar in wanted.items():
        assert bars[row] == (bar if bar is None else pytest.approx(bar, abs=1e-6)), row


def interval(found: Comparison) -> Values:
    return found.low, found.difference, found.high


def test_gains_are_those_of_the_records() -> None:
    def source(record: Record) -> str:
        if record.semantics != "llm":
            return record.semantics
        assert record.features is not None
        return "offline" if record.features.llm == "offline" else "llm"

    wanted: dict[tuple[str, str], Values | None] = {}
    rows = kept("answers", "ml-100k", "loo")
    small = "qwen2.5-coder-1.5b-instruct-q4_k_m"  # whose answers are not drawn
    records = [each for each in rows if each.features is None or each.features.llm_model != small]
    for heading, method, backbone in (
        ("EIMF − REMI", "EIMF", "REMI"),
        ("LDMI − ComiRecDR", "LDMI", "ComiRecDR"),
        ("LLMDMsRec − SRGNN", "LLMDMsRec", "SRGNN"),
        ("ISRF − ISRF without its graph", "ISRF", "ISRF"),
    ):
        below = [each for each in records if each.model == backbone]
        if backbone == "ComiRecDR":  # as LDMI routes
            below = [each for each in below if each.settings["routing_transform"] == "interest"]
            below = [each for each in below if each.settings["interest_scale"] == 1.0]
        if backbone == "ISRF":
            below = [each for each in below if not each.settings["graph_words"]]
        for control in ("llm", "offline", "shuffled", "none"):
            row = [each for each in records if each.model == method and source(each) == control]
            row = [each for each in row if method != "ISRF" or each.settings["graph_words"]]
            assert len(row) == len(below) == 3  # as the title says
            wanted[heading, control] = interval(compared("answers", row, below))
    found = shown(on_disk("gain"))
    assert_bars(found.bars, wanted)
    assert {label: found.colours[heading, label] for heading, label in found.colours} == PICTURES["CONTROLS"]
    assert set(found.marks) == {heading for heading, _ in wanted}
    assert all(each == pytest.approx((0,), abs=1e-6) for each in found.marks.values())


def test_differences_in_time_are_those_of_the_records() -> None:
    def side(words: str) -> tuple[str, str]:
        model, _, source = words.partition(" (")
        return model, source.removesuffix(")") or "none"

    wanted: dict[tuple[str, str], Values | None] = {}
    alone = []
    for heading in (
        "LLMDMsRec (offline) − SRGNN",
        "EIMF (offline) − REMI",
        "EIMF (offline) − SASRec",
        "VSKNN − SASRec",
        "SASRecText (text) − SASRec",
    ):
        pair = [side(words) for words in heading.split(" − ")]
        for dataset, name in (("beauty-times", "Beauty"), ("toys-times", "Toys"), ("games18-times", "Games")):
            found: dict[str, Comparison | None] = {}
            for protocol in ("loo", "gts"):
                records = kept("times", dataset, protocol)
                first, second = ([each for each in records if (each.model, each.semantics) == side] for side in pair)
                found[protocol] = compared("times", first, second) if first and second else None
            if any(found.values()):
                wanted.update({(heading, f"{name}, {key}"): each and interval(each) for key, each in found.items()})
                alone += [each.one_training for each in found.values() if each]
    root = on_disk("twin")
    picture = shown(root)
    assert_bars(picture.bars, wanted)
    assert all(each == pytest.approx((0,), abs=1e-6) for each in picture.marks.values())
    assert 2 * sum(alone) > len(alone)  # as the title says
    words = [(each.text or "").split(":")[0] for each in texts_in(root, "legend_")]
    colours = [re.findall(r"#\w{6}", each.attrib["style"])[0] for each in named(root, "legend_")[0].iter(f"{SVG}use")]
    assert len(words) == len(colours) == 2
    legend = dict(zip(words, colours, strict=True))
    assert {label.split(", ")[1]: colour for (_, label), colour in picture.colours.items()} == legend


def test_prices_and_accuracies_are_those_of_the_records() -> None:
    rates = read_yaml(ROOT / "properties/llm/gpt-4o-mini.yaml")
    records = kept("answers", "ml-100k", "loo")

    def bar(row: list[Record]) -> Values:
        deviation = stdev(each.metrics["ndcg@10"].value for each in row)
        return mean(row) - deviation, mean(row), mean(row) + deviation

    wanted: dict[tuple[str, str], Values | None] = {}
    for method in ("EIMF", "LDMI", "ISRF", "LLMDMsRec"):
        runs = [each for each in records if each.model == method and each.settings.get("graph_words", True)]
        answered = [each for each in runs if each.semantics == "llm" and each.features.llm == "claude-2026-11"]
        without = [each for each in runs if each.semantics == "none"]
        assert len(answered) == len(without) == 3  # as the title says
        facts = answered[0].features
        assert facts is not None
        dollars = (facts.tokens_in * rates["price_in"] + facts.tokens_out * rates["price_out"]) / 1e6
        wanted[method, "without answers, $0"] = bar(without)
        wanted[method, f"with answers, ${dollars:.3f}"] = bar(answered)
    baselines = ("SRGNN", "VSKNN", "REMI", "EASE", "Pop")
    means = [mean([each for each in records if each.model == model]) for model in baselines]
    assert means == sorted(means, reverse=True)
    for model, value in zip(baselines, means, strict=True):
        wanted["No LLM", f"{model}, {value:.4f}"] = (value, value, value)
    found = shown(on_disk("price"))
    assert_bars(found.bars, wanted)
    assert list(found.marks) == ["EIMF", "LDMI", "ISRF", "LLMDMsRec", "No LLM"]
    assert all(each == pytest.approx(means, abs=1e-6) for each in found.marks.values())


@every_picture
def test_the_file_says_what_the_script_draws_now(name: str) -> None:
    then, now = on_disk(name), ElementTree.fromstring(PICTURES["svg"](name))
    assert [each.text for each in then.iter(f"{SVG}text")] == [each.text for each in now.iter(f"{SVG}text")]
    assert then.findtext(f"{SVG}title") == now.findtext(f"{SVG}title")
    assert_bars(shown(then).bars, shown(now).bars)
    assert shown(then).colours == shown(now).colours


def test_a_second_drawing_has_the_same_bytes() -> None:
    first, second = PICTURES["svg"]("price"), PICTURES["svg"]("price")
    assert first == second
    assert "<dc:date>" not in first


def boxes_of(root: ElementTree.Element) -> Iterator[tuple[str, Bbox]]:
    """Bounding boxes of the texts and bars of a picture."""
    for text in root.iter(f"{SVG}text"):
        look = dict(each.split(": ") for each in text.attrib["style"].split("; "))
        font = FontProperties(family="DejaVu Sans", weight=int(look.get("font-weight", 400)))
        box = TextPath((0, 0), text.text or "", size=float(look["font-size"].removesuffix("px")), prop=font)
        extents = box.get_extents()
        x, y = place_of(text)
        x -= extents.width * {"start": 0.0, "middle": 0.5, "end": 1.0}[look.get("text-anchor", "start")]
        yield text.text or "", Bbox([[x, y - extents.y1], [x + extents.width, y - extents.y0]])
    for group in named(root, "bar-"):
        (left, y), _, (right, _) = points_of(group)
        yield group.attrib["id"], Bbox([[left - 3, y - 3], [right + 3, y + 3]])  # with the dot


@every_picture
def test_nothing_overlaps_or_leaves_the_picture(name: str) -> None:
    root = on_disk(name)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    boxes = list(boxes_of(root))
    for what, box in boxes:
        assert 0 < box.x0 < box.x1 < width and 0 < box.y0 < box.y1 < height, what
    for (first, box), (second, other) in combinations(boxes, 2):
        assert not box.overlaps(other), (first, second)


@every_picture
def test_a_picture_can_be_read_on_a_dark_page(name: str) -> None:
    root = on_disk(name)
    (style,) = (each.text or "" for each in root.iter(f"{SVG}style"))
    assert "@media (prefers-color-scheme: dark) {text {fill: #e5e7eb} #page path {fill: #0d1117 !important}}" in style
    (page,) = named(root, "page")
    assert "fill: #ffffff" in page[0].attrib["style"]
    assert not any("fill" in each.attrib["style"] for each in root.iter(f"{SVG}text"))  # or the style has no say


def test_two_rows_are_not_drawn_as_one() -> None:
    (record, *_) = kept("answers", "ml-100k", "loo")
    with pytest.raises(UserError, match="same seed"):
        PICTURES["seeds_of"]([record, record])
