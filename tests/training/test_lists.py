"""List metrics over the top positions against their definitions; test_recbole_evaluator compares RecBole's values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
import torch

from recbole_llm.evaluation.ranks import head_items
from recbole_llm.training import lists as module
from recbole_llm.training.lists import ItemCategories, TopLists

COUNTS = np.array([0, 8, 4, 2, 1, 1, 0])  # training counts of ids 0..6; 6 is cold


def lists_of(scores: list[list[float]], topk: tuple[int, ...] = (2,), **options: float) -> TopLists:
    lists = TopLists(topk, COUNTS, **options)
    lists.add(torch.tensor(scores))
    return lists


def counts_of(lists: TopLists, k: int) -> np.ndarray:
    return lists.totals().counts[lists.topk.index(k)]


def line(*best: int) -> list[float]:
    """Scores that rank the given ids first, in this order."""
    values = [-float("inf"), *np.linspace(-1, -2, 6)]
    for place, item in enumerate(best):
        values[item] = 10.0 - place
    return values


def test_counts_are_those_of_the_first_places() -> None:
    lists = lists_of([line(1, 2, 3), line(1, 5, 3)], topk=(1, 2, 3))
    assert counts_of(lists, 1).tolist() == [0, 2, 0, 0, 0, 0, 0]
    assert counts_of(lists, 2).tolist() == [0, 2, 1, 0, 0, 1, 0]
    assert counts_of(lists, 3).tolist() == [0, 2, 1, 2, 0, 1, 0]


def test_blocks_add_up() -> None:
    whole, parts = lists_of([line(1, 2), line(3, 4)]), lists_of([line(1, 2)])
    parts.add(torch.tensor([line(3, 4)]))
    assert counts_of(parts, 2).tolist() == counts_of(whole, 2).tolist()


def test_places_that_nothing_can_fill_stay_empty() -> None:
    nothing = -float("inf")
    lists = lists_of([[nothing, nothing, 1.0, nothing, nothing, nothing, nothing]])
    assert counts_of(lists, 2).tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_candidates_are_counted_by_their_ids() -> None:
    lists = TopLists([1], COUNTS)
    lists.add(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([[3, 4], [5, 1]]))
    assert counts_of(lists, 1).tolist() == [0, 0, 0, 0, 1, 1, 0]


def test_ties_are_not_broken_by_the_id() -> None:
    """Otherwise a model that scores all items equally would show the lowest ids to every user."""
    lists = TopLists([3], np.ones(200))
    lists.add(torch.cat([torch.full((5, 1), -torch.inf), torch.zeros(5, 199)], dim=1))
    shown = np.flatnonzero(counts_of(lists, 3))
    assert shown.tolist() != [1, 2, 3]
    assert counts_of(lists, 3).sum() == 15


def test_ties_among_candidates_are_not_broken_by_their_columns() -> None:
    """The target is the first candidate of every case; an item's column must not decide whether it is shown."""
    items = torch.stack([torch.randperm(200, generator=torch.Generator().manual_seed(n))[:20] + 1 for n in range(400)])
    lists = TopLists([5], np.ones(201), metrics=["serendipity"])
    lists.add(torch.zeros(400, 20), items, (torch.arange(400), items[:, 0]))
    mirrored = TopLists([5], np.ones(201), metrics=["serendipity"])
    mirrored.add(torch.zeros(400, 20), items.flip(1), (torch.arange(400), items[:, 0]))
    assert counts_of(lists, 5).tolist() == counts_of(mirrored, 5).tolist()
    assert 0 < lists.totals().means["serendipity"][0] == mirrored.totals().means["serendipity"][0] < 0.1


def test_lists_without_a_case_are_empty() -> None:
    assert TopLists([2], COUNTS).totals().summarise(["ItemCoverage", "Novelty"]) == {
        "itemcoverage@2": 0,
        "novelty@2": 0,
    }


# ---- diversity, serendipity, calibration, exposure ------------------------------------------------

