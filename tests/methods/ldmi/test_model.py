"""LDMI (arXiv 2507.10917); ``test_contracts`` tests what all models share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.data.atomic import read_table
from recbole_llm.errors import UserError
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.methods.baselines.comirec import ComiRecDR
from recbole_llm.methods.ldmi.model import LDMI, Crowd, cluster_means
from recbole_llm.training.loaders import training_loader
from tests.helpers import prepare, settings_of, write_tiny

SAME_ROUTING = "interest"
Built = tuple[Prepared, Any]


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Prepared]]:
    folder = tmp_path_factory.mktemp("ldmi")
    write_tiny(folder / "dataset" / "tiny")
    return folder, {}


@pytest.fixture
def workshop(_made: tuple[Path, dict[str, Prepared]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the prepared model of the small dataset for some settings; each is made only once."""
    folder, known = _made
    monkeypatch.chdir(folder)

    def get(**settings: Any) -> Prepared:
        key = repr(sorted(settings.items()))
        if key not in known:
            known[key] = prepare("LDMI", **settings)
        return known[key]

    return get


def built(prepared: Prepared, model_class: type = LDMI, seed: int = 3) -> Any:
    """A new model, initialised from a seed."""
    torch.manual_seed(seed)
    return model_class(prepared.config, prepared.train_part)


def batches(prepared: Prepared, count: int = 3) -> list[Any]:
    return [batch for batch, _ in zip(training_loader(prepared)[0], range(count), strict=False)]


def aligned(model: LDMI, capsules: torch.Tensor, batch: Any) -> torch.Tensor:
    """``Z`` of the capsules of a batch's histories."""
    item_seq = batch[model.ITEM_SEQ]
    return model.align(capsules, item_seq, model.history_rows(batch, item_seq.shape[1]))


def test_cases(prepared: Prepared) -> Any:
    return next(iter(prepared.eval_loader("test")))[1]


test_cases.__test__ = False  # type: ignore[attr-defined]


def train(model: Any, some: list[Any]) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(0)
    losses = []
    for batch in some:
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


# ---- ablations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [{"gate": "zero"}, {"align": False}])
@pytest.mark.parametrize("silent", [{"contrast_weight": 0.0}, {"contrast": "none"}])
def test_with_all_off_it_is_comirec_dr(workshop: Any, off: dict[str, Any], silent: dict[str, Any]) -> None:
    """``gamma = 0`` and no contrast: the same parameters, losses and scores from the same seed."""
    prepared = workshop(**off, **silent)
    ldmi, plain = built(prepared), built(prepared, ComiRecDR)
    assert [name for name, _ in ldmi.named_parameters()] == [name for name, _ in plain.named_parameters()]
    some = batches(prepared)
    assert train(ldmi, some) == train(plain, some)
    cases = test_cases(prepared)
    with torch.no_grad():
        assert torch.equal(ldmi.eval().full_sort_predict(cases), plain.eval().full_sort_predict(cases))


def test_with_all_off_it_has_the_numbers_of_comirec_dr_as_that_is_run(workshop: Any) -> None:
    """Each model uses its own settings, which differ only in the routing transform."""
    off = workshop(align=False, contrast="none")
    other = prepare("ComiRecDR", routing_transform="interest")
    found = [train(built(one, kind), batches(one)) for one, kind in ((off, LDMI), (other, ComiRecDR))]
    assert found[0] == found[1]


def test_without_features_it_is_comirec_dr_too(workshop: Any) -> None:
    prepared = workshop(semantics="none")
    some = batches(prepared, 1)
    assert train(built(prepared), some) == train(built(prepared, ComiRecDR), some)


@pytest.mark.parametrize(
    "switch",
    [
        {"align": False},
        {"clusters": "items"},
        {"clusters": "history"},
        {"align_softmax": "cluster"},
        {"gate": "one"},
        {"gate": "zero"},
        {"cluster_scale": "own"},
        {"interest_scale": 4.0},
        {"cluster_text": True},
        {"contrast": "none"},
        {"contrast": "real"},
        {"contrast": "both"},
        {"contrast_weight": 1.0},
        {"temperature": 0.5},
        {"synthesised_per_step": 2},
        {"routing_transform": "shared"},
        {"covering": "items"},
        {"covering_weight": "one", "covering_budget": 0.05},
        {"clique_size": 2, "clique_weighting": "idf", "synthesised_items": 6},
        {"interest_window": 4},
    ],
    ids=str,
)
def test_each_switch_changes_the_numbers_and_learns(workshop: Any, switch: dict[str, Any]) -> None:
    prepared = workshop(**switch)
    losses = train(built(prepared), batches(prepared, 1) * 4)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert losses != train(built(workshop()), batches(workshop(), 1) * 4)


