"""LLM-DMsRec (arXiv 2507.20147); ``test_contracts`` tests what all models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.recommend import Recommender
from recbole_llm.layers.bucketing import FEW_ROWS
from recbole_llm.methods.baselines.session import Session
from recbole_llm.methods.llmdmsrec.model import ALIGNMENTS, BACKBONES
from recbole_llm.methods.llmdmsrec.settings import LLMDMsRecSettings
from recbole_llm.settings.schema import choices_of
from recbole_llm.training.loaders import recbole_loaders, training_loader
from recbole_llm.utils.yaml import properties_folder, read_yaml
from tests.helpers import make_run, prepare, runner, settings_of

SAME_LENGTHS = 2 * FEW_ROWS - 1  # largest batch size that is encoded in one piece, so sums have a fixed order


def training_batches(prepared: Prepared, count: int) -> list[Any]:
    """The first batches of an epoch."""
    loader, _ = training_loader(prepared)
    return [batch for _, batch in zip(range(count), loader, strict=False)]


def train(prepared: Prepared, steps: int = 6) -> list[float]:
    """Train for some steps of Adam; returns the loss before each step."""
    torch.manual_seed(3)  # for dropout
    model = prepared.model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    losses = []
    for batch in training_batches(prepared, steps):
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def scores_of(prepared: Prepared) -> torch.Tensor:
    """Scores of all test cases."""
    loader = prepared.eval_loader("test")
    with torch.no_grad():
        return torch.cat([prepared.model.eval().full_sort_predict(batch) for _, batch in loader])


# ---- without its intents it is its backbone -----------------------------------------------------

OFF: dict[str, dict[str, Any]] = {
    "sigma": {"fusion": False, "sigma": 0.0},
    "align": {"fusion": False, "align": "none"},
    "semantics": {"semantics": "none"},
}
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


@pytest.mark.parametrize("off", OFF)
@every_backbone
def test_with_all_switches_off_it_is_its_backbone(featured: Path, backbone: str, off: str) -> None:
    """From the same seed, losses over several steps and scores before and after them are the same."""
    ours = prepare("LLMDMsRec", epochs=1, train_batch_size=SAME_LENGTHS, backbone=backbone, **OFF[off])
    plain = prepare(backbone, epochs=1, train_batch_size=SAME_LENGTHS)
    count = sum(parameter.numel() for parameter in plain.model.parameters())
    assert sum(parameter.numel() for parameter in ours.model.parameters()) == count
    assert torch.equal(scores_of(ours), scores_of(plain))
    assert train(ours) == train(plain)
    assert torch.equal(scores_of(ours), scores_of(plain))


def test_its_backbones_are_those_that_may_be_asked_for() -> None:
    assert tuple(BACKBONES) == choices_of(LLMDMsRecSettings.model_fields["backbone"])
    assert (*ALIGNMENTS, "none") == choices_of(LLMDMsRecSettings.model_fields["align"])


def test_a_whole_run_without_semantics_gives_srgnns_numbers(tiny: Path) -> None:
    options = {"epochs": 3, "train_batch_size": SAME_LENGTHS}
    ours = runner().run(make_run("LLMDMsRec", semantics="none", **options))
    srgnn = runner().run(make_run("SRGNN", **options))
    assert [entry["loss"] for entry in ours.curve] == [entry["loss"] for entry in srgnn.curve]
    assert ours.metrics == srgnn.metrics


def test_semantics_none_has_no_module_for_them(tiny: Path) -> None:
    model = prepare("LLMDMsRec", semantics="none").model
    names = {name.split(".")[0] for name, _ in model.named_modules() if name}
    assert not names & {"project", "explicit", "latent", "semantic_dropout"}


@pytest.mark.parametrize("switch", [{"fusion": False}, {"sigma": 0.0}])
def test_each_switch_alone_leaves_the_other_part_at_work(featured: Path, switch: dict[str, Any]) -> None:
    ours = prepare("LLMDMsRec", epochs=1, train_batch_size=SAME_LENGTHS, **switch)
    srgnn = prepare("SRGNN", epochs=1, train_batch_size=SAME_LENGTHS)
    assert train(ours) != train(srgnn)
    assert not torch.equal(scores_of(ours), scores_of(srgnn))


@pytest.mark.parametrize("semantics", ["shuffled", "random"])
def test_controls_have_the_same_parameters_and_other_scores(featured: Path, semantics: str) -> None:
    real = prepare("LLMDMsRec", epochs=1)
    control = prepare("LLMDMsRec", epochs=1, semantics=semantics)
    weights = [dict(p.model.named_parameters()) for p in (real, control)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.allclose(scores_of(real), scores_of(control))


# ---- the other backbones ------------------------------------------------------------------------


def scores_by_hand(backbone: str, z: torch.Tensor, session: Session, items: torch.Tensor) -> torch.Tensor:
    """``z E^T``, or TAGNN's target attention, item by item."""
    if backbone != "TAGNN":
        return z @ items.T
    assert session.attended is not None
    states, keys, lengths = session.attended
    rows = []
    for row, length in enumerate(lengths.tolist()):
        h, k = states[row, :length], keys[row, :length]
        rows.append(torch.stack([(z[row] + (k @ item).softmax(dim=0) @ h) @ item for item in items]))
    return torch.stack(rows)


