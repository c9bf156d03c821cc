"""ISRF: exact decoding, graphs, losses, switches, and the absence of leaked test items."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_llm.errors import UserError
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.layers.alignment import soft_target_alignment
from recbole_llm.methods.isrf.decoding import UNFOUND
from recbole_llm.methods.isrf.loader import AlternatingLoader
from recbole_llm.methods.isrf.prompt import DIRECT_TEMPLATES, SEQUENCE_TEMPLATES
from recbole_llm.training.loaders import training_loader
from tests.helpers import layered, make_run, prepare, runner

SMALL: dict[str, Any] = {
    "lm_scratch": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 120},
    "n_negatives": 5,
    "similar_users": 5,
    "train_batch_size": 32,
    "warmup_steps": 0,
    "eval_step": 1,
    "epochs": 2,
}


def isrf(**overrides: Any) -> Prepared:
    return prepare("ISRF", **{**SMALL, **overrides})


def direct(**overrides: Any) -> Prepared:
    return prepare("ISRFDirect", **{**SMALL, "candidates": 5, "protocol": "direct_100", **overrides})


def cases(prepared: Prepared, count: int = 6) -> Any:
    return prepared.eval_loader("test").batch(np.arange(count))


@torch.no_grad()
def scores(prepared: Prepared, batch: Any) -> torch.Tensor:
    found: torch.Tensor = prepared.model.eval().full_sort_predict(batch)
    return found


# ---- decoding -----------------------------------------------------------------------------------


@torch.no_grad()
def brute_force(prepared: Prepared, batch: Any) -> torch.Tensor:
    """Log-likelihood of each item's number, by transformers' own forward pass, one item at a time."""
    core = prepared.model.eval().core
    prompt = core.prompt_of(batch["user_id"], batch["item_id_list"], False)
    inputs, mask = core.embedded(prompt, core.words(prompt, False, core.interests()), False)
    found = torch.zeros(len(batch), prepared.dataset.item_num)
    for item in range(1, prepared.dataset.item_num):
        labels = core.labels[item].repeat(len(batch), 1)
        logits = core.lm(inputs_embeds=inputs, attention_mask=mask.long(), labels=labels).logits.log_softmax(-1)
        real = labels >= 0
        found[:, item] = (logits.gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0] * real).sum(1)
    return found


def sharpen(prepared: Prepared) -> Prepared:
    """Perturb the weights so that items' scores differ clearly."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in prepared.model.core.lm.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return prepared


def test_exact_scores_equal_brute_force(shared_tiny: Path) -> None:
    prepared = sharpen(isrf())
    batch = cases(prepared)
    torch.testing.assert_close(
        scores(prepared, batch)[:, 1:], brute_force(prepared, batch)[:, 1:], rtol=1e-4, atol=1e-4
    )


def test_a_restricted_beam_of_full_width_finds_the_exact_scores(shared_tiny: Path) -> None:
    prepared = sharpen(isrf())
    batch = cases(prepared, 3)
    exact = scores(prepared, batch)[:, 1:]
    prepared.model.core.decode, prepared.model.core.beams = "restricted", prepared.dataset.item_num - 1
    beam = scores(prepared, batch)[:, 1:]
    assert bool((beam > UNFOUND).all())
    torch.testing.assert_close(beam, exact, rtol=1e-4, atol=1e-4)


def test_a_narrow_beam_finds_valid_items_best_first(shared_tiny: Path) -> None:
    prepared = sharpen(isrf(decode="restricted", beams=5))
    found = scores(prepared, cases(prepared, 3))
    assert bool(((found > UNFOUND).sum(1) <= 5).all())
    assert bool((found > UNFOUND).any(1).all())


def test_a_free_beam_ranks_what_it_wrote_and_leaves_the_rest_tied(shared_tiny: Path) -> None:
    prepared = isrf(decode="free", beams=4)
    found = scores(prepared, cases(prepared, 3))
    listed = found[found > UNFOUND]
    assert set(listed.tolist()) <= {-0.0, -1.0, -2.0, -3.0}
    assert bool(torch.isfinite(found).all())