@pytest.mark.parametrize("key", ["gate", "clusters", "contrast", "align_softmax", "covering", "clique_weighting"])
def test_a_word_that_a_switch_does_not_know_is_refused(workspace: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is one of"):
        settings_of("LDMI", **{key: "sideways"})


# ---- user-individual level ----------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_means_and_sizes_are_those_of_each_cluster(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(4, 6, 3, generator=generator)
    labels = torch.randint(-2, 3, (4, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (4, 1), generator=generator)
    means, sizes, number = cluster_means(items, labels, mask)
    for row in range(4):
        own = labels[row][mask[row]]
        assert (sizes[row] > 0).sum() == len(own.unique())
        for place in range(int(mask[row].sum())):
            members = mask[row] & (labels[row] == labels[row, place])
            torch.testing.assert_close(means[row, number[row, place]], items[row][members].mean(0))
            assert sizes[row, number[row, place]] == members.sum()


@pytest.mark.parametrize("protocol", ["loo", "user_split"])
def test_labels_stand_at_the_items_of_the_history(workshop: Any, protocol: str) -> None:
    """Rows are looked up by user and position, in training, validation and test; targets are excluded."""
    prepared = workshop(protocol=protocol)
    model, table = prepared.model, prepared.dataset.table
    item = torch.from_numpy(table.item).long()
    for batch in [*batches(prepared), test_cases(prepared)]:
        sequence, length = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
        mask = torch.arange(sequence.shape[1]) < length[:, None]
        rows = model.history_rows(batch, sequence.shape[1])
        assert torch.equal(item[rows][mask], sequence[mask])


@pytest.mark.parametrize("protocol", ["loo", "user_split"])
def test_no_target_has_a_label(workshop: Any, protocol: str) -> None:
    prepared = workshop(protocol=protocol)
    split, labels = prepared.dataset.split, prepared.model.labels
    for cases in (split.valid, split.test):
        assert (labels[cases.target_rows] == -1).all()
    assert (labels[split.train_rows] >= 0).all()


def test_each_cluster_is_shared_out_among_the_interests(workshop: Any) -> None:
    model = built(workshop())
    clusters, capsules = torch.randn(5, 6, 64), torch.randn(5, 4, 64)
    real = torch.arange(6) < torch.tensor([[1], [3], [6], [2], [4]])
    shares = model.assignment(clusters, capsules, real)
    torch.testing.assert_close(shares.sum(dim=2), real.float())
    model.over_clusters = True
    shares = model.assignment(clusters, capsules, real)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5, 4))
    assert not shares[~real].any()


@pytest.mark.parametrize("clusters", ["llm", "items", "history"])
@pytest.mark.parametrize("scale", ["matched", "own"])
def test_alignment_is_the_equations(workshop: Any, clusters: str, scale: str) -> None:
    """Computed by hand for each case: cluster means, shares, gate, scale, layer norm."""
    prepared = workshop(clusters=clusters, cluster_scale=scale)
    model, batch = built(prepared).eval(), test_cases(prepared)
    sequence, length = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    with torch.no_grad():
        capsules = model.interests(sequence, length)
        found = aligned(model, capsules, batch)
        rows = model.history_rows(batch, sequence.shape[1])
        for case in range(len(batch)):
            groups: dict[int, list[torch.Tensor]] = {}
            for place in range(int(length[case])):
                label = int(model.labels[rows[case, place]])
                if clusters == "items":
                    label = -1
                elif clusters == "history":
                    label = min(label, 0)
                key = label if label >= 0 else -1 - place
                groups.setdefault(key, []).append(model.item_embedding.weight[sequence[case, place]])
            means = torch.stack([torch.stack(own).mean(0) for own in groups.values()])
            shares = (model.key(means) @ model.query(capsules[case]).T / 8.0).softmax(dim=1)
            assigned = shares.T @ model.value(means) / shares.sum(0)[:, None]
            gate = torch.sigmoid(torch.cat([capsules[case], assigned], dim=1) @ model.gate_layer.weight[0])
            scale = 1.0 if model.scale is None else model.scale
            expected = capsules[case] + gate[:, None] * scale * F.layer_norm(assigned, (64,))
            torch.testing.assert_close(found[case], expected, rtol=1e-4, atol=1e-5)


def share_of_capsules(prepared: Prepared) -> float:
    """The capsules' share of the variance of the scores after some training steps."""
    model = built(prepared)
    train(model, batches(prepared, 1) * 8)
    cases = test_cases(prepared)
    with torch.no_grad():
        capsules = model.eval().interests(cases[model.ITEM_SEQ], cases[model.ITEM_SEQ_LEN])
        added = aligned(model, capsules, cases) - capsules
        alone, other = ((part @ model.item_embedding.weight[1:].T).var() for part in (capsules, added))
    return float(alone / (alone + other))


