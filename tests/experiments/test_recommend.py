"""Lists of recommended items: computed in the precision of the test, and refused where a score is NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.experiments.recommend import Recommender, users_of
from recbole_llm.training import ranking
from tests.helpers import prepare


@pytest.mark.parametrize(("precision", "half"), [("fp32", False), ("bf16", True)])
def test_the_model_scores_in_the_arithmetic_it_was_tested_in(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, precision: str, half: bool
) -> None:
    """Regression: models of bf16 were tested under autocast, and recommended in single precision."""
    recommender = Recommender(prepare("SASRec", precision=precision))
    model, seen = recommender.prepared.model, []
    score = model.full_sort_predict

    def scores(batch: object) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return score(batch)

    monkeypatch.setattr(model, "full_sort_predict", scores)
    (found,) = recommender.recommend(["u1"], k=5)
    assert seen == [half]
    assert len(found.items) == 5


def test_no_more_users_are_scored_at_once_than_fit_a_block(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: 1,024 users at once took gigabytes with a million items, whatever ``score_block_mib`` said."""
    recommender, at_once = Recommender(prepare("SASRec")), []
    users, model = users_of("all", recommender), recommender.prepared.model
    score = model.full_sort_predict

    def scores(batch: object) -> torch.Tensor:
        found = score(batch)
        at_once.append(found.numel() // recommender.prepared.dataset.item_num)
        return found

    monkeypatch.setattr(model, "full_sort_predict", scores)
    whole = [*recommender.recommend(users, k=5)]
    monkeypatch.setattr(ranking, "CPU_BLOCK_MIB", 0)
    monkeypatch.setattr(ranking, "CPU_ROWS", 30)
    pieces = [*recommender.recommend(users, k=5)]
    assert at_once == [80, 30, 30, 20]
    assert [one.items for one in pieces] == [one.items for one in whole]


@pytest.mark.parametrize("history", ["test", "valid"])
def test_a_history_shows_no_test_target(tiny: Path, history: str) -> None:
    """Regression: under a cut in time, users without a validation target kept their test target with ``valid``."""
    recommender = Recommender(prepare("SASRec", protocol="gts"), history=history)
    split = recommender.prepared.dataset.split
    assert set(split.test.user) - set(split.valid.user)
    first = np.asarray(split.test.target_rows)[split.test.target_offsets[:-1]]
    assert np.all(recommender._end[split.test.user] <= first)


def test_users_are_numbers_or_a_path_too(tiny: Path) -> None:
    """The ids of most public datasets are numbers, and pandas reads them as such."""
    recommender = Recommender(prepare("SASRec"))
    Path("users.txt").write_text("u1\nu2\n")
    assert users_of(Path("users.txt"), recommender) == ["u1", "u2"]
    assert users_of(np.array([1, 2]), recommender) == ["1", "2"]
    with pytest.raises(UserError, match="--users=3: give names"):
        users_of(3, recommender)


def test_a_score_that_is_no_number_is_an_error(tiny: Path) -> None:
    """Regression: such items counted as best, and were then left out of the list, which ended short or empty."""
    recommender = Recommender(prepare("SASRec"))
    with torch.no_grad():
        recommender.prepared.model.item_embedding.weight[3] = torch.nan
    with pytest.raises(UserError, match="scores are not finite numbers"):
        [*recommender.recommend(["u1"], k=5)]