TEXTS = ["", "a b", "a", "b c", "", "c d a", "d", "a b", "c"]  # categories of ids 0..8; 4 has none
TRAINED = np.array([0, 9, 7, 7, 5, 3, 3, 1, 0])
VECTORS = (
    np.random.default_rng(3).normal(size=(9, 4)).astype(np.float32) * (np.arange(9) % 7 != 0)[:, None]
)  # item 7 has none
METRICS = ("serendipity", "ildcategories", "ildvectors", "miscalibration", "exposureratio")
TOPK = (1, 2, 3, 5)
CASES = 40


@pytest.fixture(params=["all items", "candidates"])
def block(request):
    """Scores, candidates, one to three targets and possibly empty histories of cases; items seen are not ranked."""
    generator = np.random.default_rng(11)
    scores = torch.from_numpy(generator.permuted(np.tile(np.arange(9.0), (CASES, 1)), axis=1))
    scores[:, 0] = -torch.inf
    targets = [generator.choice(np.arange(1, 9), generator.integers(1, 4), replace=False) for _ in range(CASES)]
    histories = [generator.integers(1, 9, generator.integers(0, 6)) for _ in range(CASES)]
    for case, (own, seen) in enumerate(zip(targets, histories, strict=True)):
        scores[case, sorted(set(seen.tolist()) - set(own.tolist()))] = -torch.inf
    candidates = None
    if request.param == "candidates":
        others = [np.setdiff1d(np.arange(1, 9), own) for own in targets]
        lines = [
            np.concatenate([own, generator.permutation(rest)])[:5] for own, rest in zip(targets, others, strict=True)
        ]
        candidates = torch.from_numpy(np.array(lines))
        scores = scores.gather(1, candidates)
    return scores, candidates, targets, histories


