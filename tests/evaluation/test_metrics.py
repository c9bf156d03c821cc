"""Metrics from ranks: equal to RecBole's without ties, exact expectations with ties."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.evaluator import metrics as recbole_metrics
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.evaluator import Evaluator

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import METRICS, parse_metric, per_case, summarise
from recbole_llm.evaluation.ranks import Ranks

NAMES = {"hit": "Hit", "ndcg": "NDCG", "mrr": "MRR", "recall": "Recall", "precision": "Precision", "map": "MAP"}


def ranks_of(cases):
    """Ranks of cases, each given as the (higher, tied) pairs of its targets."""
    counts = [len(case) for case in cases]
    higher, tied = (np.array([pair[i] for case in cases for pair in case], dtype=np.int32) for i in (0, 1))
    return Ranks(
        user=np.arange(len(cases)),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        item=np.zeros(len(higher), dtype=np.int32),
        higher=higher,
        tied=tied,
        history=np.ones(len(cases), dtype=np.int32),
        train_count=np.ones(len(higher), dtype=np.int32),
        head=np.ones(len(higher), dtype=bool),
    )


def of_scores(lines):
    """Ranks of cases, each given as the scores and target flags of all its items."""
    cases = []
    for scores, wanted in lines:
        scores, wanted = np.asarray(scores), np.asarray(wanted, dtype=bool)
        cases.append([(int((scores > s).sum()), int((scores == s).sum()) - 1) for s in scores[wanted]])
    return ranks_of(cases)


def recbole_s(name, lines, k):
    """RecBole's metric for each line of a ``(lines, positions)`` table of hits."""
    hits = np.asarray(lines, dtype=bool)
    metric = getattr(recbole_metrics, NAMES[name])({"metric_decimal_place": 12, "topk": [k]})
    needs_lengths = name in ("ndcg", "recall", "map")
    arguments = (hits[:, :k], hits.sum(1)) if needs_lengths else (hits[:, :k],)
    return metric.metric_info(*arguments)[:, k - 1]


# ---- without ties --------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [1, 4, "mixed"])
def test_without_ties_the_means_are_those_of_recbole_s_evaluator(targets):
    generator = np.random.default_rng(8)
    n_cases, n_items, topk = 300, 60, [1, 3, 5, 10, 20, 50]
    scores = np.argsort(generator.random((n_cases, n_items)), axis=1)
    counts = generator.integers(1, 30, n_cases) if targets == "mixed" else np.full(n_cases, targets)
    wanted = np.argsort(np.argsort(generator.random((n_cases, n_items)), axis=1), axis=1) < counts[:, None]
    hits = np.take_along_axis(wanted, np.argsort(-scores, axis=1), axis=1)[:, : max(topk)]
    data = DataStruct()
    data.set("rec.topk", torch.from_numpy(np.column_stack([hits, counts]).astype(np.int64)))
    config = {"metrics": list(NAMES.values()), "topk": topk, "metric_decimal_place": 12}
    theirs = Evaluator(config).evaluate(data)
    ours = summarise(of_scores(zip(scores, wanted, strict=True)), NAMES.values(), topk)
    assert set(ours) == set(theirs)
    assert all(ours[key] == pytest.approx(theirs[key], abs=1e-6) for key in theirs)


# ---- with ties -----------------------------------------------------------------------------------


def orders(scores):
    """All orders that sorting by score may produce, as lists of item indices."""
    groups = [np.flatnonzero(np.asarray(scores) == value) for value in sorted(set(scores), reverse=True)]
    for parts in product(*(permutations(group) for group in groups)):
        yield [item for part in parts for item in part]


def assert_expectation(scores, wanted, name, k):
    lists = np.array(list(orders(scores)))
    expected = recbole_s(name, np.asarray(wanted)[lists], k).mean()
    (found,) = per_case(of_scores([(scores, wanted)]), f"{name}@{k}")
    assert found == pytest.approx(expected, abs=1e-12)


TIED = {
    "one target among equals": ([1, 1, 1, 1], [1, 0, 0, 0]),
    "all are targets": ([1, 1, 1], [1, 1, 1]),
    "two targets tie with two others": ([2, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]),
    "targets in two groups of ties": ([2, 2, 2, 1, 1, 1], [1, 0, 0, 1, 1, 0]),
    "targets in three groups": ([3, 3, 2, 2, 2, 1, 1], [1, 0, 1, 1, 0, 0, 1]),
    "targets last": ([3, 2, 1, 1], [0, 0, 1, 1]),
    "no tie at all": ([4, 3, 2, 1], [0, 1, 0, 1]),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(("scores", "wanted"), TIED.values(), ids=list(TIED))
def test_with_ties_a_metric_is_its_mean_over_all_orders(name, scores, wanted):
    for k in range(1, len(scores) + 1):
        assert_expectation(scores, wanted, name, k)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=7).filter(
        lambda items: any(target for _, target in items)
    ),
    st.data(),
)
def test_any_ties_give_the_mean_over_all_orders(items, data):
    scores, wanted = zip(*items, strict=True)
    k = data.draw(st.integers(1, len(items)))
    for name in METRICS:
        assert_expectation(scores, wanted, name, k)