def test_capsules_and_clusters_both_affect_scores(workshop: Any) -> None:
    """A layer-normalised vector is eight times as long as a capsule and would dominate the score without scaling."""
    assert share_of_capsules(workshop()) > 0.1
    assert share_of_capsules(workshop(cluster_scale="own")) < 0.01


def test_the_clusters_begin_as_long_as_a_capsule_can_be(workshop: Any) -> None:
    model = built(workshop(interest_scale=3.0, gate="one")).eval()
    cases = test_cases(workshop(interest_scale=3.0, gate="one"))
    with torch.no_grad():
        capsules = model.interests(cases[model.ITEM_SEQ], cases[model.ITEM_SEQ_LEN])
        added = aligned(model, capsules, cases) - capsules
    torch.testing.assert_close(added.norm(dim=2), torch.full(added.shape[:2], 3.0), rtol=0.05, atol=0.0)
    assert bool((capsules.norm(dim=2) <= 3.0).all())


def test_a_transform_that_moves_places_is_refused_where_clusters_are_read(workspace: Path) -> None:
    """Labels keep the original positions, so each item would read another item's cluster."""
    write_tiny(workspace / "dataset" / "tiny")
    with pytest.raises(UserError, match="transform=inverse_itemseq: LDMI finds the clusters"):
        prepare("LDMI", transform="inverse_itemseq")
    prepare("LDMI", transform="inverse_itemseq", align=False)


@pytest.mark.parametrize("clusters", ["items", "history"])
def test_clusters_that_nobody_named_have_no_text(workshop: Any, clusters: str) -> None:
    """Regression: this control read the LLM's cluster names."""
    with pytest.raises(UserError, match=f"cluster_text needs clusters: llm; clusters: {clusters} have no names"):
        workshop(clusters=clusters, cluster_text=True)


def test_the_text_of_a_cluster_is_its_name_and_nothing_where_it_has_none(workshop: Any) -> None:
    model = built(workshop(cluster_text=True))
    model.text_of_row = torch.tensor([2, 2, -1, 4])
    labels, mask = torch.tensor([[0, 0, -3, 5]]), torch.tensor([[True, True, True, True]])
    found = model.cluster_text(torch.arange(4)[None], labels, mask)[0]
    named = model.text(model.vectors)
    torch.testing.assert_close(found, torch.stack([torch.zeros(64), named[2], named[4], torch.zeros(64)]))


def test_a_history_without_clusters_keeps_its_capsules(workshop: Any) -> None:
    prepared = workshop()
    model, batch = built(prepared).eval(), test_cases(prepared)
    capsules = model.interests(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
    assert not torch.allclose(aligned(model, capsules, batch), capsules)
    model.labels.fill_(-1)
    torch.testing.assert_close(aligned(model, capsules, batch), capsules)


# ---- user-crowd level ---------------------------------------------------------------------------


def crowd(model: Any, items: list[list[int]], labels: list[list[int]]) -> Crowd:
    model.synthesised_items, model.synthesised_labels = torch.tensor(items), torch.tensor(labels)
    found: Crowd = model.crowd()
    return found


def plain_item_contrast(model: Any, items: list[list[int]], labels: list[list[int]]) -> float:
    """L_A by loops; synthesised users with a single cluster, and clusters of one item, contribute no term."""
    table, terms = model.item_embedding.weight, []
    for own, marks in zip(items, labels, strict=True):
        clusters: dict[int, list[int]] = {}
        for item, mark in zip(own, marks, strict=True):
            if item:
                clusters.setdefault(mark, []).append(item)
        for mark, members in clusters.items():
            if len(members) < 2 or len(clusters) < 2:
                continue
            for item in members:
                rest = table[[other for other in members if other != item]].mean(0)
                others = [table[group].mean(0) for other, group in clusters.items() if other != mark]
                cosines = torch.stack([F.cosine_similarity(table[item], p, dim=0) for p in [rest, *others]])
                terms.append(-(cosines / model.temperature).log_softmax(0)[0])
    return float(torch.stack(terms).mean())


def test_items_are_drawn_to_their_own_interest(workshop: Any) -> None:
    model = built(workshop())
    items = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0], [10, 11, 12, 13, 0, 0]]
    labels = [[0, 0, 1, 1, 1, 2], [0, 0, 0, -1, -1, -1], [3, 5, 3, 5, -1, -1]]
    loss = model.item_contrast(crowd(model, items, labels))
    assert float(loss.detach()) == pytest.approx(plain_item_contrast(model, items, labels), rel=1e-4)


