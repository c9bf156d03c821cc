"""UniSRec, AlphaRec and LLM-ESR against their papers' equations."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender import SASRec

from recbole_llm.errors import UserError
from recbole_llm.features import similar_users
from recbole_llm.layers import owner_sums
from recbole_llm.methods.baselines.alpharec import _means
from recbole_llm.methods.baselines.unisrec import MixtureEmbedding
from recbole_llm.training.loaders import training_loader
from tests.features.test_vectors import as_npy, matrix_of
from tests.helpers import MostRows, make_run, prepare, runner

SMALL: dict[str, Any] = {"hidden_size": 8, "inner_size": 12, "n_layers": 1, "n_heads": 2}


@pytest.fixture
def vectors(tiny: Path) -> dict[str, Any]:
    """Options that give the items ten-dimensional vectors."""
    as_npy(Path("v.npy"), matrix_of(size=10))
    return {"vectors": ["v.npy"]}


def roughened(model: Any) -> Any:
    torch.manual_seed(5)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def batch_of(prepared: Any) -> Any:
    return next(iter(training_loader(prepared)[0]))


# ---- UniSRec -------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_ids", [False, True])
def test_an_item_of_unisrec_is_a_mixture_of_whitened_vectors(with_ids: bool) -> None:
    texts = torch.from_numpy(matrix_of(5, 4))
    mixture = roughened(MixtureEmbedding(texts, 3, 2, 0.2, with_ids, 0.02))
    for item in range(1, 5):
        x = texts[item].tolist()
        logits = [sum(x[d] * float(mixture.gate[d, k]) for d in range(4)) for k in range(2)]
        gates = [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]
        expected = [
            sum(
                gates[k]
                * sum((x[d] - float(mixture.expert_bias[k, d])) * float(mixture.expert[k, d, n]) for d in range(4))
                for k in range(2)
            )
            + (float(mixture.ids.weight[item, n]) if with_ids else 0.0)
            for n in range(3)
        ]
        assert mixture.looked_up[item].tolist() == pytest.approx(expected, rel=1e-4)
        assert mixture.weight[item].tolist() == pytest.approx(
            (torch.tensor(expected) / np.linalg.norm(expected)).tolist(), rel=1e-4
        )
    assert not mixture.looked_up[0].any()


def test_gates_are_noisy_in_training_alone() -> None:
    mixture = roughened(MixtureEmbedding(torch.from_numpy(matrix_of(5, 4)), 3, 2, 0.0, False, 0.02))
    assert torch.equal(mixture.gates(), mixture.gates())
    mixture.train()
    torch.manual_seed(1)
    first = mixture.gates()
    torch.manual_seed(1)
    noise = torch.randn(5, 2) * F.softplus(mixture.texts @ mixture.noise)
    torch.testing.assert_close(first, (mixture.texts @ mixture.gate + noise).softmax(dim=1))


def test_unisrec_scores_by_cosines_of_sasrec_s_states(vectors: dict[str, Any]) -> None:
    prepared = prepare("UniSRec", temperature=0.1, **vectors, **SMALL)
    model, batch = roughened(copy.deepcopy(prepared.model)), batch_of(prepared)
    plain = SASRec(prepared.config, prepared.train_part).eval()
    plain.load_state_dict(model.backbone.state_dict(), strict=False)
    table = model.backbone.item_embedding.looked_up.detach()
    plain.item_embedding.weight.data = table
    states = plain.forward(batch["item_id_list"], batch["item_length"])
    expected = F.cosine_similarity(states[:, None], table[None], dim=2) / 0.1
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
    torch.testing.assert_close(scores[:, 1:], expected[:, 1:], rtol=1e-4, atol=1e-4)


# ---- AlphaRec ------------------------------------------------------------------------------------


def test_an_item_that_a_user_has_twice_counts_once_in_the_mean_of_its_texts() -> None:
    texts = torch.tensor([[0.0], [1.0], [3.0], [8.0]])
    means = _means(texts, user=np.array([1, 1, 1, 3]), item=np.array([1, 2, 2, 3]), n_users=4)
    assert means[:, 0].tolist() == [0.0, 2.0, 0.0, 8.0]


def test_the_texts_of_users_are_gathered_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    texts, user, item = torch.from_numpy(matrix_of(9, 4)), draws.integers(0, 8, 500), draws.integers(1, 9, 500)
    whole = _means(texts, user, item, n_users=8)
    monkeypatch.setattr(owner_sums, "BLOCK", 7)
    with MostRows(2) as most:
        assert torch.equal(_means(texts, user, item, n_users=8), whole)
    assert most.rows <= 8


def test_alpharec_is_its_map_and_its_graph(vectors: dict[str, Any]) -> None:
    prepared = prepare("AlphaRec", embedding_size=4, n_layers=2, **vectors)
    model, dataset = roughened(copy.deepcopy(prepared.model)), prepared.dataset
    table, rows = dataset.table, dataset.split.train_rows
    owned: dict[int, set[int]] = {}
    for row in rows:
        owned.setdefault(int(table.user[row]), set()).add(int(table.item[row]))
    x = dataset.semantics.item_vectors(["title_text"])[0]
    users = torch.stack(
        [x[sorted(owned[u])].mean(dim=0) if u in owned else torch.zeros(10) for u in range(dataset.user_num)]
    )
    first, last = model.map[0], model.map[2]
    z = [F.leaky_relu(part @ first.weight.T + first.bias) @ last.weight.T + last.bias for part in (users, x)]
    interactions = torch.zeros(dataset.user_num, dataset.item_num)
    for user, items in owned.items():
        interactions[user, sorted(items)] = 1.0
    degree = [interactions.sum(dim=d).clamp(min=1e-7) for d in (1, 0)]
    norm = interactions / degree[0].sqrt()[:, None] / degree[1].sqrt()
    total, current = z, z
    for _ in range(2):
        current = [norm @ current[1], norm.T @ current[0]]
        total = [a + b for a, b in zip(total, current, strict=True)]
    expected = F.cosine_similarity(total[0][:, None], total[1][None], dim=2)
    batch = {"user_id": torch.arange(1, dataset.user_num)}
    with torch.no_grad():
        scores = model.full_sort_predict(batch).view(-1, dataset.item_num)
    torch.testing.assert_close(scores[:, 1:], expected[1:, 1:], rtol=1e-3, atol=1e-3)


def test_alpharec_learns_by_the_contrast(vectors: dict[str, Any]) -> None:
    prepared = prepare("AlphaRec", temperature=0.2, n_negatives=6, shared_negatives=False, **vectors)
    model, batch = prepared.model, batch_of(prepared)
    users, items = model.directions()
    torch.manual_seed(3)
    negatives = model.loss.draw(len(batch), torch.device("cpu"))
    expected = 0.0
    for line in range(len(batch)):
        user, target = users[batch["user_id"][line]], int(batch["item_id"][line])
        own = float(user @ items[target]) / 0.2
        others = [float(user @ items[j]) / 0.2 for j in negatives[line].tolist() if j != target]
        expected -= own - math.log(math.exp(own) + sum(map(math.exp, others)))
    torch.manual_seed(3)
    assert float(model.calculate_loss(batch)) == pytest.approx(expected / len(batch), rel=1e-4)


def test_what_alpharec_keeps_of_an_evaluation_ends_with_the_next_training(vectors: dict[str, Any]) -> None:
    prepared = prepare("AlphaRec", **vectors)
    model, batch = prepared.model.eval(), batch_of(prepared)
    with torch.no_grad():
        before = model.full_sort_predict(batch)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1.0)
    model.calculate_loss(batch).backward()
    optimizer.step()
    with torch.no_grad():
        after = model.eval().full_sort_predict(batch)
        users, items = model.directions()
        assert not torch.allclose(after, before, atol=1e-3)
        torch.testing.assert_close(after, (users[batch["user_id"]] @ items.T).view(-1))


def test_alpharec_sees_training_interactions_alone(vectors: dict[str, Any]) -> None:
    prepared = prepare("AlphaRec", **vectors)
    split, table = prepared.dataset.split, prepared.dataset.table
    trained = {(int(table.user[row]), int(table.item[row])) for row in split.train_rows}
    graph = prepared.model.graph._forward.to_dense()
    users, items = graph[: prepared.dataset.user_num, prepared.dataset.user_num :].nonzero(as_tuple=True)
    assert {*zip(users.tolist(), items.tolist(), strict=True)} == trained


# ---- LLM-ESR -------------------------------------------------------------------------------------


def llmesr_state(model: Any, items: list[int]) -> torch.Tensor:
    """``u`` after a history: both views through cross-attention and RecBole's own encoder."""
    ids, texts = model.item_embedding.weight[items], model.semantic.adapter(model.semantic.texts[items])

    def asked(part: Any, asking: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        q, k, v = asking @ part.query.weight.T, other @ part.key.weight.T, other @ part.value.weight.T
        scores = (q @ k.T / math.sqrt(q.shape[1])).masked_fill(torch.ones(len(q), len(q)).triu(1) > 0, -torch.inf)
        return scores.softmax(dim=1) @ v

    views = asked(model.to_texts, ids, texts), asked(model.to_ids, texts, ids)
    found = []
    for view in views:
        x = model.norm(view + model.position_embedding.weight[: len(items)])[None]
        mask = torch.where(torch.ones(len(items), len(items)).tril() > 0, 0.0, -10000.0)[None, None]
        for layer in model.layers:
            x = layer(x, mask)
        found.append(x[0, -1])
    return torch.cat(found)


def test_llmesr_scores_by_both_views(vectors: dict[str, Any]) -> None:
    prepared = prepare("LLMESR", **vectors, **SMALL)
    model, batch = roughened(copy.deepcopy(prepared.model)), batch_of(prepared)
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        table = torch.cat([model.semantic.adapter(model.semantic.texts), model.item_embedding.weight], dim=1)
        for line in range(0, len(batch), 9):
            length = int(batch["item_length"][line])
            state = llmesr_state(model, batch["item_id_list"][line, :length].tolist())
            torch.testing.assert_close(scores[line, 1:], (table @ state)[1:], rtol=1e-4, atol=1e-4)


def test_similar_users_teach(vectors: dict[str, Any]) -> None:
    more = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "similar_users": 3, "distillation_weight": 0.5}
    prepared = prepare("LLMESR", **more, **vectors, **SMALL)
    model, batch, dataset = prepared.model, batch_of(prepared), prepared.dataset
    table, longest = dataset.table, prepared.config["MAX_ITEM_LIST_LENGTH"]
    histories: dict[int, list[int]] = {}
    for row in dataset.split.train_rows:
        histories.setdefault(int(table.user[row]), []).append(int(table.item[row]))
    x = F.normalize(dataset.semantics.item_vectors(["title_text"])[0], dim=1)
    users = sorted(histories)
    alike = F.normalize(torch.stack([x[histories[user]].sum(dim=0) for user in users]), dim=1)
    similar = (alike @ alike.T).fill_diagonal_(-9.0)
    expected = []
    with torch.no_grad():
        for line in range(len(batch)):
            near = [users[n] for n in similar[users.index(int(batch["user_id"][line]))].topk(3).indices.tolist()]
            teacher = torch.stack([llmesr_state(model, histories[user][-longest:]) for user in near]).mean(dim=0)
            length = int(batch["item_length"][line])
            own = llmesr_state(model, batch["item_id_list"][line, :length].tolist())
            expected.append(float((own - teacher).square().mean()))
    model.train()
    _, distance = model.calculate_loss(batch)
    assert float(distance.detach()) == pytest.approx(0.5 * np.mean(expected), rel=1e-3)