@pytest.mark.parametrize("name", METRICS)
def test_cases_of_many_kinds_are_computed_each_for_itself(name):
    lines = [TIED[key] for key in TIED]
    together = per_case(of_scores(lines), f"{name}@2")
    alone = [per_case(of_scores([line]), f"{name}@2")[0] for line in lines]
    assert together.tolist() == pytest.approx(alone)


def test_a_model_that_scores_all_items_equally_gets_the_score_of_chance():
    ranks = of_scores([([0.0] * 100, [1] + [0] * 99)])
    assert per_case(ranks, "hit@10")[0] == pytest.approx(0.1)
    assert per_case(ranks, "mrr@100")[0] == pytest.approx(np.mean(1 / np.arange(1, 101)))


# ---- values by hand ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("hit@2", 0.0),
        ("hit@3", 1.0),
        ("ndcg@3", 0.5),
        ("ndcg@2", 0.0),
        ("mrr@5", 1 / 3),
        ("recall@5", 1.0),
        ("precision@5", 0.2),
        ("map@5", 1 / 3),
    ],
)
def test_one_target_at_rank_three(metric, value):
    assert per_case(ranks_of([[(2, 0)]]), metric)[0] == pytest.approx(value)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("hit@1", 1.0),
        ("recall@4", 2 / 3),
        ("precision@4", 0.5),
        ("mrr@4", 1.0),
        ("map@4", (1 + 2 / 4) / 3),
        ("map@2", 1 / 2),
        ("ndcg@4", (1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / 2)),
    ],
)
def test_three_targets_at_ranks_one_four_and_nine(metric, value):
    assert per_case(ranks_of([[(0, 0), (3, 0), (8, 0)]]), metric)[0] == pytest.approx(value)


def test_gauc_weighs_a_case_by_its_targets_and_leaves_out_one_of_targets_alone():
    """The first target beats 6.5 of nine others (a tie counts half); of the next two the first beats three others,
    the second beats two; the last case ranks nothing but its targets."""
    ranks = replace(ranks_of([[(2, 1)], [(0, 0), (2, 0)], [(0, 0), (1, 0)]]), pool=np.array([10, 5, 2]))
    assert per_case(ranks, "gauc").mean() == pytest.approx((6.5 / 9 + 2 * (5 / 6)) / 3)


def test_gauc_needs_the_number_of_ranked_items():
    with pytest.raises(UserError, match="gauc needs the number of ranked items"):
        per_case(ranks_of([[(2, 0)]]), "gauc")


def test_ranks_that_were_looked_for_up_to_a_place_give_no_metric_beyond_it():
    bounded = replace(ranks_of([[(2, 0)]]), cut_off=5, pool=np.array([10]))
    assert per_case(bounded, "mrr@5").tolist() == pytest.approx([1 / 3])
    for metric in ("mrr@6", "gauc"):
        with pytest.raises(UserError, match=f"{metric}: these ranks were looked for up to place 5"):
            per_case(bounded, metric)


@pytest.mark.parametrize("name", METRICS)
def test_a_cut_off_beyond_all_items_is_fine(name):
    assert 0 < per_case(of_scores([([2, 1, 1], [0, 1, 0])]), f"{name}@1000")[0] <= 1


@pytest.mark.parametrize("name", METRICS)
def test_values_lie_between_zero_and_one(name):
    generator = np.random.default_rng(2)
    lines = [(generator.integers(0, 4, 12), generator.permutation(12) < n) for n in generator.integers(1, 12, 50)]
    for k in (1, 3, 12, 30):
        values = per_case(of_scores(lines), f"{name}@{k}")
        assert values.shape == (50,)
        assert values.min() >= 0
        assert values.max() <= 1 + 1e-12


# ---- names ---------------------------------------------------------------------------------------


def test_means_are_keyed_as_recbole_s():
    found = summarise(ranks_of([[(0, 0)], [(4, 0)]]), ["Hit", "NDCG"], [1, 5])
    assert found == pytest.approx({"hit@1": 0.5, "hit@5": 1.0, "ndcg@1": 0.5, "ndcg@5": (1 + 1 / np.log2(6)) / 2})
    assert list(found) == ["hit@1", "hit@5", "ndcg@1", "ndcg@5"]


@pytest.mark.parametrize("text", ["NDCG@10", "ndcg@10", "Ndcg@10"])
def test_letter_case_of_a_metric_does_not_matter(text):
    assert parse_metric(text) == ("ndcg", 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NDGC@10", r"metric 'NDGC@10': known are hit, ndcg, .* Did you mean ndcg\?"),
        ("ndcg", r"metric 'ndcg': write it as ndcg@10"),
        ("ndcg@0", "with a cut-off of 1 or more"),
        ("ndcg@-1", "with a cut-off of 1 or more"),
        ("ndcg@ten", "with a cut-off of 1 or more"),
        ("ndcg@²", "with a cut-off of 1 or more"),
        (f"ndcg@{'9' * 5000}", "with a cut-off of 1 or more"),
        ("@10", "metric '@10': known are"),
    ],
)
def test_a_word_that_is_no_metric_is_a_user_error(text, message):
    with pytest.raises(UserError, match=message):
        parse_metric(text)
