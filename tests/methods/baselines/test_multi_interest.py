"""Readout, losses and scores of the multi-interest models; ``test_contracts`` tests what all models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_llm.experiments.prepared import Prepared
from recbole_llm.registry import methods
from recbole_llm.training.loaders import training_loader
from tests.device_waits import nothing_at_hand
from tests.helpers import make_run, prepare, runner

FAMILY = ["ComiRecDR", "ComiRecSA", "MIND", "REMI"]


def batch_of(prepared: Prepared) -> Any:
    return next(iter(training_loader(prepared)[0]))


def cases_of(prepared: Prepared) -> Any:
    return next(iter(prepared.eval_loader("test")))[1]


def seeded(prepared: Prepared, name: str) -> Any:
    torch.manual_seed(4)
    return methods()[name].load()(prepared.config, prepared.train_part)


@pytest.mark.parametrize("name", FAMILY)
def test_scores_are_the_best_of_the_interests(tiny: Path, name: str) -> None:
    model = prepare(name).model.eval()
    batch = cases_of(prepare(name))
    with torch.no_grad():
        interests = model.serving_interests(batch)
        every = torch.einsum("bkd,nd->bkn", interests, model.item_embedding.weight)
        torch.testing.assert_close(model.full_sort_predict(batch), every.amax(dim=1))
    assert interests.shape[1:] == (4, 64)


@pytest.mark.parametrize("name", ["ComiRecDR", "MIND"])
def test_capsules_are_as_long_as_their_scale_allows(tiny: Path, name: str) -> None:
    plain, long = (prepare(name, interest_scale=scale) for scale in (1.0, 4.0))
    for prepared, scale in ((plain, 1.0), (long, 4.0)):
        model = seeded(prepared, name).eval()
        with torch.no_grad():
            model.item_embedding.weight *= 50.0  # so that the squash brings capsules to their maximum length
            cases = cases_of(prepared)
            longest = model.capsules(cases[model.ITEM_SEQ], cases[model.ITEM_SEQ_LEN]).norm(dim=2).max()
        assert float(longest) == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize(("name", "plain"), [("ComiRecDR", {}), ("MIND", {"relu_layers": False})])
def test_the_scale_of_capsules_is_that_of_scores(tiny: Path, name: str, plain: dict[str, Any]) -> None:
    prepared = prepare(name, **plain)
    model, batch = prepared.model.eval(), cases_of(prepared)
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        model.interest_scale = 4.0
        torch.testing.assert_close(model.full_sort_predict(batch), 4.0 * scores)


def widths_of(model: Any) -> list[int]:
    """A list that will record the history length of each call of the model's routing."""
    widths: list[int] = []
    model.routing.register_forward_hook(lambda _, read, __: widths.append(read[0].shape[1]))
    return widths


@pytest.mark.parametrize("name", ["ComiRecDR", "MIND"])
def test_short_histories_are_routed_without_the_padding_of_long_ones(
    tiny: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(name)
    model, batch = seeded(prepared, name).eval(), batch_of(prepared)
    item_seq, lengths = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    widths = widths_of(model)
    with torch.no_grad():
        found = model.interests(item_seq, lengths)
        assert len(widths) > 1 and widths == sorted(widths) and widths[0] < widths[-1] == int(lengths.max())
        nothing_at_hand(monkeypatch)
        torch.testing.assert_close(found, model.interests(item_seq, lengths))
    assert widths[-1] == item_seq.shape[1]


def test_routing_that_reads_padding_keeps_it(tiny: Path) -> None:
    prepared = prepare("ComiRecDR", mask_first=False)
    model, batch = seeded(prepared, "ComiRecDR").eval(), batch_of(prepared)
    item_seq, lengths = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    widths = widths_of(model)
    with torch.no_grad():
        model.interests(item_seq, lengths)
    assert widths == [item_seq.shape[1]]


def test_the_interest_nearest_to_the_target_answers(tiny: Path) -> None:
    model = prepare("ComiRecSA").model
    interests, target = torch.randn(9, 4, 64), torch.randn(9, 64)
    best = (interests * target[:, None]).sum(2).argmax(1)
    torch.testing.assert_close(model.readout(interests, target), interests[range(9), best])


def test_the_loss_is_a_softmax_over_all_items(tiny: Path) -> None:
    prepared = prepare("ComiRecSA")
    model, batch = prepared.model, batch_of(prepared)
    target = batch[model.POS_ITEM_ID]
    user = model.readout(
        model.interests(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]), model.item_embedding(target)
    )
    expected = F.cross_entropy(user @ model.item_embedding.weight.T, target)
    torch.testing.assert_close(model.calculate_loss(batch), expected)


def test_sampled_negatives_are_never_the_target(tiny: Path) -> None:
    model = prepare("ComiRecSA", n_sampled=40).model
    user = torch.randn(50, 64)
    target = torch.full((50,), 3)
    with torch.no_grad():
        model.item_embedding.weight.zero_()
        model.item_embedding.weight[3] = 100.0 * F.normalize(user.mean(0), dim=0)
        loss = model.recommendation_loss(torch.nn.functional.normalize(model.item_embedding.weight[3:4]), target[:1])
    assert float(loss) < 1e-6  # a target among the negatives would cost log 2


