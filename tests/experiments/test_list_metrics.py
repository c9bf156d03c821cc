"""List metrics in a run: what they need, and what is reported if it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import LIST_METRICS
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.subgroups import user_gap
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from tests.helpers import make_run, runner

DEFAULT = {name for name in LIST_METRICS if name != "ildvectors"}


def run(**options: Any) -> Record:
    return runner().run(make_run("Pop", epochs=1, **options))


def named(record: Record) -> set[str]:
    return {name.partition("@")[0] for name in record.list_metrics}


def test_a_run_has_all_that_needs_no_encoder(tiny: Path) -> None:
    record = run()
    assert named(record) == DEFAULT
    assert not any("left out" in note for note in record.notes)
    assert not (tiny / "semantics").exists()
    assert 0 < record.list_metrics["ildcategories@10"].value < 1
    assert record.list_metrics["serendipity@10"].value < 0.01  # Pop's list equals the popularity list, except for ties
    assert record.list_metrics["exposureratio@5"].value < 0.5
    assert not record.list_metrics["miscalibration@10"].higher_is_better
    ranks = Ranks.load(ResultStore("results").ranks_of(record))
    assert record.list_metrics["ugf@10"].value == user_gap(ranks, "ndcg@10") > 0


def test_titles_are_encoded_where_their_diversity_is_asked_for(tiny: Path) -> None:
    text = (tiny / "tiny.item").read_text(encoding="utf-8").splitlines()
    (tiny / "tiny.item").write_text("\n".join(text[:30]) + "\n", encoding="utf-8")  # not every item has a title
    record = run(list_metrics=["ILDVectors", "ItemCoverage"])
    assert named(record) == {"ildvectors", "itemcoverage"}
    assert 0 < record.list_metrics["ildvectors@10"].value < 1
    assert (tiny / "semantics" / "vectors.sqlite").is_file()


def test_what_the_dataset_lacks_is_left_out_with_a_note(tiny: Path) -> None:
    (tiny / "tiny.item").unlink()
    record = run()
    assert named(record) == DEFAULT - {"ildcategories", "miscalibration"}
    assert [note.split(":")[0] for note in record.notes[:2]] == ["ILDCategories left out", "Miscalibration left out"]
    assert "tiny has no item categories" in record.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"list_metrics": ["Miscalibration"]}, "--list_metrics=Miscalibration: tiny has no item categories"),
        ({"list_metrics": ["ILDVectors"]}, "--list_metrics=ILDVectors: tiny has no item titles"),
        ({"metrics": ["NDCG", "ILDVectors"]}, "--list_metrics=ILDVectors: tiny has no item titles"),
    ],
)
def test_what_was_asked_for_by_name_is_missed_before_training(
    tiny: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny / "tiny.item").unlink()
    monkeypatch.setattr("recbole_llm.experiments.runner.Runner._train", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=message):
        run(**options)
    assert list(ResultStore("results")) == []


def test_users_that_are_all_alike_have_no_gap() -> None:
    ranks = Ranks(
        *(np.array([1, 2]), np.arange(3), np.ones(2, dtype=np.int32), np.array([0, 5], dtype=np.int32)),
        *(np.zeros(2, dtype=np.int32), np.array([4, 4], dtype=np.int32), np.ones(2, dtype=np.int32), np.ones(2, bool)),
    )
    assert np.isnan(user_gap(ranks, "hit@1"))
