"""Ranks found by counting equal ranks found by sorting; the top items are counted in the same pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.data.loaders import EvalLoader
from recbole_llm.data.split import Cases
from recbole_llm.errors import UserError
from recbole_llm.training.ranking import rank_cases, rows_of_block
from tests.data.build import write_rows
from tests.device_waits import nothing_at_hand
from tests.helpers import prepare

N_USERS, N_ITEMS = 30, 25


@pytest.fixture
def prepared(workspace):
    """A dataset of users with 3 to 12 interactions; many have an item more than once."""
    generator = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{generator.integers(N_ITEMS)}", step)
        for user in range(N_USERS)
        for step in range(generator.integers(3, 13))
    ]
    write_rows(workspace / "dataset" / "tiny" / "tiny.inter", rows)
    return prepare("SASRec")


class Scores(torch.nn.Module):
    """A model that returns given scores of all items for each row of the interactions."""

    device = torch.device("cpu")

    def __init__(self, dataset, table):
        super().__init__()
        self.offsets, self.table = torch.from_numpy(np.array(dataset.table.offsets)), table

    def full_sort_predict(self, batch):
        return self.table[self.offsets[batch["user_id"]] + batch["position"]].clone()


def random_scores(dataset, kinds=None, seed=1):
    """Random scores without ties, or with ``kinds`` distinct values."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(dataset.table) + 1, dataset.item_num)
    if kinds is not None:
        return torch.randint(kinds, shape, generator=generator).float()
    return torch.argsort(torch.rand(shape, generator=generator), dim=1).float()


def single(dataset):
    return dataset.split.test


def several(dataset):
    """Cases whose last three rows are targets; a target may be in the history or occur twice."""
    table = dataset.table
    users = np.flatnonzero(np.diff(table.offsets) >= 4)
    ends = np.asarray(table.offsets)[users + 1]
    rows = np.concatenate([np.arange(end - 3, end) for end in ends])
    return Cases(users, np.asarray(table.offsets)[users], ends - 3, np.arange(len(users) + 1) * 3, rows)


def brute_force(dataset, cases, scores, mask_history):
    """Counts of higher and tied items for each target, by definition."""
    items = np.asarray(dataset.table.item)
    higher, tied = [], []
    for case in range(len(cases)):
        line = scores[cases.end[case]].numpy()
        targets = items[cases.target_rows[cases.target_offsets[case] : cases.target_offsets[case + 1]]]
        pool = set(range(1, dataset.item_num)) if cases.candidates is None else set(cases.candidates[case].tolist())
        if mask_history and cases.candidates is None:
            pool -= set(items[cases.start[case] : cases.end[case]].tolist())
            pool |= set(targets.tolist())
        for target in targets:
            others = line[sorted(pool - {int(target)})]
            higher.append(int((others > line[target]).sum()))
            tied.append(int((others == line[target]).sum()))
    return higher, tied


def rank(prepared, cases, scores, mask_history, **options):
    loader = EvalLoader(prepared.device_table(), cases, options.pop("batch_size", 8), sequential=True)
    return rank_cases(Scores(prepared.dataset, scores), loader, mask_history, **options)


@pytest.mark.parametrize("cases_of", [single, several])
@pytest.mark.parametrize("mask_history", [True, False])
@pytest.mark.parametrize("kinds", [None, 2, 5])
def test_ranks_are_those_of_brute_force(prepared, cases_of, mask_history, kinds):
    cases, scores = cases_of(prepared.dataset), random_scores(prepared.dataset, kinds)
    found = rank(prepared, cases, scores, mask_history)
    assert (found.higher.tolist(), found.tied.tolist()) == brute_force(prepared.dataset, cases, scores, mask_history)


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor has that an operator makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, made.numel() if isinstance(made, torch.Tensor) else 0)
        return made


@pytest.mark.parametrize("cases_of", [single, several])
@pytest.mark.parametrize("kinds", [None, 5])
def test_a_gpu_counts_the_same_in_the_memory_of_a_few_blocks(prepared, monkeypatch, cases_of, kinds):
    """Regression: a GPU copied a block's scores for all targets of a case at once."""
    nothing_at_hand(monkeypatch)
    cases, scores = cases_of(prepared.dataset), random_scores(prepared.dataset, kinds)
    with Largest() as largest:
        found = rank(prepared, cases, scores, True, batch_size=8)
    assert (found.higher.tolist(), found.tied.tolist()) == brute_force(prepared.dataset, cases, scores, True)
    assert largest.elements < 2 * 8 * prepared.dataset.item_num


def test_without_ties_the_rank_is_the_place_in_the_sorted_list(prepared):
    cases, scores = single(prepared.dataset), random_scores(prepared.dataset)
    found = rank(prepared, cases, scores, mask_history=False)
    scores[:, 0] = -np.inf
    order = np.argsort(-scores[cases.end].numpy(), axis=1)
    place = (order == found.item[:, None]).argmax(axis=1)
    assert found.higher.tolist() == place.tolist()
    assert not found.tied.any()