def test_hard_negatives_weigh_more(tiny: Path) -> None:
    losses = {}
    for beta in (0.0, 2.0):
        prepared = prepare("REMI", n_sampled=30, hard_negative_beta=beta, routing_weight=0.0)
        model, batch = seeded(prepared, "REMI"), batch_of(prepared)
        torch.manual_seed(0)
        losses[beta] = float(model.calculate_loss(batch).detach())
    assert losses[2.0] > losses[0.0]


def test_hard_negatives_count_by_their_scores_which_get_no_gradient(tiny: Path) -> None:
    """REMI, equation 7: weights ``exp(beta s)``, scaled to mean one, multiply the negatives' softmax terms."""
    model = prepare("REMI", n_sampled=5, hard_negative_beta=2.0).model
    table = model.item_embedding.weight.detach()
    torch.manual_seed(0)
    negatives = torch.randint(1, model.n_items, (5,))
    target = torch.tensor(sorted({*range(1, model.n_items)} - {*negatives.tolist()})[:3])
    user = torch.randn(3, 64, requires_grad=True)
    scores = user @ table[negatives].T
    weights = (2.0 * scores.detach()).exp()
    weights = weights / weights.mean(dim=1, keepdim=True)
    own = (user * table[target]).sum(1).exp()
    wanted = -torch.log(own / (own + (weights * scores.exp()).sum(1))).mean()
    torch.manual_seed(0)
    found = model.recommendation_loss(user, target)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(*(torch.autograd.grad(loss, user) for loss in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_row_whose_negatives_are_all_its_target_costs_nothing(tiny: Path) -> None:
    model = prepare("REMI", n_sampled=1, hard_negative_beta=2.0).model
    torch.manual_seed(0)
    (negative,) = torch.randint(1, model.n_items, (1,)).tolist()
    user = torch.randn(1, 64, requires_grad=True)
    torch.manual_seed(0)
    loss = model.recommendation_loss(user, torch.tensor([negative]))
    assert float(loss) == 0.0
    loss.backward()
    assert not user.grad.any()


def test_the_loss_of_remi_has_its_regulariser_as_often_as_a_released_batch_has_rows(tiny: Path) -> None:
    prepared = prepare("REMI", routing_weight=3.0)
    model, batch = prepared.model, batch_of(prepared)
    with torch.no_grad():
        model.attention.outer.weight.mul_(100.0)  # uniform attention would have a regulariser of zero
    lengths, target = batch[model.ITEM_SEQ_LEN], batch[model.POS_ITEM_ID]
    interests, attention = model.attention(*model.embedded(batch[model.ITEM_SEQ]))
    terms = []
    for row, length in zip(attention, lengths.tolist(), strict=True):
        own = row[:, :length]
        variance = (own - own.mean(dim=1, keepdim=True)).square().sum(dim=1) / 64
        terms.append(variance.square().sum())
    user = model.readout(interests, model.item_embedding(target))
    wanted = F.cross_entropy(user @ model.item_embedding.weight.T, target) + 3.0 * 128 * torch.stack(terms).mean()
    torch.testing.assert_close(model.calculate_loss(batch), wanted)


def test_without_its_regulariser_remi_is_comirec_sa(tiny: Path) -> None:
    without = prepare("REMI", routing_weight=0.0)
    remi, sa = seeded(without, "REMI"), seeded(prepare("ComiRecSA"), "ComiRecSA")
    torch.testing.assert_close(remi.calculate_loss(batch_of(without)), sa.calculate_loss(batch_of(without)))
    whole = seeded(prepare("REMI"), "REMI")
    assert float(whole.calculate_loss(batch_of(without))) > float(remi.calculate_loss(batch_of(without)))


def mind_interests(model: Any, items: list[int]) -> torch.Tensor:
    """``V`` ``(K, d)`` of one history: routing through the one map from the fixed first logits, then ``H``."""
    made = model.item_embedding.weight[items] @ model.routing.linear.weight.T
    logits = model.routing.evaluation_logits[:, : len(items)]
    for _ in range(3):
        capsules = []
        for of_interest in logits:
            total = (of_interest.exp() / of_interest.exp().sum()) @ made
            norm = total.square().sum()
            capsules.append(norm / (1 + norm) * total / norm.sqrt())
        logits = logits + torch.stack(capsules) @ made.T
    first, _, second = model.project
    hidden = (torch.stack(capsules) @ first.weight.T + first.bias).clamp(min=0.0)
    return hidden @ second.weight.T + second.bias


def test_mind_is_its_papers_equations(tiny: Path) -> None:
    """Interests, and the loss of the interests weighed by the squares of their products with the target."""
    prepared = prepare("MIND", label_power=2.0)
    model, batch = prepared.model.eval(), cases_of(prepared)
    with torch.no_grad():
        model.item_embedding.weight *= 20.0  # longer vectors, so that routing and attention are far from even
        table, losses = model.item_embedding.weight, []
        found = model.serving_interests(batch)
        for line, length in enumerate(batch[model.ITEM_SEQ_LEN].tolist()):
            interests = mind_interests(model, batch[model.ITEM_SEQ][line, :length].tolist())
            torch.testing.assert_close(found[line], interests, rtol=1e-4, atol=1e-5)
            target = int(batch[model.POS_ITEM_ID][line])
            near = interests @ table[target]
            weights = torch.where(near > 0, near**2, -(near**2)).softmax(dim=0)
            losses.append(F.cross_entropy(weights @ interests @ table.T, torch.tensor(target)))
        torch.testing.assert_close(model.calculate_loss(batch), torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_label_aware_attention_is_the_nearest_interest_in_the_limit(tiny: Path) -> None:
    soft, hard = prepare("MIND", label_power=9.0).model, prepare("MIND", label_power=0.0).model
    interests, target = 3 * torch.randn(9, 4, 64), torch.randn(9, 64)
    torch.testing.assert_close(soft.readout(interests, target), hard.readout(interests, target))


def test_copies_of_the_first_interest_have_no_vote(tiny: Path) -> None:
    model = prepare("MIND", adaptive_interests=True, label_power=1.0).model
    interests, target = torch.randn(5, 4, 64), torch.randn(5, 64)
    interests[:, 2:] = interests[:, :1]
    weights = torch.einsum("bkd,bd->bk", interests[:, :2], target).softmax(dim=1)
    wanted = torch.einsum("bk,bkd->bd", weights, interests[:, :2])
    torch.testing.assert_close(model.readout(interests, target), wanted)


@pytest.mark.parametrize("name", ["ComiRecDR", "LDMI"])
@pytest.mark.parametrize("transform", ["position", "interest", "shared"])
def test_interests_differ_whatever_maps_they_have(tiny: Path, name: str, transform: str) -> None:
    prepared = prepare(name, routing_transform=transform)
    interests = prepared.model.eval().serving_interests(cases_of(prepared))
    several = cases_of(prepared)[prepared.model.ITEM_SEQ_LEN] > 2
    assert bool(several.any())
    assert float((interests[several, 1:] - interests[several, :1]).abs().amax(dim=2).min()) > 1e-4


def test_short_histories_have_fewer_interests_where_asked(tiny: Path) -> None:
    prepared = prepare("MIND", adaptive_interests=True)
    model, batch = prepared.model.eval(), cases_of(prepared)
    interests = model.serving_interests(batch)
    different = [len(torch.unique(row.round(decimals=5), dim=0)) for row in interests]
    lengths = batch[model.ITEM_SEQ_LEN].tolist()
    assert all(
        count <= max(1, min(4, length.bit_length() - 1)) for count, length in zip(different, lengths, strict=True)
    )
    assert max(different) > 1


@pytest.mark.parametrize("most", [4, 2])
def test_the_number_of_interests_is_that_of_equation_9(tiny: Path, most: int) -> None:
    """``max(1, min(K, log2 n))``; the others are copies of the first."""
    prepared = prepare("MIND", adaptive_interests=True, n_interests=most)
    batch = cases_of(prepared)
    with torch.no_grad():
        interests = prepared.model.eval().serving_interests(batch)
    copies = (interests == interests[:, :1]).all(dim=2).sum(dim=1) - 1
    wanted = [max(1, min(most, length.bit_length() - 1)) for length in batch[prepared.model.ITEM_SEQ_LEN].tolist()]
    assert (most - copies).tolist() == wanted
    assert max(wanted) == min(most, 3)


@pytest.mark.parametrize("name", ["ComiRecDR", "REMI", "LDMI", "EIMF"])
def test_held_out_users_have_several_targets_and_each_counts(tiny: Path, name: str) -> None:
    """Under user_split, Recall (share of targets found) and Hit (any target found) differ."""
    run = make_run(name, protocol="user_split", epochs=2, topk=[2], valid_metric="Recall@2", train_batch_size=256)
    record = runner().run(run)
    prepared = runner().trained(run)
    table, cases = prepared.dataset.table, prepared.dataset.split.test
    recall, hit = [], []
    for numbers, batch in prepared.eval_loader("test"):
        with torch.no_grad():
            scores = prepared.model.full_sort_predict(batch)
        scores[:, 0] = -torch.inf
        for number, row in zip(numbers.tolist(), scores, strict=True):
            row[torch.from_numpy(table.item[cases.start[number] : cases.end[number]]).long()] = -torch.inf
            rows = cases.target_rows[cases.target_offsets[number] : cases.target_offsets[number + 1]]
            found = len(set(row.topk(2).indices.tolist()) & set(table.item[rows].tolist()))
            recall.append(found / len(rows))
            hit.append(found > 0)
    assert np.diff(cases.target_offsets).max() > 1
    assert record.metrics["recall@2"].value == pytest.approx(np.mean(recall))
    assert record.metrics["hit@2"].value == pytest.approx(np.mean(hit))