@every_backbone
def test_intents_enter_every_backbone_before_its_scores(featured: Path, backbone: str) -> None:
    prepared = prepare("LLMDMsRec", epochs=1, backbone=backbone)
    model, batch = prepared.model.eval(), prepared.eval_loader("test").batch(np.arange(5))
    size = model.size
    with torch.no_grad():
        session = model.backbone.encode(batch["item_id_list"], batch["item_length"])
        intents = torch.cat(model.intents(batch)[:2], dim=1)
        if session.vectors.dim() == 3:
            intents = intents[:, None].expand(-1, session.vectors.shape[1], -1)
        joined = torch.cat([session.vectors, intents], dim=-1)
        z = joined @ model.readout.weight.T + (0 if model.readout.bias is None else model.readout.bias)
        if backbone == "MSGIFSR":  # test_session_models checks these scores against the paper
            wanted = model.backbone.scores(z, session)
        else:
            wanted = scores_by_hand(backbone, z, session, model.item_embedding.weight)
        torch.testing.assert_close(model.full_sort_predict(batch), wanted, rtol=1e-4, atol=1e-6)
        alone = wanted.gather(1, batch["item_id"][:, None])[:, 0]
        torch.testing.assert_close(model.predict(batch), alone, rtol=1e-4, atol=1e-6)
    vectors = {"SRGNN": 4, "TAGNN": 4, "GCSAN": 3, "GCEGNN": 3, "SHARE": 4, "MSGIFSR": 4}
    assert model.readout.in_features == vectors[backbone] * size
    assert (model.readout.bias is not None) == (vectors[backbone] == 4)


@every_backbone
def test_gradients_reach_every_part_of_every_backbone(featured: Path, backbone: str) -> None:
    prepared = prepare("LLMDMsRec", epochs=1, backbone=backbone)
    (batch,) = training_batches(prepared, 1)
    items = batch["item_id_list"].clone()
    items[:, 4:6] = torch.where(items[:, 4:6] > 0, items[:, 1:3], 0)  # repeats a pair of consecutive clicks
    batch["item_id_list"] = items
    prepared.model.train().calculate_loss(batch).backward()
    for name, parameter in prepared.model.named_parameters():
        assert parameter.grad is not None, name
        # The bias of the keys cancels in the softmax.
        assert float(parameter.grad.abs().sum()) > 0 or name.endswith("key.bias"), name


def test_settings_of_a_backbone_are_its_own_and_may_be_changed(featured: Path) -> None:
    plain, ours = settings_of("GCEGNN"), settings_of("LLMDMsRec", backbone="GCEGNN")
    own = read_yaml(properties_folder() / "model" / "GCEGNN.yaml")
    assert {key: ours[key] for key in own} == {key: plain[key] for key in own}
    changed = prepare("LLMDMsRec", epochs=1, backbone="GCEGNN", n_neighbours=2)
    assert changed.model.backbone.neighbours.shape[1] == 2


# ---- alignments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("align", ALIGNMENTS)
@every_backbone
def test_the_alignment_draws_structure_and_both_intents_together(featured: Path, backbone: str, align: str) -> None:
    """It is the sum of the losses between g and x' and between g and y'; the readout gets no gradient from it."""
    prepared = prepare("LLMDMsRec", epochs=1, backbone=backbone, align=align, semantic_dropout=0.0, sigma=0.5)
    (batch,) = training_batches(prepared, 1)
    model = prepared.model.train()
    torch.manual_seed(5)
    _, session, alignment = model.forward(batch)
    x, y, _ = model.intents(batch)
    if backbone == "MSGIFSR":  # single-click level: the whole session is aligned with x', the last click with y'
        last, whole = session.vectors[:, 0].chunk(2, dim=1)
    else:
        last = whole = session.vectors[:, : model.size]
    torch.testing.assert_close(alignment, ALIGNMENTS[align](whole, x) + ALIGNMENTS[align](last, y))
    alignment.backward()
    assert float(model.project.weight.grad.abs().sum()) > 0
    assert float(model.item_embedding.weight.grad.abs().sum()) > 0
    assert model.readout.weight.grad is None


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_each_alignment_is_part_of_the_loss_by_sigma(featured: Path, align: str) -> None:
    losses = []
    for sigma in (0.0, 0.5, 1.0):
        prepared = prepare("LLMDMsRec", epochs=1, align=align, semantic_dropout=0.0, sigma=sigma)
        (batch,) = training_batches(prepared, 1)
        losses.append(float(prepared.model.train().calculate_loss(batch).detach()))
    assert losses[1] != pytest.approx(losses[0], rel=1e-7)
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-2, abs=2e-6)


