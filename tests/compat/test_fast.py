"""The faster versions of RecBole's models compute the same numbers as RecBole's own."""

from __future__ import annotations

import contextlib
import copy
import importlib

import numpy as np
import pytest
import torch
from torch import nn

from recbole_llm.compat.fast import _SEAMS, _LastPositionEncoder, accelerated, can_trim, seams_of
from recbole_llm.data.loaders import SequenceLoader, TrainLoader
from recbole_llm.layers.bucketing import MIN_ROWS
from recbole_llm.registry import NEXT_ITEM
from recbole_llm.training.loaders import training_loader
from tests.device_waits import assert_moves_nothing, assert_waits_for_nothing
from tests.helpers import prepare, write_tiny

MODELS = [target.partition(":")[2] for target in _SEAMS]
SEQUENTIAL = [target.partition(":")[2] for target in _SEAMS if target.startswith("sequential")]

SMALL = {"embedding_size": 16, "hidden_size": 16, "inner_size": 24}
FEATURES = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand", "categories"]},
    "selected_features": ["brand", "categories"],
}
OPTIONS = {
    "SASRecF": FEATURES,
    "FDSA": FEATURES,
    "GRU4RecF": FEATURES,
    "NGCF": {"node_dropout": 0.0, "message_dropout": 0.0},
}


def options_of(model, **more):
    from recbole_llm.registry import find_method
    from recbole_llm.settings.layers import layer_settings

    known = layer_settings(find_method(model), "tiny").values
    sizes = {key: value for key, value in SMALL.items() if key in known}
    return {"train_batch_size": 2048, **sizes, **OPTIONS.get(model, {}), **more}


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    """Prepared models by name, engine and options; tests work on copies."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny(folder / "dataset" / "tiny")
    found = {}

    def get(model, engine, more):
        key = (model, engine, repr(more))
        if key not in found:
            with contextlib.chdir(folder):
                found[key] = prepare(model, engine=engine, **options_of(model, **more))
        return found[key]

    return get


@pytest.fixture
def pair(prepared_once):
    """RecBole's model and its fast version, each with its own training loader."""

    def make(model, **more):
        made = []
        for engine in ("recbole", "fast"):
            prepared = prepared_once(model, engine, more)
            loader = TrainLoader(prepared.device_table(), prepared.train_part, prepared.config, prepared.sequential)
            made.append((without_dropout(copy.deepcopy(prepared.model)), loader))
        return made

    return make


def close(one, other, tolerance=1e-5):
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance)


def gradients(model, batch):
    model.zero_grad()
    loss = model.calculate_loss(batch)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_both_forms_start_from_the_same_parameters(pair, name):
    (plain, _), (fast, _) = pair(name)
    assert type(fast) is not type(plain)
    assert isinstance(fast, type(plain))
    one, other = plain.state_dict(), fast.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_forward_pass_is_recbole_s(pair, name):
    (plain, wide), (fast, narrow) = pair(name)
    one, other = next(iter(wide)), next(iter(narrow))
    lengths = one["item_length"]
    assert len(lengths) >= 2 * MIN_ROWS
    assert lengths.unique().numel() > 5
    assert one["item_id_list"].shape == other["item_id_list"].shape
    outputs = [model(batch["item_id_list"], batch["item_length"]) for model, batch in ((plain, one), (fast, other))]
    assert close(*outputs)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in SEQUENTIAL])
def test_the_propagation_is_recbole_s(pair, name):
    (plain, _), (fast, _) = pair(name)
    assert all(close(one, other) for one, other in zip(plain(), fast(), strict=True))


def test_edges_that_are_left_out_are_recbole_s(pair):
    (plain, _), (fast, batches) = pair("NGCF", node_dropout=0.3)
    batch = next(iter(batches))
    losses = []
    for model in (plain, fast):
        torch.manual_seed(0)
        losses.append(gradients(model, batch)[0])
    assert torch.equal(*losses)
    assert not torch.equal(gradients(fast, batch)[0], losses[1])
    assert fast.seams == ()


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_all_gradients_are_recbole_s(pair, name):
    (plain, wide), (fast, narrow) = pair(name)
    loss, one = gradients(plain, next(iter(wide)))
    own_loss, other = gradients(fast, next(iter(narrow)))
    assert close(loss, own_loss)
    assert all((one[key] is None) == (other[key] is None) for key in one)
    present = [key for key in one if one[key] is not None]
    assert present
    assert all(close(one[key], other[key]) for key in present)


