"""EIMF (arXiv 2411.09410); ``test_contracts`` tests what all models share."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.data.atomic import read_table
from recbole_llm.errors import UserError
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.recommend import Recommender
from recbole_llm.features import encoder as encode
from recbole_llm.methods.baselines.remi import REMI
from recbole_llm.methods.eimf.model import EIMF, IBIMS
from recbole_llm.training.loaders import training_loader
from tests.device_waits import nothing_at_hand
from tests.helpers import make_run, prepare, runner, settings_of, write_tiny


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Prepared]]:
    folder = tmp_path_factory.mktemp("eimf")
    write_tiny(folder / "dataset" / "tiny")
    return folder, {}


@pytest.fixture
def made(_made: tuple[Path, dict[str, Prepared]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the prepared model of the small dataset for some settings; each is made only once."""
    folder, known = _made
    monkeypatch.chdir(folder)

    def get(**settings: Any) -> Prepared:
        key = repr(sorted(settings.items()))
        if key not in known:
            known[key] = prepare("EIMF", **settings)
        return known[key]

    return get


def built(prepared: Prepared, model_class: type = EIMF) -> Any:
    torch.manual_seed(3)
    return model_class(prepared.config, prepared.train_part)


def batch_of(prepared: Prepared) -> Any:
    return next(iter(training_loader(prepared)[0]))


def test_cases(prepared: Prepared) -> Any:
    return next(iter(prepared.eval_loader("test")))[1]


test_cases.__test__ = False  # type: ignore[attr-defined]


def train(model: Any, batch: Any, steps: int = 4) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


# ---- serving ------------------------------------------------------------------------------------


def test_serving_needs_no_semantic_file(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any semantic file and without the encoder, lists and scores stay the same."""
    run = make_run("EIMF", epochs=1)
    runner().run(run)
    users = [f"u{number}" for number in range(30)]

    def lists() -> list[Any]:
        return list(Recommender.trained(run, runner()).recommend(users, k=5))

    before = lists()
    shutil.rmtree(tiny / "semantics")
    monkeypatch.setattr(encode, "MINILM_PACKAGE", "no_such_package")
    encode.minilm_folder.cache_clear()
    assert lists() == before
    assert not (tiny / "semantics").exists()


def test_scores_are_those_of_the_behavioural_module(made: Any) -> None:
    prepared = made()
    model, cases = built(prepared).eval(), test_cases(prepared)
    assert model.esim is not None
    with torch.no_grad():
        assert torch.equal(model.full_sort_predict(cases), model.ibim.full_sort_predict(cases))
        assert torch.equal(model.predict(cases), model.ibim.predict(cases))


# ---- ablations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [{"esim": False}, {"alignment_weight": 0.0, "semantic_weight": 0.0}])
def test_with_all_off_it_is_its_backbone(made: Any, off: dict[str, Any]) -> None:
    prepared = made(**off)
    eimf, remi = built(prepared), built(prepared, REMI)
    assert eimf.esim is None
    assert train(eimf, batch_of(prepared)) == train(remi, batch_of(prepared))


def test_semantic_prediction_reaches_the_scores_only_through_the_alignment(made: Any) -> None:
    scores = []
    for switch in ({"alignment_weight": 0.0}, {"esim": False}, {"semantic_weight": 0.0}):
        prepared = made(**switch)
        model = built(prepared)
        train(model, batch_of(prepared))
        with torch.no_grad():
            scores.append(model.eval().full_sort_predict(test_cases(prepared)))
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])


@pytest.mark.parametrize("ibim", [{"backbone": "SASRec"}, {"backbone": "MIND"}, {"n_sampled": 10}], ids=str)
def test_the_backbone_draws_in_training_what_it_draws_alone(made: Any, ibim: dict[str, Any]) -> None:
    """Dropout, initial logits and negatives are the same, so without the alignment the losses are the backbone's."""
    losses = []
    for switch in ({"alignment_weight": 0.0}, {"esim": False}):
        prepared = made(**ibim, **switch)
        losses.append(float(built(prepared).behavioural(batch_of(prepared))[0].detach()))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "switch",
    [
        {"esim": False},
        {"alignment_weight": 0.0},
        {"semantic_weight": 0.0},
        {"routing_weight": 0.0},
        {"text_proj": "linear"},
        {"text_proj": "random", "text_trainable": True},
        {"text_trainable": True},
        {"temperature": 0.5},
        {"max_text_interests": 1},
        *({"backbone": name} for name in IBIMS if name != "REMI"),
    ],
    ids=str,
)
def test_each_switch_changes_the_numbers_and_learns(made: Any, switch: dict[str, Any]) -> None:
    prepared = made(**switch)
    losses = train(built(prepared), batch_of(prepared))
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert losses != train(built(made()), batch_of(made()))