def test_a_list_may_be_longer_than_those_of_training(shared_tiny: Path) -> None:
    prepared = direct(n_negatives=1, MAX_ITEM_LIST_LENGTH=2, graph_words=False)
    batch = cases(prepared)
    assert batch["candidates"].shape[1] > 4
    assert bool(torch.isfinite(scores(prepared, batch)[:, 1:]).all())


def test_likelihoods_of_all_items_are_at_most_one_together(shared_tiny: Path) -> None:
    prepared = sharpen(isrf())
    total = scores(prepared, cases(prepared))[:, 1:].exp().sum(1)
    assert bool((total <= 1 + 1e-5).all())


# ---- prompts ------------------------------------------------------------------------------------


def test_prompts_hold_the_ids_in_order_with_their_nodes(shared_tiny: Path) -> None:
    core = isrf().model.core
    user, items = torch.tensor([3, 5]), torch.tensor([[4, 9, 0], [2, 7, 8]])
    prompt = core.sequence_prompt(user, items)
    number = {item: number for number, item in core.item_of_number.items()}
    text = core.tokenizer.decode(prompt.ids[1][prompt.mask[1]])
    assert text.endswith("".join(f"item_{number[item]}" for item in (2, 7, 8)))
    nodes = list(dict.fromkeys(prompt.node[1][prompt.mask[1]].tolist()))
    n_users = core.sequence_prompt.n_users
    assert nodes == [5, n_users + 2, n_users + 7, n_users + 8]
    assert set(prompt.ordinal[0][prompt.mask[0]].tolist()) == {1, 2, 3}
    assert not prompt.node[0][~prompt.mask[0]].any()


