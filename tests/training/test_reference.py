"""RecBole's engine against ours: two evaluators and two training loops that check each other."""

from __future__ import annotations

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.store import ResultStore
from tests.helpers import make_run, runner

MASKED_AS_IN_RECBOLE = {"SASRec": False, "GRU4Rec": False, "SRGNN": False, "BPR": True, "LightGCN": True, "EASE": True}
TINY_LM = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 120}
ALL = ["Hit", "NDCG", "MRR", "Recall", "Precision", "MAP"]


def run(model, folder="results", **overrides):
    return runner(folder).run(make_run(model, checkpoint_dir=f"saved-{folder}", **overrides))


def values(record):
    return {name: metric.value for name, metric in record.metrics.items()}


@pytest.mark.parametrize("model", MASKED_AS_IN_RECBOLE)
def test_recbole_s_metrics_equal_ours(tiny, model):
    """RecBole masks history items for general models but ranks them for sequential ones."""
    mask = MASKED_AS_IN_RECBOLE[model]
    record = run(model, engine="recbole", mask_history=mask, metrics=ALL, topk=[1, 5, 10, 20])
    assert len(record.recbole_metrics) == 24
    assert values(record) == pytest.approx(record.recbole_metrics, abs=1e-6)
    assert record.notes == []


def test_recbole_s_evaluator_chooses_by_a_metric_that_is_not_reported(tiny):
    record = run("SASRec", engine="recbole", mask_history=False, metrics=["GAUC", "Hit"], topk=[3])
    assert values(record).keys() == {"gauc", "hit@3"}
    assert values(record) == pytest.approx({key: record.recbole_metrics[key] for key in values(record)}, abs=1e-6)
    assert [*record.curve[0]["valid"]] == ["ndcg@10"]


def test_epochs_that_are_not_validated_count(tiny):
    """Regression: a record had as many epochs as validations."""
    record = run("BPR", engine="recbole", eval_step=2, epochs=5)
    assert record.epochs == 5
    assert [point["epoch"] for point in record.curve] == [1, 2, 3, 4, 5]
    assert [point["epoch"] for point in record.curve if "valid" in point] == [2, 4]
    assert run("BPR", engine="recbole", eval_step=0, epochs=3).epochs == 3


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_another_masking_gives_other_numbers(tiny, model):
    """Shows that the agreement above is not trivial."""
    mask = not MASKED_AS_IN_RECBOLE[model]
    record = run(model, engine="recbole", mask_history=mask, epochs=5)
    assert values(record) != pytest.approx(record.recbole_metrics, abs=1e-3)
    assert record.notes == ["chosen by RecBole's validation, which masks otherwise"]


@pytest.mark.parametrize("model", ["DUIP", "ISRF"])
def test_a_model_that_recbole_s_loop_would_train_another_way_is_refused(tiny, model):
    plain = {"warmup_steps": 0, "warmup_share": 0.0, "min_epoch_steps": 0}
    with pytest.raises(UserError, match=r"learns in stages or from batches of its own.*--engine=fast"):
        run(model, engine="recbole", epochs=1, lm_scratch=TINY_LM, **plain)
    assert not list(ResultStore("results"))


UNSHUFFLED = {
    "SRGNN": {},
    "GRU4Rec": {"dropout_prob": 0.0, "hidden_size": 16},
    "SASRec": {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "hidden_size": 16, "inner_size": 24},
}


@pytest.mark.parametrize("model", UNSHUFFLED)
def test_without_chance_both_engines_train_to_the_same_numbers(tiny, model):
    options = {"shuffle": False, "epochs": 4, "mask_history": False, **UNSHUFFLED[model]}
    fast = run(model, "fast", **options)
    reference = run(model, "reference", engine="recbole", **options)
    batches = -(-fast.data.train_interactions // 128)
    losses = [[entry["loss"] for entry in record.curve] for record in (fast, reference)]
    ratio = [theirs / ours for ours, theirs in zip(*losses, strict=True)]
    assert ratio == pytest.approx([ratio[0]] * 4, rel=1e-5)  # RecBole sums the batch losses, we average them
    assert 1 < round(ratio[0]) <= batches
    assert values(fast) == pytest.approx(reference.recbole_metrics, abs=0.02)
    assert fast.best_epoch == reference.best_epoch


def test_both_engines_read_the_same_data(tiny):
    fast, reference = run("BPR", "fast"), run("BPR", "reference", engine="recbole")
    assert fast.data == reference.data
    assert fast.key != reference.key


def test_the_curve_of_recbole_s_loop_is_kept(tiny):
    record = run("BPR", engine="recbole", epochs=3)
    assert [entry["epoch"] for entry in record.curve] == [1, 2, 3]
    scores = [entry["valid"]["ndcg@10"] for entry in record.curve]
    assert scores[record.best_epoch - 1] == max(scores)
    assert record.valid_metrics["ndcg@10"] == pytest.approx(max(scores))
    assert all(entry["loss"] > 0 for entry in record.curve)


def test_recbole_s_best_weights_are_tested(tiny):
    record = run("BPR", engine="recbole", epochs=12, learning_rate=0.05, metrics=["NDCG"], topk=[10])
    assert record.best_epoch < 12
    assert values(record)["ndcg@10"] == pytest.approx(record.recbole_metrics["ndcg@10"], abs=1e-6)


def test_checkpoints_of_recbole_s_loop_lie_in_the_cell_s_folder(tiny):
    bpr = make_run("BPR", engine="recbole")
    runner().run(bpr)
    assert (bpr.folder / "best.pt").is_file()


@pytest.mark.parametrize("model", ["MultiVAE", "RecVAE", "BERT4Rec", "FM"])
def test_recbole_s_special_ways_run(tiny, model):
    record = run(model, engine="recbole", epochs=1, load_col={"inter": ["user_id", "item_id", "timestamp"]})
    assert 0 < record.recbole_metrics["hit@20"] <= 1