@pytest.mark.parametrize("key", ["backbone", "text_proj", "cluster_pooling"])
def test_a_word_that_a_switch_does_not_know_is_refused(workspace: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is one of"):
        settings_of("EIMF", **{key: "sideways"})


# ---- the semantic module ------------------------------------------------------------------------


def test_the_losses_are_the_equations(made: Any) -> None:
    prepared = made()
    model, batch = built(prepared), batch_of(prepared)
    esim, target = model.esim, batch[model.POS_ITEM_ID]
    with torch.no_grad():
        base, v, e_t = model.ibim.losses(batch)
        items = esim.item_vectors()
        readouts = []
        for user, item in zip(batch[model.USER_ID].tolist(), target.tolist(), strict=True):
            ids = esim.interests[esim.cluster[user]]
            interests = esim.texts(ids[ids >= 0])
            scores = esim.query(interests) @ esim.key(interests).T / interests.shape[1] ** 0.5
            attended = scores.softmax(1) @ esim.value(interests)
            readouts.append(attended[(attended @ items[item]).argmax()])
        r, t = torch.stack(readouts), items[target]
        r_small, t_small = esim.to_user(r), esim.to_item(t)

        def contrast(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            cosines = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1
            return -cosines.log_softmax(1).diagonal().mean()

        def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (1 - F.cosine_similarity(a, b)).mean()

        align = 0.4 * (contrast(v, r_small) + contrast(e_t, t_small))
        align = align + 0.1 * (distance(v, r_small) + distance(e_t, t_small))
        expected = base + 0.1 * align + 0.1 * F.cross_entropy(r @ items.T, target)
        torch.testing.assert_close(model.calculate_loss(batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec"])
def test_a_backbone_of_one_vector_is_aligned_as_it_is(made: Any, backbone: str) -> None:
    prepared = made(backbone=backbone)
    model, batch = built(prepared).eval(), batch_of(prepared)
    target, table = batch[model.POS_ITEM_ID], model.item_embedding.weight
    with torch.no_grad():
        loss, user, of_target = model.behavioural(batch)
        state = model.ibim.forward(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
        torch.testing.assert_close(user, state)
        torch.testing.assert_close(of_target, table[target])
        torch.testing.assert_close(loss, F.cross_entropy(state @ table.T, target))


def test_padded_interests_have_no_part(made: Any) -> None:
    esim = built(made()).esim
    user = torch.arange(1, 20)
    target = torch.randn(19, esim.texts.size)
    narrow, _ = esim.readout(user, target)
    esim.interests = F.pad(esim.interests, (0, 5), value=-1)
    torch.testing.assert_close(esim.readout(user, target)[0], narrow)


def test_a_padded_interest_never_answers(made: Any) -> None:
    """The attention is made sharp so that interests differ; padding, if read, would be nearest to some targets."""
    esim = built(made()).esim
    with torch.no_grad():
        for parameter in esim.query.parameters():
            parameter.mul_(1000.0)
    user = torch.arange(1, 20).repeat(20)
    target = torch.randn(len(user), esim.texts.size)
    narrow, _ = esim.readout(user, target)
    esim.interests = F.pad(esim.interests, (0, 5), value=-1)
    torch.testing.assert_close(esim.readout(user, target)[0], narrow)


def test_fewer_users_than_clusters_are_read_as_many(made: Any) -> None:
    esim = built(made()).esim
    user, target = torch.arange(1, 60), torch.randn(59, esim.texts.size)
    assert 1 < len(esim.interests) < len(user)
    many, known = esim.readout(user, target)
    (slope,) = torch.autograd.grad(many[0].square().sum(), esim.value.weight)
    alone, known_alone = esim.readout(user[:1], target[:1])
    torch.testing.assert_close(alone, many[:1])
    torch.testing.assert_close(torch.autograd.grad(alone.square().sum(), esim.value.weight)[0], slope)
    assert torch.equal(known_alone, known[:1])


@pytest.fixture(params=["cpu", "gpu"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test both ways to leave out rows: by an index, or on a GPU by a weight of zero."""
    if request.param == "gpu":
        nothing_at_hand(monkeypatch)


def test_users_without_a_cluster_learn_from_behaviour_alone(made: Any, either_way: None) -> None:
    prepared = made()
    model, batch = built(prepared), batch_of(prepared)
    model.esim.interests.fill_(-1)
    model.esim.knows_all = False
    torch.testing.assert_close(model.calculate_loss(batch), model.ibim.losses(batch)[0])
    with_some = built(prepared)
    with_some.esim.knows_all = False
    # The padding user's cluster, which has no interests.
    with_some.esim.cluster[batch[model.USER_ID][:5]] = int(with_some.esim.cluster[0])
    assert math.isfinite(float(with_some.calculate_loss(batch).detach()))


def test_users_without_a_cluster_take_no_part_in_the_semantic_losses(made: Any, either_way: None) -> None:
    prepared = made()
    model, batch = built(prepared), batch_of(prepared)
    esim, target = model.esim, batch[model.POS_ITEM_ID]
    alone = batch[model.USER_ID].unique()[:20]
    esim.cluster[alone] = int(esim.cluster[0])  # the padding user's cluster, which has no interests
    esim.knows_all = False
    kept = ~torch.isin(batch[model.USER_ID], alone)
    assert 0 < int(kept.sum()) < len(kept)
    with torch.no_grad():
        wanted, v, e_t = model.ibim.losses(batch)
        items = esim.item_vectors()
        t = items[target[kept]]
        r, _ = esim.readout(batch[model.USER_ID][kept], t)
        wanted = wanted + 0.1 * model.alignment(v[kept], e_t[kept], r, t)
        wanted = wanted + 0.1 * F.cross_entropy(r @ items.T, target[kept])
        torch.testing.assert_close(model.calculate_loss(batch), wanted)


def test_items_without_a_title_have_no_text(made: Any) -> None:
    esim = built(made()).esim
    assert not esim.item_vectors()[0].any()
    esim.item_text[7] = -1
    assert not esim.item_vectors()[7].any()


# ---- the features -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["loo", "user_split"])
def test_every_training_user_has_an_exemplar_and_no_other_user(made: Any, protocol: str) -> None:
    prepared = made(protocol=protocol)
    table, split = prepared.dataset.table, prepared.dataset.split
    folder = prepared.dataset.semantics.folder
    clusters = read_table(folder.file("usercluster"))
    trained = {str(table.user_tokens[user]) for user in table.user[split.train_rows]}
    assert set(clusters["user_id"]) == trained
    own = dict(zip(clusters["user_id"], clusters["exemplar_id"], strict=True))
    assert all(own[exemplar] == exemplar for exemplar in own.values())
    assert set(read_table(folder.file("exemplar"))["exemplar_id"]) == set(own.values())


def test_shuffled_exemplars_exchange_their_interests(made: Any) -> None:
    modules = (made(semantics=kind).model.esim for kind in ("offline", "shuffled"))
    real, mixed = (esim.interests[esim.cluster] for esim in modules)
    assert not torch.equal(real, mixed)
    rows = [sorted({tuple(row.tolist()) for row in table if row.max() >= 0}) for table in (real, mixed)]
    assert rows[0] == rows[1]