def test_without_alignment_intents_are_fused_and_nothing_is_added(featured: Path) -> None:
    none = prepare("LLMDMsRec", epochs=1, align="none", semantic_dropout=0.0)
    zero = prepare("LLMDMsRec", epochs=1, sigma=0.0, semantic_dropout=0.0)
    assert train(none) == train(zero)
    assert none.model.fusion
    assert not none.model.aligned


# ---- gradients and state ------------------------------------------------------------------------


@pytest.mark.parametrize("switches", [{}, {"sigma": 0.0}, {"fusion": False}], ids=["both", "fusion", "alignment"])
def test_gradients_reach_the_projection_and_every_other_parameter(featured: Path, switches: dict[str, Any]) -> None:
    prepared = prepare("LLMDMsRec", epochs=1, **switches)
    (batch,) = training_batches(prepared, 1)
    prepared.model.train().calculate_loss(batch).backward()
    gradients = {name: parameter.grad for name, parameter in prepared.model.named_parameters()}
    assert all(gradient is not None and float(gradient.abs().sum()) > 0 for gradient in gradients.values())
    assert "project.weight" in gradients


def test_text_vectors_are_frozen_and_no_part_of_a_checkpoint(featured: Path) -> None:
    model = prepare("LLMDMsRec", epochs=1).model
    assert not model.explicit.vectors.requires_grad
    assert not [name for name in model.state_dict() if "explicit" in name or "latent" in name]
    assert model.latent.vectors is model.explicit.vectors


def test_one_projection_serves_both_kinds_of_intent(featured: Path) -> None:
    model = prepare("LLMDMsRec", epochs=1).model
    assert [name for name, _ in model.named_parameters() if "project" in name] == ["project.weight", "project.bias"]


# ---- the key of the intents ---------------------------------------------------------------------


def check_keys(prepared: Prepared, batch: Any, items: torch.Tensor) -> None:
    """Check that ``user`` and ``position`` point to the rows of ``items``, and that histories are the rows before."""
    table = prepared.dataset.table
    rows = np.asarray(table.offsets)[batch["user_id"].numpy()] + batch["position"].numpy()
    np.testing.assert_array_equal(np.asarray(table.item)[rows], items.numpy())
    for row, history, length in zip(rows, batch["item_id_list"], batch["item_length"], strict=True):
        np.testing.assert_array_equal(history[:length].numpy(), np.asarray(table.item)[row - int(length) : row])


def test_positions_are_right_in_training_batches(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1)
    for batch in training_batches(prepared, 99):
        check_keys(prepared, batch, batch["item_id"])


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_positions_are_right_in_evaluation_batches(featured: Path, phase: str) -> None:
    prepared = prepare("LLMDMsRec", epochs=1)
    for _, batch in prepared.eval_loader(phase):
        check_keys(prepared, batch, batch["item_id"])


def test_positions_are_right_in_recboles_own_batches(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1, engine="recbole")
    train, *others = recbole_loaders(prepared.config, prepared.dataset)
    for batch in train:
        check_keys(prepared, batch, batch["item_id"])
    for loader in others:
        for batch, _, _, items in loader:
            check_keys(prepared, batch, items)


def test_histories_longer_than_the_model_sees_have_their_own_positions(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1, MAX_ITEM_LIST_LENGTH=3)
    batches = training_batches(prepared, 99)
    assert max(int(batch["position"].max()) for batch in batches) > 3
    for batch in batches:
        check_keys(prepared, batch, batch["item_id"])


def test_both_engines_give_a_case_the_same_intents_and_scores(featured: Path) -> None:
    fast = prepare("LLMDMsRec", epochs=1)
    slow = prepare("LLMDMsRec", epochs=1, engine="recbole", **{"SRGNN.engine": "fast"})
    _, _, loader = recbole_loaders(slow.config, slow.dataset)
    slow.model.eval()
    with torch.no_grad():
        found = {
            int(u): row
            for batch, *_ in loader
            for u, row in zip(batch["user_id"], slow.model.full_sort_predict(batch), strict=True)
        }
    users = fast.eval_loader("test")
    order = np.concatenate([chosen for chosen, _ in users])
    scores = scores_of(fast)
    for case, row in zip(order, scores, strict=True):
        torch.testing.assert_close(row, found[int(users.cases.user[case])], rtol=1e-5, atol=1e-6)


def test_both_engines_train_and_test_it(featured: Path) -> None:
    fast = runner().run(make_run("LLMDMsRec", epochs=1))
    slow = runner().run(make_run("LLMDMsRec", epochs=1, engine="recbole", **{"SRGNN.engine": "fast"}))
    assert slow.status == fast.status == "ok"
    assert slow.data == fast.data


def test_lists_for_whole_histories_say_that_they_stand_on_no_intents(
    featured: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = {}
    for history in ("all", "test"):
        for semantics in ("llm", "none"):
            run = make_run("LLMDMsRec", epochs=1, semantics=semantics)
            runner().run(run)
            caplog.clear()
            Recommender.trained(run, runner(), history=history)
            said[history, semantics] = "--history=test has it" in caplog.text
    assert said == {("all", "llm"): True, ("all", "none"): False, ("test", "llm"): False, ("test", "none"): False}
