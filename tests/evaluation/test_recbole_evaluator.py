"""Our metrics against RecBole's Evaluator on the same scores, over models and protocols."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector, Evaluator
from recbole.utils import EvaluatorType

from recbole_llm.data.loaders import EvalLoader
from recbole_llm.evaluation.metrics import summarise
from recbole_llm.evaluation.names import RANK_METRICS
from recbole_llm.evaluation.ranks import item_popularity
from recbole_llm.experiments.run import Run
from recbole_llm.registry import find_method
from recbole_llm.settings.layers import layer_settings
from recbole_llm.training.lists import TopLists
from recbole_llm.training.ranking import full_scorer, mask_seen, rank_cases
from recbole_llm.utils.progress import Stopwatch
from tests.helpers import runner

TOPK = [1, 3, 5, 10, 20]
NAMES = [*RANK_METRICS.values(), "GAUC"]
LISTED = ["ItemCoverage", "GiniIndex", "ShannonEntropy", "AveragePopularity", "TailPercentage"]  # RecBole has these
PROTOCOLS = ("loo", "session", "user_split", "temporal_20", "direct_100")
SEQUENTIAL = ("SASRec", "GRU4Rec", "SRGNN", "NARM", "ComiRecSA")
GENERAL = ("BPR", "LightGCN", "EASE")  # cannot rank for users without training data


class Config(dict[str, Any]):
    """A minimal configuration: RecBole's evaluator only uses ``[]`` and ``in``."""

    def __missing__(self, key: str) -> None:
        return None


def theirs(prepared: Any, loader: EvalLoader, masked: bool) -> dict[str, float]:
    """Results of RecBole's collector and evaluator on the model's scores; unranked items score ``-inf``."""
    config = Config(
        metrics=[*NAMES, *LISTED], topk=TOPK, metric_decimal_place=12, device=torch.device("cpu"), tail_ratio=0.2,
        eval_args={"mode": {"valid": "full", "test": "full"}}, eval_type=EvaluatorType.RANKING,
        USER_ID_FIELD="user_id", ITEM_ID_FIELD="item_id", LABEL_FIELD="label",
    )  # fmt: skip
    collector = Collector(config)
    # For sequential models, RecBole's own counter misses the first item of each history.
    items = prepared.dataset.table.item[prepared.dataset.split.train_rows]
    facts = SimpleNamespace(num=lambda _: prepared.dataset.item_num, item_counter=Counter(np.asarray(items).tolist()))
    collector.data_collect(SimpleNamespace(dataset=facts))
    cases, table = loader.cases, loader.table
    score = full_scorer(prepared.model, table, pair_batch=4096)
    for chosen, batch in loader:
        scores = score(batch).clone()
        counts = np.diff(cases.target_offsets)[chosen]
        line = torch.from_numpy(np.repeat(np.arange(len(chosen)), counts))
        rows = np.concatenate([np.arange(*cases.target_offsets[c : c + 2]) for c in chosen])
        targets = table.item[torch.from_numpy(cases.target_rows[rows])].long()
        own = scores[line, targets]
        if cases.candidates is not None:
            kept = torch.zeros_like(scores, dtype=torch.bool)
            kept.scatter_(1, torch.from_numpy(cases.candidates[chosen]).long(), True)
            scores[~kept] = -torch.inf
        elif masked:
            mask_seen(scores, table.item, cases.start[chosen], cases.end[chosen])
        scores[:, 0] = -torch.inf
        scores[line, targets] = own
        collector.eval_batch_collect(scores, {}, line, targets)
    return {name: float(value) for name, value in Evaluator(config).evaluate(collector.get_data_struct()).items()}


def both(model: str, protocol: str, masked: bool = True) -> tuple[dict[str, float], dict[str, float]]:
    """Our metrics and RecBole's for an untrained model, whose scores have no ties."""
    overrides: dict[str, Any] = {"MAX_ITEM_LIST_LENGTH": 10, "seed": 1}
    if protocol == "direct_100":
        overrides["candidates"] = 25  # there are 48 items
    settings = layer_settings(find_method(model), "tiny", protocol, overrides=overrides)
    prepared = runner().prepare(Run.of(settings), Stopwatch())
    prepared.model.eval()
    cases = prepared.dataset.split.test

    def loader() -> EvalLoader:
        return EvalLoader(prepared.device_table(), cases, 16, prepared.sequential)

    counts, _ = item_popularity(
        prepared.dataset.table.item[prepared.dataset.split.train_rows], prepared.dataset.item_num
    )
    lists = TopLists(TOPK, counts, tail_ratio=0.2)
    with torch.no_grad():
        ranks = rank_cases(prepared.model, loader(), masked, lists=lists, count_pools=True)
        assert not ranks.tied.any()
        found = theirs(prepared, loader(), masked)
    return summarise(ranks, NAMES, TOPK) | lists.totals().summarise(LISTED), found


def largest_difference(model: str, protocol: str, masked: bool = True) -> float:
    """Largest difference between ours and RecBole's, over all metrics and cut-offs."""
    ours, found = both(model, protocol, masked)
    assert len(found) == len(TOPK) * (len(NAMES) - 1 + len(LISTED)) + 1
    return max(abs(ours[name] - found[name]) for name in found)


GRID = [(m, p) for m in SEQUENTIAL for p in PROTOCOLS] + [(m, p) for m in GENERAL for p in ("loo", "direct_100")]


@pytest.mark.parametrize(("model", "protocol"), GRID)
def test_ranks_and_lists_give_the_metrics_of_recbole_s_evaluator(tiny, model, protocol):
    assert largest_difference(model, protocol) < 1e-6


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_so_they_do_where_seen_items_are_ranked(tiny, model):
    assert largest_difference(model, "loo", masked=False) < 1e-6