@pytest.mark.parametrize("name", MODELS)
def test_scores_of_all_items_are_recbole_s(pair, name):
    (plain, wide), (fast, narrow) = pair(name)
    plain.eval()
    fast.eval()
    with torch.no_grad():
        assert close(plain.full_sort_predict(next(iter(wide))), fast.full_sort_predict(next(iter(narrow))))


@pytest.mark.parametrize("name", MODELS)
def test_twenty_five_steps_of_training_stay_together(pair, name):
    losses = []
    for model, loader in pair(name, train_batch_size=2 * MIN_ROWS, MAX_ITEM_LIST_LENGTH=6):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        own = []
        while len(own) < 25:
            for batch in loader:
                optimizer.zero_grad()
                loss = model.calculate_loss(batch)
                loss.backward()
                optimizer.step()
                own.append(loss.item())
        losses.append(own[:25])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_histories_cut_to_the_longest_of_a_small_batch_change_nothing(pair, name):
    (plain, wide), (fast, narrow) = pair(name, train_batch_size=8, shuffle=False, MAX_ITEM_LIST_LENGTH=20)
    for one, other in zip([*wide][:5], [*narrow][:5], strict=True):
        assert other["item_id_list"].shape[1] < one["item_id_list"].shape[1] == 20
        assert close(plain.calculate_loss(one), fast.calculate_loss(other))


@pytest.mark.parametrize("name", ["SASRec", "GCSAN", "SRGNN"])
def test_a_pairwise_loss_is_the_model_s_own(pair, name):
    (plain, wide), (fast, narrow) = pair(
        name, loss_type="BPR", train_neg_sample_args={"distribution": "uniform", "sample_num": 1}
    )
    one, other = gradients(plain, next(iter(wide))), gradients(fast, next(iter(narrow)))
    assert close(one[0], other[0])
    assert all(close(one[1][key], other[1][key]) for key in one[1] if one[1][key] is not None)


@pytest.mark.parametrize("name", ["SASRec", "GCSAN"])
def test_dropout_is_still_drawn_in_training(tiny, name):
    prepared = prepare(name, **options_of(name))
    loader = TrainLoader(prepared.device_table(), prepared.train_part, prepared.config, sequential=True)
    batch = next(iter(loader))
    prepared.model.train()
    assert prepared.model.calculate_loss(batch).item() != prepared.model.calculate_loss(batch).item()


@pytest.mark.parametrize("name", ["SASRec", "FDSA"])
def test_encoders_forget_the_position_after_a_pass(pair, name):
    _, (fast, loader) = pair(name)
    encoders = [module for module in fast.modules() if isinstance(module, _LastPositionEncoder)]
    assert encoders
    fast.calculate_loss(next(iter(loader)))
    assert all(encoder.read is None for encoder in encoders)


# ---- which classes -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", _SEAMS)
def test_every_class_with_a_faster_form_is_recbole_s(target):
    module, _, name = target.partition(":")
    found = getattr(importlib.import_module(f"recbole.model.{module}"), name)
    assert seams_of(found) == _SEAMS[target]
    assert accelerated(found).seams == _SEAMS[target]


def test_the_faster_class_has_the_name_of_the_model():
    from recbole.model.sequential_recommender import SASRec

    assert accelerated(SASRec).__name__ == "SASRec"
    assert accelerated(SASRec) is accelerated(SASRec)


def test_other_classes_run_as_they_are():
    from recbole.model.general_recommender import BPR
    from recbole.model.sequential_recommender import Caser, SASRec

    class Mine(SASRec):
        pass

    for model in (BPR, Caser, Mine):
        assert accelerated(model) is model
        assert seams_of(model) == ()


def test_recbole_s_own_class_is_left_as_it_is():
    from recbole.model.layers import TransformerEncoder
    from recbole.model.sequential_recommender import SASRec

    forward, encoder_forward = SASRec.forward, TransformerEncoder.forward
    accelerated(SASRec)
    assert SASRec.forward is forward
    assert TransformerEncoder.forward is encoder_forward


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_histories_may_be_trimmed_for_the_faster_forms_alone(name):
    target = next(target for target in _SEAMS if target.endswith(f":{name}"))
    module = importlib.import_module(f"recbole.model.{target.partition(':')[0]}")
    assert can_trim(accelerated(getattr(module, name)))
    assert not can_trim(getattr(module, name))