@pytest.mark.parametrize("mask_history", [True, False])
@pytest.mark.parametrize("kinds", [None, 3])
def test_only_candidates_are_ranked(prepared, mask_history, kinds):
    dataset, generator = prepared.dataset, np.random.default_rng(5)
    cases, scores = single(dataset), random_scores(dataset, kinds)
    targets = dataset.table.item[cases.target_rows]
    lines = [
        [t, *generator.choice(np.setdiff1d(np.arange(1, dataset.item_num), [t]), 9, replace=False)] for t in targets
    ]
    cases = cases.with_candidates(np.array(lines, dtype=np.int32))
    found = rank(prepared, cases, scores, mask_history)
    assert (found.higher.tolist(), found.tied.tolist()) == brute_force(dataset, cases, scores, mask_history)
    assert found.higher.max() <= 9


def test_a_target_in_the_history_is_ranked_all_the_same(prepared):
    dataset, cases = prepared.dataset, single(prepared.dataset)
    items = dataset.table.item
    repeated = [c for c in range(len(cases)) if items[cases.end[c]] in items[cases.start[c] : cases.end[c]]]
    scores = random_scores(dataset)
    found = rank(prepared, cases, scores, mask_history=True)
    expected, _ = brute_force(dataset, cases, scores, mask_history=True)
    assert repeated
    assert found.higher[repeated].tolist() == [expected[c] for c in repeated]


def test_the_padding_item_is_never_ranked(prepared):
    cases, scores = single(prepared.dataset), random_scores(prepared.dataset)
    expected = rank(prepared, cases, scores.clone(), mask_history=False).higher
    scores[:, 0] = 1e9
    assert rank(prepared, cases, scores, mask_history=False).higher.tolist() == expected.tolist()


def test_equal_scores_are_all_tied(prepared):
    found = rank(prepared, single(prepared.dataset), random_scores(prepared.dataset, 1), mask_history=False)
    assert not found.higher.any()
    assert set(found.tied.tolist()) == {prepared.dataset.item_num - 2}


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 1000}, {"score_block_mib": 0}])
def test_the_size_of_blocks_changes_nothing(prepared, options):
    cases, scores = several(prepared.dataset), random_scores(prepared.dataset, 4)
    one, other = rank(prepared, cases, scores, True), rank(prepared, cases, scores, True, **options)
    assert one.higher.tolist() == other.higher.tolist()
    assert one.tied.tolist() == other.tied.tolist()


@pytest.mark.parametrize(
    ("device", "n_items", "block_mib", "rows"),
    [
        ("cpu", 10_000, 256, 838),  # 32 MiB of scores
        ("cpu", 1_000_000, 1024, 128),  # fewer rows would read the item table more often
        ("cpu", 1_000_000, 256, 67),  # never more than block_mib
        ("cuda", 10_000, 256, 4096),
    ],
)
def test_blocks_on_a_cpu_are_small(device, n_items, block_mib, rows):
    assert rows_of_block(4096, n_items, block_mib, torch.device(device)) == rows


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers_are_a_user_error(prepared, bad):
    scores = random_scores(prepared.dataset)
    scores[int(single(prepared.dataset).end[3])] = bad
    with pytest.raises(UserError, match="not finite numbers: training diverged; try a smaller learning_rate"):
        rank(prepared, single(prepared.dataset), scores, mask_history=True)


@pytest.mark.parametrize("mask_history", [True, False])
def test_another_item_s_score_that_is_no_number_is_not_beaten(prepared, mask_history):
    cases, scores = single(prepared.dataset), random_scores(prepared.dataset)
    start, end = int(cases.start[3]), int(cases.end[3])
    known = prepared.dataset.table.item[start : end + 1]
    scores[end, next(item for item in range(1, prepared.dataset.item_num) if item not in known)] = float("nan")
    with pytest.raises(UserError, match="not finite numbers"):
        rank(prepared, cases, scores, mask_history=mask_history)


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (lambda scores: scores.T, r"the shape \(26, 8\)"),  # regression: read as (8, 26), rows and items mixed up
        (lambda scores: scores[:, 1:], r"the shape \(8, 25\)"),
        (lambda scores: scores[:1], r"the shape \(1, 26\)"),
        (lambda scores: scores.long(), "torch.int64"),
        (lambda scores: scores.numpy(), "float32"),
        (lambda scores: scores.tolist(), "list"),
    ],
)
def test_scores_of_another_form_are_refused(prepared, monkeypatch, form, found):
    whole = Scores.full_sort_predict
    monkeypatch.setattr(Scores, "full_sort_predict", lambda self, batch: form(whole(self, batch)))
    with pytest.raises(UserError, match=rf"Scores.full_sort_predict returns {found}: .*, here \(8, 26\)"):
        rank(prepared, single(prepared.dataset), random_scores(prepared.dataset), mask_history=True)