def test_similar_users_are_found_and_teach_by_their_whole_windows(vectors: dict[str, Any]) -> None:
    windows = {"protocol": "temporal_20", "sessions": {"by": "user", "window": 4, "min_length": 2}}
    prepared = prepare("LLMESR", **windows, **vectors, **SMALL)
    table, rows = prepared.dataset.table, prepared.dataset.split.train_rows
    lone = 0
    for user in np.unique(table.user[rows]):
        own = table.item[table.offsets[user] : table.offsets[user + 1]].tolist()
        taught = prepared.model.trained_items[user].tolist()
        assert taught == own + [0] * (len(taught) - len(own))
        lone += (table.user[rows] == user).sum() == 1
    assert lone  # some windows have only one training row


def test_a_teacher_has_no_gradient_and_no_weight_is_no_teacher(vectors: dict[str, Any]) -> None:
    prepared = prepare("LLMESR", distillation_weight=0.0, **vectors, **SMALL)
    assert isinstance(prepared.model.calculate_loss(batch_of(prepared)), torch.Tensor)
    assert not hasattr(prepared.model, "neighbours")
    teachers, known = (model := prepare("LLMESR", **vectors, **SMALL).model).teachers(torch.arange(1, 9))
    assert teachers.shape == (8, 16)
    assert bool(known.all())
    assert model.distillation_weight > 0