@torch.no_grad()
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("words", ["graph", "position"])
def test_inputs_are_prompt_vectors_and_tokens_with_words(
    tiny: Path, direct: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equations 1 and 4: ``[P ; E_tok + alpha W]``; W are graph vectors or, in sequential prompts, positions."""
    core = _core(tiny).eval()
    assert core.scale == 9.0
    monkeypatch.setattr(core, "sequence_graph", words == "graph")
    user, items = torch.tensor([3, 5]), torch.tensor([[4, 9, 0], [2, 7, 8]])
    prompt = core.prompt_of(user, items, direct)
    inputs, mask = core.embedded(prompt, core.words(prompt, direct, core.interests()), direct)
    step, current = core.explicit.graph._forward.to_dense(), torch.cat([core.explicit.users, core.explicit.items])
    layers = [current, *(current := step @ current for _ in range(4))]
    graph = torch.stack(layers).mean(0)[prompt.node]
    word = graph if direct or words == "graph" else core.positions.weight[prompt.ordinal]
    expected = core.lm.get_input_embeddings().weight[prompt.ids] + 9.0 * word
    torch.testing.assert_close(inputs[:, 3:], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(inputs[:, :3], core.prompt_vectors[int(direct)].expand(2, -1, -1))
    assert torch.equal(mask, torch.cat([torch.ones(2, 3, dtype=torch.bool), prompt.mask], dim=1))


@pytest.mark.parametrize("number", range(len(SEQUENCE_TEMPLATES)))
def test_every_paraphrase_names_user_and_items(tiny: Path, number: int) -> None:
    core = _core(tiny)
    prompt = core.sequence_prompt(torch.tensor([3]), torch.tensor([[4, 9]]), number)
    assert set(prompt.ordinal[0].tolist()) - {0} == {1, 2, 3}
    assert len(SEQUENCE_TEMPLATES) == 8
    assert len(DIRECT_TEMPLATES) == 5


_CORES: dict[str, Any] = {}


def _core(tiny: Path) -> Any:
    if "core" not in _CORES:
        _CORES["core"] = isrf(semantics="none", word_scale="absolute", whole_word_scale=9.0).model.core
    return _CORES["core"]


def test_random_numbers_do_not_follow_the_order_of_appearance(shared_tiny: Path) -> None:
    cores = (isrf(semantics="none", item_numbers="random", legacy_leaks=on).model.core for on in (False, True))
    fixed, legacy = (core.item_of_number for core in cores)
    assert sorted(fixed) == sorted(legacy) == list(range(1, len(fixed) + 1))
    assert all(number == item for number, item in legacy.items())
    order = [fixed[number] for number in sorted(fixed)]
    assert abs(np.corrcoef(order, range(len(order)))[0, 1]) < 0.5


# ---- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [{"draws_per_interaction": 0.7}, {"draws_per_interaction": 0.0}], ids=str)
def test_batches_of_both_tasks_alternate_and_hold_training_items_alone(tiny: Path, draws: dict[str, Any]) -> None:
    prepared = isrf(**draws)
    loader, _ = training_loader(prepared)
    assert isinstance(loader, AlternatingLoader)
    table, rows = prepared.dataset.table, prepared.dataset.split.train_rows
    train: dict[int, list[int]] = {}
    for user, item in zip(table.user[rows].tolist(), table.item[rows].tolist(), strict=True):
        train.setdefault(user, []).append(item)
    kinds = []
    for batch in loader:
        kinds.append("candidates" in batch)
        for line in range(len(batch)):
            user, target = int(batch["user_id"][line]), int(batch["item_id"][line])
            assert target in train[user]
            if kinds[-1]:
                offered = batch["candidates"][line].tolist()
                assert [item for item in offered if item in train[user]] == [target]
            else:
                history = [item for item in batch["item_id_list"][line].tolist() if item]
                text = ",".join(map(str, train[user]))
                assert ",".join(map(str, [*history, target])) in text
    assert kinds[:4] == [False, True, False, True]
    assert len(kinds) == len(loader)


@pytest.mark.parametrize("draws", [{"draws_per_interaction": 8.0}, {"draws_per_interaction": 0.0}], ids=str)
def test_sub_sequences_begin_and_end_anywhere(tiny: Path, draws: dict[str, Any]) -> None:
    prepared = isrf(semantics="none", MAX_ITEM_LIST_LENGTH=20, samples_per_user=16, **draws)
    counts = np.bincount(prepared.dataset.table.user[prepared.dataset.split.train_rows])
    found: set[tuple[int, int]] = set()
    for batch in training_loader(prepared)[0]:
        if "candidates" not in batch:
            own = torch.from_numpy(counts)[batch["user_id"]] == 4
            ends = batch["position"][own]
            found |= set(zip((ends - batch["item_length"][own]).tolist(), ends.tolist(), strict=True))
    assert (counts == 4).sum() > 2
    assert found == {(start, target) for target in range(4) for start in range(target)}


def test_an_epoch_takes_a_share_of_the_interactions_each_as_often_as_another(tiny: Path) -> None:
    """Regression: users with 100 and with 3 items were drawn equally often; SASRec saw 25 times as many examples."""
    prepared = isrf(semantics="none", draws_per_interaction=1.5)
    split, table = prepared.dataset.split, prepared.dataset.table
    loader = training_loader(prepared)[0]
    drawn: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for batch in loader:
        pairs = zip(batch["user_id"].tolist(), batch["item_id"].tolist(), strict=True)
        drawn["candidates" in batch] += list(pairs)
    for direct, rows in ((False, split.train_targets), (True, split.train_rows)):
        known = list(zip(table.user[rows].tolist(), table.item[rows].tolist(), strict=True))
        assert len(drawn[direct]) == round(1.5 * len(rows))
        counts = Counter(drawn[direct])
        assert set(counts) == set(known)
        assert sum(count > known.count(pair) for pair, count in counts.items()) == len(drawn[direct]) - len(rows)


def test_lists_grow_with_the_curriculum_and_go_on_where_they_were(tiny: Path) -> None:
    def lengths(loader: Any) -> list[int]:
        return [batch["candidates"].shape[1] for batch in loader if "candidates" in batch]

    prepared = isrf(semantics="none", n_negatives=7, curriculum=[2, 4], curriculum_batches=3)
    loader = training_loader(prepared)[0]
    first = lengths(loader)
    assert first[:8] == [3, 3, 3, 5, 5, 5, 8, 8]
    again = training_loader(prepared)[0]
    assert lengths(again)[:3] == [3, 3, 3]
    again.load_state_dict(loader.state_dict())
    assert set(lengths(again)) == {8}
    with pytest.raises(UserError, match=r"curriculum: give whole numbers from 1 on, such as \[9,29\]"):
        isrf(semantics="none", curriculum=[0])


def test_the_place_of_the_target_among_candidates_is_not_told(tiny: Path) -> None:
    prepared = direct()
    loader = prepared.eval_loader("test")
    places = []
    for _, batch in loader:
        places += (batch["candidates"] == batch["item_id"][:, None]).nonzero()[:, 1].tolist()
    counts = np.bincount(places, minlength=6)
    assert counts.max() < 0.4 * len(places)
    assert counts.min() > 0


def test_the_target_of_a_training_list_may_stand_anywhere(tiny: Path) -> None:
    loader, _ = training_loader(isrf())
    places: list[int] = []
    for batch in loader:
        if "candidates" in batch:
            width = batch["candidates"].shape[1]
            places += (batch["candidates"] == batch["item_id"][:, None]).nonzero()[:, 1].tolist()
    counts = np.bincount(places, minlength=width)
    assert width > 3
    assert counts.max() < 2 * len(places) / width
    assert counts.min() > 0


def test_stopping_and_going_on_draws_the_same_batches(tiny: Path) -> None:
    prepared = isrf()
    first, second = (training_loader(prepared)[0] for _ in range(2))
    list(first)
    second.load_state_dict(first.state_dict())
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["item_id"], other["item_id"])


# ---- scale --------------------------------------------------------------------------------------


@torch.no_grad()
def share_of_semantics(prepared: Prepared) -> float:
    """The texts' share of the variance of an item's input vectors, without the part that users' codes contribute."""
    core = prepared.model.core
    explicit, n_users = core.explicit, prepared.dataset.user_num
    words = core.interests()[n_users + 1 :]
    codes = explicit.users.clone()
    explicit.users.zero_()
    texts = core.interests()[n_users + 1 :]
    explicit.users.copy_(codes)
    digits = core.lm.get_input_embeddings().weight

    def power(vectors: torch.Tensor) -> float:
        return float((vectors - vectors.mean(0)).square().mean())

    return power(core.scale * texts) / (power(core.scale * words) + power(digits))


def test_texts_have_their_share_of_what_is_said_of_an_item(shared_tiny: Path) -> None:
    """Regression: with T5-small's scales, a from-scratch model's item vectors were almost only random user codes."""
    assert 0.2 < share_of_semantics(isrf()) < 0.5
    absolute = {"word_scale": "absolute", "graph_init_std": 5.0, "whole_word_scale": 9.0}
    assert share_of_semantics(isrf(**absolute)) < 0.02
    assert share_of_semantics(isrf(graph_init_std=5.0)) < 0.5 * share_of_semantics(isrf())


@torch.no_grad()
@pytest.mark.parametrize("switch", [{}, {"adapter": False}, {"item_semantics": False}], ids=str)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_words_begin_as_many_deviations_of_the_tokens_as_alpha_says(
    shared_tiny: Path, switch: dict[str, Any], scale: float
) -> None:
    prepared = isrf(whole_word_scale=scale, **switch)
    core, n_users = prepared.model.core, prepared.dataset.user_num
    ids = [*range(1, n_users), *range(n_users + 1, n_users + prepared.dataset.item_num)]
    words = core.scale * core.interests()[ids]
    tokens = core.lm.get_input_embeddings().weight.std()
    assert float((words - words.mean(0)).square().mean().sqrt() / tokens) == pytest.approx(scale, rel=1e-3)


def test_positions_are_heard_without_a_graph_too(shared_tiny: Path) -> None:
    core = isrf(semantics="none", graph_words=False).model.core
    assert float(core.positions.weight.std()) == pytest.approx(1.0, abs=0.1)


# ---- graphs, alignment, switches ----------------------------------------------------------------


def held_out_edges(prepared: Prepared) -> int:
    """Number of test pairs that are edges of the user-item graph without being training pairs."""
    table, split = prepared.dataset.table, prepared.dataset.split
    train = set(zip(table.user[split.train_rows].tolist(), table.item[split.train_rows].tolist(), strict=True))
    matrix = prepared.model.core.explicit.graph._forward.to_dense()
    pairs = zip(table.user[split.test.end].tolist(), table.item[split.test.end].tolist(), strict=True)
    return sum(
        bool(matrix[user, prepared.dataset.user_num + item] > 0) for user, item in pairs if (user, item) not in train
    )


def test_the_graph_holds_no_test_pair_unless_told(shared_tiny: Path) -> None:
    assert held_out_edges(isrf()) == 0
    assert held_out_edges(isrf(legacy_leaks=True)) > 0


def test_held_out_items_may_be_negatives_unless_told(tiny: Path) -> None:
    """A sampler that avoided held-out items would leak them to the model."""

    def tests_among_draws(prepared: Prepared) -> bool:
        table, test = prepared.dataset.table, prepared.dataset.split.test
        users = torch.from_numpy(test.user)
        drawn = training_loader(prepared)[0].sampler.for_users(users, 500).view(500, -1)
        return bool((drawn == torch.from_numpy(table.item[test.end])).any())

    assert tests_among_draws(isrf())
    assert not tests_among_draws(isrf(legacy_leaks=True))


def profiles(prepared: Prepared) -> dict[str, str]:
    features = prepared.dataset.semantics
    texts = features.texts(features.user_text_ids("preference_text"))
    return dict(zip(prepared.dataset.table.user_tokens.tolist(), texts, strict=True))


def test_profiles_hold_no_test_item_unless_told(shared_tiny: Path) -> None:
    fixed, legacy = isrf(), isrf(legacy_leaks=True)
    table, split = fixed.dataset.table, fixed.dataset.split
    features = fixed.dataset.semantics
    titles = features.texts(features.item_text_ids("title_text"))
    said = {"fixed": profiles(fixed), "legacy": profiles(legacy)}
    found = dict.fromkeys(said, 0)
    for user, row in zip(split.test.user, split.test.end, strict=True):
        title = titles[table.item[row]]
        for name, by_user in said.items():
            found[name] += f"{title};" in f"{by_user[str(table.user_tokens[user])]};"
    assert found["fixed"] == 0
    assert found["legacy"] > 0.9 * len(split.test)


def first_batches(prepared: Prepared) -> list[Any]:
    loader = iter(training_loader(prepared)[0])
    return [next(loader), next(loader)]


def test_teacher_gets_no_gradient_and_group_does(shared_tiny: Path) -> None:
    """Equation 8: the explicit interests guide the group's, not the other way."""
    core = (prepared := isrf()).model.core
    batch = first_batches(prepared)[1]
    _, alignment = prepared.model.calculate_loss(batch)
    alignment.backward()
    assert core.explicit.users.grad is None
    assert float(core.group.users.grad.norm()) > 0


def test_sequential_alignment_reaches_both_sides(shared_tiny: Path) -> None:
    core = (prepared := isrf()).model.core
    _, alignment = prepared.model.calculate_loss(first_batches(prepared)[0])
    alignment.backward()
    assert float(core.group.users.grad.norm()) > 0
    assert float(core.explicit.adapter.layers[0].weight.grad.norm()) > 0


@pytest.mark.parametrize(("key", "number"), [("sequential_alignment", 0), ("direct_alignment", 1)])
def test_each_alignment_is_turned_off_alone(shared_tiny: Path, key: str, number: int) -> None:
    prepared = isrf(**{key: 0.0})
    values = [float(prepared.model.calculate_loss(batch)[1].detach()) for batch in first_batches(prepared)]
    assert values[number] == 0.0
    assert values[1 - number] > 0.0


@torch.no_grad()
@pytest.mark.parametrize("form", ["infonce", "soft_targets"])
def test_the_alignments_are_those_of_equations_8_and_9(shared_tiny: Path, form: str) -> None:
    """Sequential batches align with the mean of W over their items' tokens, direct batches with H of their users."""
    weights = {"sequential_alignment": 0.5, "direct_alignment": 2.0}
    prepared = isrf(alignment=form, alignment_temperature=0.3, **weights)
    core = prepared.model.core
    group, explicit, n_users = core.group(), core.interests(), prepared.dataset.user_num
    sequential, direct = first_batches(prepared)
    means = []
    for history in sequential["item_id_list"]:
        tokens = core.sequence_prompt.items.lengths[history]
        means.append((tokens[:, None] * explicit[n_users + history]).sum(0) / tokens.sum())
    for batch, other, weight in (
        (sequential, torch.stack(means), 0.5),
        (direct, explicit[direct["user_id"]], 2.0),
    ):
        own = group[batch["user_id"]]
        cosines = F.cosine_similarity(own[:, None], other[None], dim=2)
        wanted = -(cosines / 0.3).log_softmax(1).diagonal().mean()
        if form == "soft_targets":
            wanted = soft_target_alignment(own, other)
        torch.testing.assert_close(prepared.model.calculate_loss(batch)[1], weight * wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_text_loss_is_the_mean_over_the_tokens_of_the_targets(shared_tiny: Path) -> None:
    """Negative log-likelihood of the targets' numbers after histories, or after lists of candidates."""
    prepared = sharpen(isrf(semantics="none", paraphrases=False))
    core = prepared.model.core
    sequential, direct = first_batches(prepared)
    for batch, items, is_direct in (
        (sequential, sequential["item_id_list"], False),
        (direct, direct["candidates"], True),
    ):
        target = batch["item_id"]
        likelihood = core.scores(batch["user_id"], items, is_direct).gather(1, target[:, None])
        wanted = -likelihood.sum() / (core.labels[target] >= 0).sum()
        torch.testing.assert_close(prepared.model.calculate_loss(batch)[0], wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_explicit_interests_are_those_of_equations_3_and_4(shared_tiny: Path, scale: str) -> None:
    prepared = isrf(word_scale=scale, graph_layers=3)
    explicit, dataset = prepared.model.core.explicit, prepared.dataset
    table, rows, n_users = dataset.table, dataset.split.train_rows, dataset.user_num
    edges = torch.zeros(n_users + dataset.item_num, n_users + dataset.item_num)
    for user, item in zip(table.user[rows].tolist(), table.item[rows].tolist(), strict=True):
        edges[user, n_users + item] = edges[n_users + item, user] = 1.0
    root = edges.sum(dim=1).clamp(min=1.0).rsqrt()
    first, last = explicit.adapter.layers[0], explicit.adapter.layers[2]
    items = (explicit.items @ first.weight.T + first.bias) @ last.weight.T + last.bias
    if scale == "relative":
        items = items * explicit.unit
    layers = [torch.cat([explicit.users, items])]
    for _ in range(3):
        layers.append((root[:, None] * edges * root) @ layers[-1])
    wanted = torch.stack(layers).mean(dim=0) * (explicit.gain if scale == "relative" else 1.0)
    torch.testing.assert_close(prepared.model.core.interests(), wanted, rtol=1e-4, atol=1e-4)


def test_without_both_alignments_there_is_no_group(shared_tiny: Path) -> None:
    assert isrf(sequential_alignment=0.0, direct_alignment=0.0).model.core.group is None


def test_with_all_switches_off_only_the_language_model_and_its_prompts_are_left(shared_tiny: Path) -> None:
    prepared = isrf(semantics="none", graph_words=False)
    names = {name.split(".")[1] for name, _ in prepared.model.named_parameters()}
    assert names == {"lm", "prompt_vectors", "positions"}
    assert all(math.isfinite(float(sum(prepared.model.calculate_loss(b)).detach())) for b in first_batches(prepared))


ABLATIONS: list[dict[str, Any]] = [
    {"item_semantics": False},
    {"adapter": False},
    {"adapter_activation": "relu"},
    {"user_text": "positive"},
    {"user_text": "negative"},
    {"item_text": "positive"},
    {"item_text": "negative"},
    {"alignment": "soft_targets"},
    {"sequence_words": "position"},
    {"graph_words": False},
    {"word_scale": "absolute"},
    {"item_numbers": "random"},
    {"item_numbers": "semantic"},
    {"semantics": "shuffled"},
    {"semantics": "random"},
]


@pytest.mark.parametrize("change", ABLATIONS, ids=["-".join(map(str, *one.items())) for one in ABLATIONS])
def test_an_ablation_changes_the_losses(shared_tiny: Path, change: dict[str, Any]) -> None:
    def losses(**overrides: Any) -> list[float]:
        prepared = isrf(paraphrases=False, **overrides)
        torch.manual_seed(4)
        return [
            round(float(part.detach()), 6) for b in first_batches(prepared) for part in prepared.model.calculate_loss(b)
        ]

    assert losses(**change) != losses()


# ---- presets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["ISRF", "ISRFDirect"])
def test_presets_take_the_scales_of_their_language_model(workspace: Path, model: str) -> None:
    """The released scales for the trained T5-small, relative ones from scratch; both bound the validation time."""
    paper, scratch = (layered(model, protocol="direct_100", preset=name) for name in ("paper", "scratch"))
    alpha = {"ISRF": 9.0, "ISRFDirect": 11.0}[model]
    names = ("lm", "word_scale", "whole_word_scale", "graph_init_std", "n_negatives", "curriculum")
    assert [paper[name] for name in names] == ["google-t5/t5-small", "absolute", alpha, 5.0, 99, []]
    assert [scratch[name] for name in names] == ["scratch", "relative", 1.0, 1.0, 99, [9, 29]]
    for settings in (paper, scratch):
        assert (settings["decode"], settings["eval_step"], settings["valid_users"]) == ("bounded", 10, 4000)


def test_a_small_model_of_the_scratch_preset_s_kind_runs(tiny: Path) -> None:
    sizes = {**SMALL["lm_scratch"], "dropout": 0.1, "attention": "sdpa"}
    changes = {"lm_scratch": sizes, "preset": "scratch", "precision": "fp32", "n_negatives": 5, "curriculum": [2]}
    record = runner().run(make_run("ISRF", **{**SMALL, **changes, "valid_users": 20, "semantics": "none"}))
    assert record.notes[0].startswith("validated on 20 of ")
    assert math.isfinite(record.metrics["ndcg@10"].value)


# ---- whole runs ---------------------------------------------------------------------------------


def test_each_task_leaves_its_own_record(tiny: Path) -> None:
    sequential = runner().run(make_run("ISRF", **SMALL))
    chosen = runner().run(make_run("ISRFDirect", **{**SMALL, "candidates": 5, "protocol": "direct_100"}))
    assert (sequential.protocol, chosen.protocol) == ("loo", "direct_100")
    assert sequential.label == "ISRF (offline, scratch T5 2x16)"
    assert len(chosen.curve) == 2
    assert 0 <= chosen.metrics["hit@5"].value <= 1


def test_legacy_leaks_are_marked_in_the_result(tiny: Path) -> None:
    record = runner().run(make_run("ISRF", **{**SMALL, "epochs": 1, "legacy_leaks": True}))
    assert record.legacy_leaks
    assert "legacy leaks" in record.label


def test_a_restricted_search_of_one_beam_is_refused(shared_tiny: Path) -> None:
    """Greedy decoding returns no scores of its outputs."""
    with pytest.raises(UserError, match="decode: restricted searches with beams: 2 or more; got 1"):
        isrf(semantics="none", decode="restricted", beams=1)


@pytest.mark.parametrize("wrong", [{"decode": "greedy"}, {"item_text": "both"}])
def test_a_wrong_choice_is_one_clear_message(shared_tiny: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is one of"):
        isrf(semantics="none", **wrong)