@pytest.mark.parametrize("form", [lambda scores: scores.view(-1), lambda scores: scores[:, None], torch.Tensor.double])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_scores_may_be_flat(prepared, monkeypatch, form, batch_size):
    cases, scores = single(prepared.dataset), random_scores(prepared.dataset, 5)
    whole = Scores.full_sort_predict
    monkeypatch.setattr(Scores, "full_sort_predict", lambda self, batch: form(whole(self, batch)))
    found = rank(prepared, cases, scores, mask_history=True, batch_size=batch_size)
    assert (found.higher.tolist(), found.tied.tolist()) == brute_force(prepared.dataset, cases, scores, True)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_scores_that_a_model_keeps_are_not_changed(prepared, monkeypatch, batch_size):
    """Regression: with one case in a batch, its seen items were struck out of the model's own table."""
    cases, counts = single(prepared.dataset), random_scores(prepared.dataset)[0]
    monkeypatch.setattr(Scores, "full_sort_predict", lambda self, batch: self.table.expand(len(batch), -1))
    found = rank(prepared, cases, counts.clone(), mask_history=True, batch_size=batch_size)
    same = counts.expand(len(prepared.dataset.table) + 1, -1)
    assert (found.higher.tolist(), found.tied.tolist()) == brute_force(prepared.dataset, cases, same, True)


def test_half_precision_scores_are_ranked(prepared):
    cases, scores = single(prepared.dataset), random_scores(prepared.dataset, 5)
    found = rank(prepared, cases, scores.bfloat16(), mask_history=True)
    assert (found.higher.tolist(), found.tied.tolist()) == brute_force(prepared.dataset, cases, scores, True)


def test_ranks_know_their_users_items_and_histories(prepared):
    cases = several(prepared.dataset)
    found = rank(prepared, cases, random_scores(prepared.dataset), mask_history=True)
    assert found.user.tolist() == cases.user.tolist()
    assert found.offsets.tolist() == cases.target_offsets.tolist()
    assert found.item.tolist() == prepared.dataset.table.item[cases.target_rows].tolist()
    assert found.history.tolist() == (cases.end - cases.start).tolist()
    trained = prepared.dataset.table.item[prepared.dataset.split.train_rows]
    assert found.train_count.tolist() == np.bincount(trained, minlength=N_ITEMS + 1)[found.item].tolist()
    assert len(found) == len(cases)


def test_cases_of_sessions_know_their_people(workspace):
    """To a model, each session is a user; significance tests use the people behind the sessions."""
    sessions = [(f"u{user}", user) for user in range(40)] + [("last", day) for day in (41, 42, 43)]
    rows = [(user, f"i{(day + step) % N_ITEMS}", 86_400 * day + step) for user, day in sessions for step in range(4)]
    write_rows(workspace / "dataset" / "tiny" / "tiny.inter", rows)
    prepared = prepare("SASRec", protocol="session", sessions={"by": "day"}, train_batch_size=8)
    cases, table = prepared.dataset.split.test, prepared.dataset.table
    found = rank(prepared, cases, random_scores(prepared.dataset), mask_history=False)
    names = [str(name).rpartition("#")[0] for name in table.user_tokens[found.user]]
    assert len(set(found.user.tolist())) > len(set(names)) == len(set(found.person.tolist()))
    assert len({*zip(names, found.person.tolist(), strict=True)}) == len(set(names))


def test_users_of_uncut_histories_are_people(prepared):
    assert len(rank(prepared, single(prepared.dataset), random_scores(prepared.dataset), False).person) == 0


# ---- models that score pairs ---------------------------------------------------------------------

FEATURES = {"inter": ["user_id", "item_id"], "item": ["item_id", "brand", "categories"]}


@pytest.mark.parametrize("block", [0, 1, 256])
@pytest.mark.parametrize("columns", [{"inter": ["user_id", "item_id"]}, FEATURES], ids=["ids", "features"])
def test_models_that_score_pairs_are_ranked_with_each_item_s_own_features(tiny, columns, block):
    prepared = prepare("FM", load_col=columns)
    dataset, model, cases = prepared.dataset, prepared.model, prepared.dataset.split.test
    torch.nn.init.normal_(model.first_order_linear.token_embedding_table.embedding.weight)
    loader = EvalLoader(prepared.device_table(), cases, 16, sequential=False)
    found = rank_cases(model, loader, mask_history=False, score_block_mib=block)
    every = dataset.get_item_feature()
    scores = torch.stack([user_scores(model, every, user) for user in cases.user])
    targets = torch.from_numpy(found.item).long()
    higher = (scores[:, 1:] > scores.gather(1, targets[:, None])).sum(1)
    assert found.higher.tolist() == higher.tolist()


@torch.no_grad()
def user_scores(model, items, user):
    pairs = items[torch.arange(len(items))]
    pairs["user_id"] = torch.full((len(items),), int(user))
    return model.predict(pairs)


def test_another_name_of_the_item_column_serves_too(tiny):
    text = (tiny / "tiny.inter").read_text().replace("item_id:token", "asin:token", 1)
    (tiny / "tiny.inter").write_text(text)
    prepared = prepare("FM", load_col={"inter": ["user_id", "asin"]}, ITEM_ID_FIELD="asin")
    loader = EvalLoader(prepared.device_table(), prepared.dataset.split.test, 16, sequential=False)
    assert len(set(rank_cases(prepared.model, loader, mask_history=False).higher.tolist())) > 5