def counted(block, cases: Sequence[int]) -> dict[str, np.ndarray]:
    """The means that our counters give for some cases, which are added in two blocks."""
    scores, candidates, targets, histories = block
    lists = TopLists(TOPK, TRAINED, None, METRICS, ItemCategories.of(TEXTS), VECTORS)
    for part in (cases[: len(cases) // 3], cases[len(cases) // 3 :]):

        def flat(values: list[np.ndarray], part: Sequence[int] = part) -> tuple[torch.Tensor, torch.Tensor]:
            rows = np.repeat(np.arange(len(part)), [len(values[case]) for case in part])
            return torch.from_numpy(rows), torch.from_numpy(
                np.concatenate([values[case] for case in part]).astype(np.int64)
            )

        own = None if candidates is None else candidates[list(part)]
        lists.add(scores[list(part)].clone(), own, flat(targets), lambda: flat(histories))
    return lists.totals().means


def shown(block, case: int, k: int) -> list[int]:
    """The items in the first ``k`` positions of a case."""
    scores, candidates, _, _ = block
    order = np.argsort(-scores[case].numpy(), kind="stable")
    columns = np.arange(9) if candidates is None else candidates[case].numpy()
    return [int(columns[place]) for place in order if scores[case, place] > -torch.inf][:k]


def mean(values: Sequence[float | None]) -> float:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else math.nan


def jaccard(items: list[int]) -> float | None:
    sets = [set(TEXTS[item].split()) for item in items if TEXTS[item]]
    return mean([1 - len(a & b) / len(a | b) for a, b in combinations(sets, 2)]) if len(sets) > 1 else None


def cosine(items: list[int]) -> float | None:
    vectors = [VECTORS[item] for item in items if VECTORS[item].any()]
    pairs = [1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(vectors, 2)]
    return mean(pairs) if pairs else None


def distribution(items: Sequence[int]) -> dict[str, float]:
    known = [TEXTS[item].split() for item in items if TEXTS[item]]
    found: dict[str, float] = {}
    for names in known:
        for name in names:
            found[name] = found.get(name, 0.0) + 1 / len(names) / len(known)
    return found


def divergence(history: Sequence[int], items: list[int]) -> float | None:
    p, q = distribution(history), distribution(items)
    if not p or not q:
        return None
    return sum(share * math.log(share / (0.99 * q.get(name, 0.0) + 0.01 * share)) for name, share in p.items())


def popular(block, case: int, k: int, order: list[int]) -> list[int]:
    scores, candidates, _, _ = block
    columns = list(range(9)) if candidates is None else candidates[case].tolist()
    ranked = {item for place, item in enumerate(columns) if scores[case, place] > -torch.inf}
    return [item for item in order if item in ranked][:k]


def test_means_are_those_of_the_definitions(block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", 4 * 5 * 5 * 3)  # room for three cases at a time
    found = counted(block, range(CASES))
    place = module.Serendipity(TOPK, TRAINED)._place.numpy()
    order = np.argsort(place).tolist()
    assert [TRAINED[item] for item in order] == sorted(TRAINED, reverse=True)
    _, _, targets, histories = block
    head = head_items(TRAINED)
    assert np.flatnonzero(head).tolist() == [1]
    for number, k in enumerate(TOPK):
        lists = [shown(block, case, k) for case in range(CASES)]
        assert found["ildcategories"][number] == pytest.approx(mean(list(map(jaccard, lists))), nan_ok=True)
        assert found["ildvectors"][number] == pytest.approx(mean(list(map(cosine, lists))), nan_ok=True, abs=1e-6)
        drift = [divergence(histories[case], lists[case]) for case in range(CASES)]
        assert found["miscalibration"][number] == pytest.approx(mean(drift), abs=1e-6)
        good = [
            len(set(lists[case]) & set(targets[case].tolist()) - set(popular(block, case, k, order))) / k
            for case in range(CASES)
        ]
        assert found["serendipity"][number] == pytest.approx(mean(good))
        gains = [(item, 1 / math.log2(rank + 2)) for items in lists for rank, item in enumerate(items)]
        top, rest = (sum(gain for item, gain in gains if head[item] == group) for group in (True, False))
        assert found["exposureratio"][number] == pytest.approx(rest / 7 / (top / 1), nan_ok=True)
    assert np.isnan(found["ildcategories"][0])  # a list of one item has no pairs
    assert found["serendipity"][1:3].min() > 0


def test_a_perfectly_calibrated_list_has_no_divergence() -> None:
    lists = TopLists([2], TRAINED, metrics=["miscalibration"], categories=ItemCategories.of(TEXTS))
    scores = torch.full((1, 9), -torch.inf)
    scores[0, [2, 6]] = torch.tensor([2.0, 1.0])
    zeros = torch.zeros(4, dtype=torch.int64)
    lists.add(scores, None, (zeros[:1], torch.tensor([2])), lambda: (zeros, torch.tensor([2, 6, 6, 2])))
    assert lists.totals().means["miscalibration"][0] == pytest.approx(0, abs=1e-7)


def test_what_popularity_shows_too_is_no_serendipity() -> None:
    """The target is the most popular item. Masked items are left out of the popularity list as well."""
    scores = torch.tensor([[-torch.inf, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0]] * 2)
    scores[1, 1:4] = -torch.inf
    lists = TopLists([1], TRAINED, metrics=["serendipity"])
    targets = torch.tensor([0, 1]), torch.tensor([1, 4])
    lists.add(scores, None, targets)
    assert lists.totals().means["serendipity"].tolist() == [0.0]
    other = TopLists([1], TRAINED, metrics=["serendipity"])
    other.add(
        scores.roll(4, 1).index_fill(1, torch.tensor([0]), -torch.inf), None, (torch.tensor([0]), torch.tensor([5]))
    )
    assert other.totals().means["serendipity"].tolist() == [0.5]


def test_measures_that_nobody_asked_for_are_not_counted() -> None:
    assert lists_of([line(1, 2)]).totals().means == {}


@pytest.mark.parametrize(
    ("texts", "names", "first"),
    [
        (["", "Makeup, Nails, Nail Polish", "Nails", ""], ["Makeup", "Nail Polish", "Nails"], [0, 2, 1]),
        (["", "Animation Children's Comedy", "Comedy Comedy", "Drama"], None, [0, 1, 2]),
    ],
)
def test_categories_are_names_between_commas_or_words(
    texts: list[str], names: list[str] | None, first: list[int]
) -> None:
    found = ItemCategories.of(texts)
    assert found.names == (names or ["Animation", "Children's", "Comedy", "Drama"])
    assert found.table[1].tolist() == first
    assert found.table[0].tolist() == [len(found.names)] * 3
    assert (found.table[2] < len(found.names)).sum() == 1