@pytest.mark.parametrize("labels", [[[0, 0, 0]], [[0, 1, 2]]])
def test_one_interest_or_only_single_items_give_no_contrast(workshop: Any, labels: list[list[int]]) -> None:
    model = built(workshop())
    assert float(model.item_contrast(crowd(model, [[1, 2, 3]], labels))) == 0.0


def test_the_answering_interest_is_drawn_to_a_cluster_with_the_target(workshop: Any) -> None:
    """L_B by hand; other clusters with the target are not negatives; targets in no cluster contribute no term."""
    model = built(workshop())
    items, labels = [[1, 2, 3, 4], [2, 5, 6, 0]], [[0, 0, 1, 1], [0, 0, 1, -1]]
    made = crowd(model, items, labels)
    user, target = torch.randn(3, 64), torch.tensor([2, 6, 40])
    table = model.item_embedding.weight
    # The order of the two synthesised users is random: find it.
    if made.items[0, 0] == 2:
        items, labels = items[::-1], labels[::-1]
    clusters = [
        torch.tensor([item for item, mark in zip(own, marks, strict=True) if mark == wanted])
        for own, marks in zip(items, labels, strict=True)
        for wanted in (0, 1)
    ]
    terms = []
    for anchor, wanted in zip(user[:2], target[:2].tolist(), strict=True):
        holding = [number for number, members in enumerate(clusters) if wanted in members]
        kept = [number for number in range(4) if number == holding[0] or number not in holding]
        cosines = torch.stack([F.cosine_similarity(anchor, table[clusters[number]].mean(0), dim=0) for number in kept])
        terms.append(-(cosines / model.temperature).log_softmax(0)[kept.index(holding[0])])
    loss = model.real_contrast(user, target, made)
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)


def test_short_histories_are_aligned_without_the_padding_of_long_ones(workshop: Any) -> None:
    prepared = workshop()
    model, (batch,) = built(prepared), batches(prepared, 1)
    widths: list[int] = []
    model.routing.register_forward_hook(lambda _, read, __: widths.append(read[0].shape[1]))
    with torch.no_grad():
        found = model.serving_interests(batch)
        assert len(widths) > 1 and widths[0] < widths[-1]
        together = aligned(model, model.capsules(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]), batch)
    torch.testing.assert_close(found, together)


@pytest.mark.parametrize("contrast", ["item", "real", "both"])
def test_the_loss_is_that_of_z_and_a_tenth_of_the_contrasts(workshop: Any, contrast: str) -> None:
    prepared = workshop(contrast=contrast)
    model, (batch,) = built(prepared), batches(prepared, 1)
    target, table = batch[model.POS_ITEM_ID], model.item_embedding.weight
    with torch.no_grad():
        z = aligned(model, model.interests(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]), batch)
        user = z[range(len(z)), (z * table[target][:, None]).sum(2).argmax(1)]
        wanted = F.cross_entropy(user @ table.T, target)
        torch.manual_seed(7)
        sample = model.crowd()
        if contrast != "real":
            wanted = wanted + 0.1 * model.item_contrast(sample)
        if contrast != "item":
            wanted = wanted + 0.1 * model.real_contrast(user, target, sample)
        torch.manual_seed(7)
        torch.testing.assert_close(model.calculate_loss(batch), wanted)


def test_contrast_is_part_of_training_and_not_of_scores(workshop: Any) -> None:
    prepared = workshop()
    model, cases = built(prepared).eval(), test_cases(prepared)
    with torch.no_grad():
        before = model.full_sort_predict(cases)
        model.synthesised_items, model.synthesised_labels = model.synthesised_items[:0], model.synthesised_labels[:0]
        assert torch.equal(model.full_sort_predict(cases), before)


# ---- controls -----------------------------------------------------------------------------------


def test_shuffled_partitions_keep_their_sizes_and_lose_their_sense(workshop: Any) -> None:
    real, mixed = workshop().model, workshop(semantics="shuffled").model
    assert not torch.equal(real.labels, mixed.labels)
    offsets = workshop().dataset.table.offsets
    for user in range(1, 20):
        own = slice(int(offsets[user]), int(offsets[user + 1]))
        assert sorted(real.labels[own].tolist()) == sorted(mixed.labels[own].tolist())
    assert torch.equal(real.synthesised_items, mixed.synthesised_items)


def test_synthesised_users_hold_training_items_alone(workshop: Any) -> None:
    prepared = workshop(protocol="user_split")
    frame = read_table(prepared.dataset.semantics.folder.file("synuser"))
    table, split = prepared.dataset.table, prepared.dataset.split
    trained = set(table.item_tokens[table.item[split.train_rows]].tolist())
    assert set(frame["item_id"]) <= trained
    assert not frame.duplicated(["synuser_id", "item_id"]).any()
