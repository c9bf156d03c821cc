"""Our metrics against ir-measures, an implementation independent of RecBole and of us."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm.evaluation.metrics import per_case
from tests.evaluation.test_metrics import of_scores

ir_measures = pytest.importorskip("ir_measures")

CASES, ITEMS = 200, 80
NAMES = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "RR@10",
    "precision@5": "P@5",
    "recall@20": "R@20",
    "hit@5": "Success@5",
}


@pytest.mark.parametrize("targets", [1, 5])
@pytest.mark.parametrize("metric", NAMES)
def test_values_are_those_of_ir_measures(metric: str, targets: int) -> None:
    generator = np.random.default_rng(3)
    scores = np.argsort(generator.random((CASES, ITEMS)), axis=1).astype(float)
    wanted = np.argsort(generator.random((CASES, ITEMS)), axis=1) < targets
    run = [ir_measures.ScoredDoc(str(c), str(i), scores[c, i]) for c in range(CASES) for i in range(ITEMS)]
    qrels = [ir_measures.Qrel(str(c), str(i), 1) for c, i in zip(*np.nonzero(wanted), strict=True)]
    measure = ir_measures.parse_measure(NAMES[metric])
    found = {value.query_id: value.value for value in ir_measures.iter_calc([measure], qrels, run)}
    ours = per_case(of_scores(zip(scores, wanted, strict=True)), metric)
    assert ours == pytest.approx([found[str(case)] for case in range(CASES)], abs=1e-9)