# ---- training at every position ------------------------------------------------------------------


@pytest.mark.parametrize("name", NEXT_ITEM)
def test_the_state_after_each_item_is_that_of_the_prefix_that_ends_there(pair, name):
    _, (fast, loader) = pair(name)
    batch = next(iter(loader))
    items, lengths = batch["item_id_list"], batch["item_length"]
    states = fast.states(items, lengths)
    assert states.shape[:2] == items.shape
    for line in range(0, len(items), 37):
        for end in range(1, int(lengths[line]) + 1):
            prefix = fast(items[line : line + 1, :end], torch.tensor([end]))
            assert close(states[line, end - 1], prefix[0])


@pytest.mark.parametrize("name", NEXT_ITEM)
def test_a_loss_at_every_position_is_that_of_all_prefixes(pair, name):
    _, (fast, prefixes) = pair(name, MAX_ITEM_LIST_LENGTH=20)
    prepared = prefixes.table
    windows = SequenceLoader(prepared, prefixes.dataset, prefixes.config)
    one, other = (gradients(fast, next(iter(loader))) for loader in (prefixes, windows))
    assert len(prefixes) == len(windows) == 1  # one batch holds the whole epoch
    assert close(one[0], other[0])
    assert all(close(one[1][key], other[1][key]) for key in one[1] if one[1][key] is not None)


@pytest.mark.parametrize("name", NEXT_ITEM)
@pytest.mark.parametrize("objective", ["sampled_softmax", "bce", "gbce"])
@pytest.mark.parametrize("form", ["last", "all"])
def test_other_losses_learn(tiny, name, objective, form):
    prepared = prepare(name, train_targets=form, objective=objective, n_negatives=8, **options_of(name))
    loader, _ = training_loader(prepared)
    batch, model = next(iter(loader)), without_dropout(prepared.model)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for _ in range(20):
        torch.manual_seed(0)
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01


def test_negatives_by_popularity_are_counted_in_training_rows(tiny):
    loss = prepare("SASRec", objective="bce", negatives_by="popularity").model.next_item_loss
    dataset = prepare("SASRec").dataset
    counts = np.bincount(dataset.table.item[dataset.split.train_rows], minlength=dataset.item_num)
    assert np.allclose(loss.log_chance.exp().numpy(), counts / counts.sum())


@pytest.mark.parametrize("model", [*MODELS, "BPR"])
def test_a_step_waits_for_nothing_on_a_gpu(prepared_once, model, monkeypatch):
    prepared = prepared_once(model, "fast", {})
    loader = TrainLoader(prepared.device_table(), prepared.train_part, prepared.config, prepared.sequential)
    rows = loader.rows[:200]

    def make_batch():
        if loader.sampler is not None:
            loader.sampler.reseed(1)
        return loader.batch(rows)

    assert_waits_for_nothing(copy.deepcopy(prepared.model), make_batch, monkeypatch)


# NGCF's identity matrix is sparse, and RecBole sends a small number to the GPU for items' lists of words.
@pytest.mark.parametrize("model", [name for name in [*MODELS, "BPR"] if name not in OPTIONS])
def test_a_step_moves_nothing_to_a_gpu(prepared_once, model, monkeypatch):
    prepared = prepared_once(model, "fast", {})
    loader = TrainLoader(prepared.device_table(), prepared.train_part, prepared.config, prepared.sequential)
    assert_moves_nothing(copy.deepcopy(prepared.model), lambda: loader.batch(loader.rows[:200]), monkeypatch)


@pytest.mark.parametrize("objective", ["softmax", "sampled_softmax", "gbce"])
@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_training_at_every_position_waits_for_nothing_on_a_gpu(prepared_once, model, objective, monkeypatch):
    prepared = prepared_once(model, "fast", {"train_targets": "all", "objective": objective, "n_negatives": 8})
    loader = SequenceLoader(prepared.device_table(), prepared.train_part, prepared.config)
    learner, make_batch = copy.deepcopy(prepared.model), lambda: loader.batch(loader.rows[:50])
    if objective != "softmax":  # the draws depend on the number of rows, so they are fixed here
        monkeypatch.setattr(learner.next_item_loss, "draw", lambda rows, device: torch.arange(1, 9, device=device))
    assert_waits_for_nothing(learner, make_batch, monkeypatch)