def test_users_are_as_similar_in_blocks_of_interactions(vectors: dict[str, Any], monkeypatch: Any) -> None:
    whole = prepare("LLMESR", **vectors, **SMALL).model.neighbours
    monkeypatch.setattr(owner_sums, "BLOCK", 7)
    assert torch.equal(prepare("LLMESR", **vectors, **SMALL).model.neighbours, whole)


def test_seeds_share_their_similar_users_and_splits_do_not(vectors: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(similar_users, "FEWEST", 0)
    first, second = (prepare("LLMESR", seed=seed, **vectors, **SMALL).model for seed in (1, 2))
    kept = Path("dataset/tiny/cache/similar_users")
    assert len(list(kept.glob("*.npy"))) == 1
    assert torch.equal(first.neighbours, second.neighbours)
    assert not torch.equal(first.position_embedding.weight, second.position_embedding.weight)
    prepare("LLMESR", protocol="user_split", **vectors, **SMALL)
    assert len(list(kept.glob("*.npy"))) == 2


def test_users_may_bring_vectors_of_their_own(vectors: dict[str, Any]) -> None:
    users = np.repeat(np.eye(8, dtype=np.float32), 10, axis=0)  # eight groups of ten similar users
    as_npy(Path("u.npy"), users + 0.001 * matrix_of(80, 8), [f"u{number}" for number in range(80)], "user_id")
    prepared = prepare("LLMESR", vectors=["v.npy", "u.npy"], similar_users=5, **SMALL)
    tokens = prepared.dataset.table.user_tokens.tolist()
    for user in range(1, 9):
        near = [int(tokens[other][1:]) // 10 for other in prepared.model.neighbours[user].tolist()]
        assert near == [int(tokens[user][1:]) // 10] * 5


@pytest.mark.parametrize("known", [1, 2])
def test_similar_users_take_two_with_vectors(vectors: dict[str, Any], known: int) -> None:
    """Regression: with vectors of one user, the mean over no teacher was no number, and training seemed to diverge."""
    as_npy(Path("u.npy"), matrix_of(known, 8), [f"u{number}" for number in range(known)], "user_id")
    given = {"vectors": ["v.npy", "u.npy"], **SMALL}
    if known == 1:
        with pytest.raises(UserError, match=r"needs two with training items and a vector, found 1: give --vectors"):
            prepare("LLMESR", **given)
        assert not hasattr(prepare("LLMESR", distillation_weight=0.0, **given).model, "neighbours")
    else:
        assert prepare("LLMESR", **given).model.neighbours[1:].count_nonzero() == 2


def test_the_distance_is_the_mean_over_the_users_that_have_a_teacher(vectors: dict[str, Any]) -> None:
    more = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "similar_users": 3, "distillation_weight": 0.5}
    prepared = prepare("LLMESR", **more, **vectors, **SMALL)
    model, batch = prepared.model, batch_of(prepared)
    model.neighbours[batch["user_id"].unique()[:20]] = 0
    with torch.no_grad(), model.semantic.made_once():
        teachers, known = model.teachers(batch["user_id"])
        apart = (model.loss_and_last(batch)[1] - teachers).square().mean(dim=1)
    assert 0 < int(known.sum()) < len(known)
    _, distance = model.calculate_loss(batch)
    assert float(distance.detach()) == pytest.approx(0.5 * float(apart[known].mean()), rel=1e-4)


def test_users_who_do_not_train_teach_nobody(vectors: dict[str, Any]) -> None:
    """Sixteen of the eighty users are held out. Their vectors are given, but no history to learn from."""
    as_npy(Path("u.npy"), matrix_of(80, 8), [f"u{number}" for number in range(80)], "user_id")
    prepared = prepare("LLMESR", protocol="user_split", vectors=["v.npy", "u.npy"], similar_users=5, **SMALL)
    trained = set(prepared.dataset.table.user[prepared.dataset.split.train_rows].tolist())
    assert len(trained) == 64
    neighbours = prepared.model.neighbours
    assert set(neighbours[sorted(trained)].flatten().tolist()) <= trained
    assert not neighbours[sorted({*range(81)} - trained)].any()


def test_ids_start_from_principal_components(vectors: dict[str, Any]) -> None:
    with_vectors = prepare("LLMESR", **vectors, **SMALL).model.item_embedding.weight
    without = prepare("LLMESR", semantics="none", **SMALL).model.item_embedding.weight
    assert not torch.isclose(with_vectors[1:], without[1:]).any(dim=0).all()
    assert torch.linalg.matrix_rank(with_vectors[1:] - with_vectors[1:].mean(0)) == 8


# ---- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["UniSRec", "AlphaRec", "LLMESR"])
@pytest.mark.parametrize("semantics", ["llm", "shuffled", "random", "none"])
def test_it_runs_with_its_controls(vectors: dict[str, Any], name: str, semantics: str) -> None:
    small = {"embedding_size": 8} if name == "AlphaRec" else SMALL
    record = runner().run(make_run(name, semantics=semantics, epochs=1, **vectors, **small))
    assert record.status == "ok"
    assert record.semantics == ("text" if semantics == "llm" else semantics)


@pytest.mark.parametrize("name", ["UniSRec", "LLMESR"])
def test_it_trains_at_every_position(vectors: dict[str, Any], name: str) -> None:
    record = runner().run(make_run(name, train_targets="all", epochs=2, **vectors, **SMALL))
    losses = [np.sum(entry["loss"]) for entry in record.curve]
    assert losses[1] < losses[0]
