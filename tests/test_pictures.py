"""The pictures of the documentation are those that the kept records give, and can be read."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from functools import cache
from itertools import combinations, pairwise, product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from xml.etree import ElementTree

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.utils.yaml import read_yaml

ROOT = Path(__file__).parents[1]
PICTURES = runpy.run_path(str(ROOT / "docs/pictures.py"))
Box = PICTURES["Box"]
NAMES = sorted(PICTURES["PICTURES"])
every_picture = pytest.mark.parametrize("name", NAMES)


def elements(name: str, kind: str) -> list[ElementTree.Element]:
    """The circles, lines or texts of a picture on the disk."""
    root = ElementTree.parse(ROOT / f"docs/{name}.svg").getroot()  # our own file
    return root.findall(f".//{{http://www.w3.org/2000/svg}}{kind}")


def numbers(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.attrib[name]) for name in names]


def box_of(words: ElementTree.Element) -> Any:
    """About what a text takes up."""
    x, y = numbers(words, "x", "y")
    width = 7 * len(words.text or "")
    left = x - width * {None: 0.0, "middle": 0.5, "end": 1.0}[words.get("text-anchor")]
    return Box(left, y - 10, left + width, y + 3)


def lines_of(name: str) -> list[tuple[float, float, float, float]]:
    return [tuple(numbers(each, "x1", "y1", "x2", "y2")) for each in elements(name, "line")]


@cache
def store(folder: str) -> list[Record]:
    return list(ResultStore(ROOT / "results" / folder))


def kept(where: tuple[str, bool], dataset: str, protocol: str) -> list[Record]:
    folder, tuned = where
    return [each for each in store(folder) if (each.dataset, each.protocol, each.tuned) == (dataset, protocol, tuned)]


@cache
def drawn(what: str) -> Mapping[Any, Any]:
    """``gains``, ``twins`` or ``prices``."""
    return PICTURES[what]()


@every_picture
def test_a_picture_is_drawn_from_the_records(name: str) -> None:
    assert (ROOT / f"docs/{name}.svg").read_text(encoding="utf-8") == PICTURES["PICTURES"][name]()


@every_picture
def test_nothing_leaves_a_picture(name: str) -> None:
    root = ElementTree.parse(ROOT / f"docs/{name}.svg").getroot()
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    dots = [(x - r, y - r, x + r, y + r) for x, y, r in (numbers(e, "cx", "cy", "r") for e in elements(name, "circle"))]
    texts = [box_of(each) for each in elements(name, "text")]
    for x1, y1, x2, y2 in [*dots, *lines_of(name), *texts]:
        assert 0 <= min(x1, x2) <= max(x1, x2) <= width
        assert 0 <= min(y1, y2) <= max(y1, y2) <= height


@every_picture
def test_no_text_covers_another_or_a_line(name: str) -> None:
    texts = elements(name, "text")
    assert len(texts) > 10
    for first, second in combinations(texts, 2):
        assert not box_of(first).meets(box_of(second)), (first.text, second.text)
    for words, (x1, y1, x2, y2) in product(texts, lines_of(name)):
        for step in range(201):
            x, y = x1 + (x2 - x1) * step / 200, y1 + (y2 - y1) * step / 200
            assert not box_of(words).meets(Box(x - 1, y - 1, x + 1, y + 1)), words.text


@pytest.mark.parametrize("name", ["gain", "twin"])
def test_intervals_stay_between_the_ends_of_the_axis(name: str) -> None:
    left, right = PICTURES["LEFT"], PICTURES["WIDTH"] - PICTURES["RIGHT"]
    found = [(x1, x2) for x1, y1, x2, y2 in lines_of(name) if y1 == y2]
    assert found
    assert all(left < low < high < right for low, high in found)


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        (0.0132, [0, 0.005, 0.01, 0.015]),
        (0.0251, [0, 0.01, 0.02, 0.03]),
        (0.034, [0, 0.02, 0.04]),
        (0.03, [0, 0.02, 0.04]),
    ],
)
def test_the_axis_ends_above_the_data(largest: float, ticks: list[float]) -> None:
    assert PICTURES["ticks_to"](largest) == pytest.approx(ticks)


def test_every_gain_that_has_records_is_drawn() -> None:
    found = drawn("gains")
    assert len(elements("gain", "circle")) == len(found) > 0
    assert not any(each.one_training for each in found.values())  # the title says three seeds
    for method, base in PICTURES["BACKBONES"].items():
        runs = [each for each in kept(base.kept, "ml-100k", "loo") if each.model == method]
        wanted = {PICTURES["control_of"](each) for each in runs}
        assert {control for name, control in found if name == method} == wanted


def test_every_pair_that_has_records_is_drawn() -> None:
    found = drawn("twins")
    wanted = set()
    for dataset, protocol in product(PICTURES["DATASETS"], PICTURES["PROTOCOLS"]):
        there = {(each.model, each.semantics) for each in kept(PICTURES["TWIN"], dataset, protocol)}
        wanted |= {
            (pair, dataset, protocol)
            for pair in PICTURES["PAIRS"]
            if {(pair.first, pair.semantics), (pair.second, "none")} <= there
        }
    assert set(found) == wanted
    assert len(elements("twin", "circle")) == len(found) + 2  # and the legend
    texts = [each.text for each in elements("twin", "text")]
    rows = {(pair, dataset) for pair, dataset, _ in wanted}
    assert texts.count("no run") == 2 * len(rows) - len(found)
    assert {pair.title for pair in PICTURES["PAIRS"]} <= set(texts)
    assert 2 * sum(each.one_training for each in found.values()) > len(found)  # as the title says


def test_differences_are_those_of_the_rows() -> None:
    for (pair, dataset, protocol), each in drawn("twins").items():
        records = kept(PICTURES["TWIN"], dataset, protocol)
        first, second = (
            fmean(record.metrics["ndcg@10"].value for record in records if record.model == model)
            for model in (pair.first, pair.second)
        )
        assert each.difference == pytest.approx(first - second)


def test_every_price_and_baseline_is_drawn() -> None:
    found, lines = drawn("prices"), PICTURES["baselines"]()
    assert list(found) == ["EIMF", "LDMI", "ISRF"]
    assert len(elements("price", "circle")) == 2 * len(found)
    texts = [each.text for each in elements("price", "text")]
    assert {f"{name} {value:.4f}" for name, value in lines.items()} <= set(texts)
    assert {f"{method}, ${answered.dollars:.3f}" for method, (_, answered) in found.items()} <= set(texts)
    assert set(lines) == set(PICTURES["BASELINES"])


def test_points_stand_at_their_prices_and_reach_a_deviation_up_and_down() -> None:
    found, lines = drawn("prices"), PICTURES["baselines"]()
    plane = PICTURES["Plane"].around([point for pair in found.values() for point in pair], lines.values())
    dots = [numbers(each, "cx", "cy") for each in elements("price", "circle")]
    wanted = [point for pair in found.values() for point in pair]
    for (x, y), point in zip(dots, wanted, strict=True):
        assert y == pytest.approx(plane.y(fmean(point.values)), abs=0.1)
        assert x == pytest.approx(plane.x(point.dollars), abs=0.1) if point.dollars else x < PICTURES["PAID"]
        low, high = map(plane.y, point.ends)
        assert any(
            (x1, x2) == (x, x) and (y1, y2) == pytest.approx((low, high), abs=0.1)
            for x1, y1, x2, y2 in lines_of("price")
        )
    assert plane.x(0.1) - plane.x(0.01) == pytest.approx(plane.x(1) - plane.x(0.1))


def test_dots_and_intervals_are_on_one_scale() -> None:
    left, right = PICTURES["LEFT"], PICTURES["WIDTH"] - PICTURES["RIGHT"]
    for name in ("gain", "twin"):
        found = list(drawn(f"{name}s").values())
        largest = max(float(each.text) for each in elements(name, "text") if each.text and each.text[0] == "+")
        at = {
            tuple(round((left + right) / 2 + (right - left) / 2 * value / largest, 1) for value in (x.low, x.high))
            for x in found
        }
        assert at == {(x1, x2) for x1, y1, x2, y2 in lines_of(name) if y1 == y2}


def test_prices_are_those_of_the_tokens_at_the_rates_of_the_file() -> None:
    rates = read_yaml(ROOT / "properties/llm/gpt-4o-mini.yaml")
    records = kept(PICTURES["PRICE"], "ml-100k", "loo")
    for method, (without, answered) in drawn("prices").items():
        runs = [each for each in records if each.model == method and each.semantics == "llm"]
        runs = [each for each in runs if each.features.llm == "claude-2026-11"]
        facts = runs[0].features
        assert answered.dollars == pytest.approx(
            (facts.tokens_in * rates["price_in"] + facts.tokens_out * rates["price_out"]) / 1e6
        )
        assert without.dollars == 0
        assert sorted(answered.values) == sorted(each.metrics["ndcg@10"].value for each in runs)
        assert len(answered.values) == len(without.values) == 3  # as the title says
        low, high = answered.ends
        assert high - low == pytest.approx(2 * stdev(answered.values))


def test_texts_are_escaped() -> None:
    row = PICTURES["Row"]("A & <b>", "#000000", next(iter(drawn("gains").values())))
    svg = PICTURES["intervals"](["1 < 2 & 3"], {"<group>": [row]}, {"<loo> & gts": "#000000"})
    texts = [each.text for each in ElementTree.fromstring(svg).iter() if each.tag.endswith(("text", "title"))]
    assert {"1 < 2 & 3", "<group>", "A & <b>", "<loo> & gts"} <= set(texts)


def test_texts_of_one_height_are_moved_apart() -> None:
    found = PICTURES["spread"]([100, 101, 117, 300])
    assert found == sorted(found)
    assert all(below - above >= PICTURES["LINE"] - 0.01 for above, below in pairwise(found))
    assert found[3] == 300  # has room


def test_a_label_stands_where_it_meets_nothing() -> None:
    point = Box(95, 90, 105, 110)
    taken = [point]
    for _ in range(6):
        place = PICTURES["beside"](point, "EIMF", taken)
        assert not any(place.meets(each) for each in taken)
        taken.append(place)
    above, below, right, left, *farther = taken[1:]
    assert above.bottom <= point.top < point.bottom <= below.top
    assert left.right < point.left < point.right < right.left
    assert {each.top < above.top or each.bottom > below.bottom for each in farther} == {True}
    with pytest.raises(UserError, match="No room"):
        PICTURES["beside"](point, "EIMF", [Box(0, -1000, 1000, 1000)])


def test_two_rows_are_not_drawn_as_one() -> None:
    (record, *_) = kept(PICTURES["PRICE"], "ml-100k", "loo")
    with pytest.raises(UserError, match="same seed"):
        PICTURES["seeds_of"]([record, record])
