"""Batches gathered on the device: every example once, nothing from the future, no needless padding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from recbole_llm.data.loaders import (
    DeviceTable,
    EvalLoader,
    SequenceLoader,
    TrainLoader,
    UserLoader,
    training_windows,
)
from recbole_llm.layers.next_item import TARGETS
from recbole_llm.training.loaders import training_loader
from tests.helpers import prepare

ITEM_COLUMNS = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand", "title"]}
NEGATIVES = {"distribution": "uniform", "sample_num": 3}


def train_loader(prepared, trim=None):
    table = prepared.device_table()
    if trim is not None:
        table.trim = trim
    return TrainLoader(table, prepared.train_part, prepared.config, prepared.sequential)


def keys(batch):
    """(user, position, item) of each row."""
    return list(zip(batch["user_id"].tolist(), batch["position"].tolist(), batch["item_id"].tolist(), strict=True))


def training_keys(dataset, rows):
    table = dataset.table
    position = dataset.positions()
    return sorted((int(table.user[row]), int(position[row]), int(table.item[row])) for row in rows)


# ---- an epoch ------------------------------------------------------------------------------------


def test_every_training_row_comes_exactly_once_an_epoch(tiny):
    prepared = prepare("SASRec")
    loader = train_loader(prepared)
    expected = training_keys(prepared.dataset, prepared.dataset.split.train_targets)
    for _ in range(3):
        batches = list(loader)
        assert sorted(key for batch in batches for key in keys(batch)) == expected
        assert len(batches) == len(loader)


def test_general_models_get_every_training_row_once(tiny):
    prepared = prepare("BPR")
    table, rows = prepared.dataset.table, prepared.dataset.split.train_rows
    pairs = [
        pair for batch in train_loader(prepared) for pair in zip(*map(torch.Tensor.tolist, own(batch)), strict=True)
    ]
    assert sorted(pairs) == sorted(zip(table.user[rows].tolist(), table.item[rows].tolist(), strict=True))


def own(batch):
    return batch["user_id"], batch["item_id"]


def test_batches_have_the_size_asked_for(tiny):
    loader = train_loader(prepare("SASRec", train_batch_size=64))
    sizes = [len(batch) for batch in loader]
    assert set(sizes[:-1]) == {64}
    assert sum(sizes) == len(loader.rows)


def test_each_epoch_has_another_order(tiny):
    loader = train_loader(prepare("SASRec"))
    first, second = ([key for batch in loader for key in keys(batch)] for _ in range(2))
    assert first != second


def test_the_same_seed_gives_the_same_order(tiny):
    orders = [
        [key for batch in train_loader(prepare("SASRec", seed=seed)) for key in keys(batch)] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_the_order_does_not_depend_on_torch_s_own_random_numbers(tiny):
    prepared = prepare("SASRec")
    first = [key for batch in train_loader(prepared) for key in keys(batch)]
    torch.manual_seed(77)
    assert [key for batch in train_loader(prepared) for key in keys(batch)] == first


def test_without_shuffling_the_order_is_that_of_the_rows(tiny):
    prepared = prepare("SASRec", shuffle=False)
    order = [key for batch in train_loader(prepared) for key in keys(batch)]
    assert order == training_keys(prepared.dataset, prepared.dataset.split.train_targets)


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_the_state_resumes_the_same_order_and_negatives(tiny, model):
    loader = train_loader(prepare(model))
    list(loader)
    state = copy.deepcopy(loader.state_dict())
    expected = [contents(batch) for batch in loader]
    fresh = train_loader(prepare(model, seed=9))
    fresh.load_state_dict(state)
    assert [contents(batch) for batch in fresh] == expected


def contents(batch):
    return {name: batch[name].tolist() for name in batch.columns}


# ---- histories -----------------------------------------------------------------------------------


def histories(batch):
    return [row[:n] for row, n in zip(batch["item_id_list"].tolist(), batch["item_length"].tolist(), strict=True)]


@pytest.mark.parametrize("max_length", [1, 4, 10, 50])
def test_histories_are_the_last_items_before_the_target(tiny, max_length):
    prepared = prepare("SASRec", MAX_ITEM_LIST_LENGTH=max_length)
    table = prepared.dataset.table
    for batch in train_loader(prepared):
        for (user, position, _), history in zip(keys(batch), histories(batch), strict=True):
            begin = table.offsets[user]
            expected = table.item[max(begin, begin + position - max_length) : begin + position]
            assert history == expected.tolist()


def test_the_target_and_what_follows_are_not_in_the_history(tiny):
    prepared = prepare("SASRec")
    table = prepared.dataset.table
    batches = [*train_loader(prepared)]
    for phase in ("valid", "test"):
        cases = getattr(prepared.dataset.split, phase)
        batches += [batch for _, batch in EvalLoader(prepared.device_table(), cases, 16, sequential=True)]
    for batch in batches:  # in this dataset, no user has an item twice
        for (user, position, item), history in zip(keys(batch), histories(batch), strict=True):
            future = table.item[table.offsets[user] + position : table.offsets[user + 1]].tolist()
            assert future[0] == item
            assert not set(history) & set(future)


def test_times_of_the_history_lie_before_the_target_s(tiny):
    for batch in train_loader(prepare("SASRec")):
        assert (batch["timestamp_list"].amax(1) <= batch["timestamp"]).all()


@pytest.mark.parametrize("trim", [True, False])
def test_histories_are_padded_on_the_right_with_zeros(tiny, trim):
    for batch in train_loader(prepare("SASRec"), trim):
        for name in ("item_id_list", "timestamp_list"):
            padding = torch.arange(batch[name].shape[1]) >= batch["item_length"][:, None]
            assert torch.equal(batch[name] == 0, padding)


def test_trimmed_histories_are_as_wide_as_the_longest_of_the_batch(tiny):
    for batch in train_loader(prepare("SASRec", train_batch_size=16), trim=True):
        assert batch["item_id_list"].shape == (len(batch), int(batch["item_length"].max()))


def test_untrimmed_histories_have_full_width(tiny):
    for batch in train_loader(prepare("SASRec", MAX_ITEM_LIST_LENGTH=30), trim=False):
        assert batch["item_id_list"].shape == (len(batch), 30)


def test_models_that_read_past_a_row_s_length_get_full_width(tiny):
    assert prepare("Caser").device_table().trim is False
    assert prepare("SASRec").device_table().trim is True
    assert prepare("SASRec", engine="recbole").device_table().trim is False


def test_lengths_are_cut_to_the_longest_history(tiny):
    for batch in train_loader(prepare("SASRec", MAX_ITEM_LIST_LENGTH=4)):
        assert int(batch["item_length"].max()) <= 4
        assert int(batch["item_length"].min()) >= 1


def test_ids_in_batches_are_int64(tiny):
    batch = next(iter(train_loader(prepare("SASRec"))))
    assert {batch[name].dtype for name in ("user_id", "item_id", "item_id_list", "item_length", "position")} == {
        torch.int64
    }


def test_a_batch_builds_only_what_is_read(tiny):
    batch = next(iter(train_loader(prepare("SASRec", load_col=ITEM_COLUMNS))))
    assert len(batch["item_id_list"]) == len(batch)
    assert set(batch._ready) == {"item_id_list"}
    assert {"title", "timestamp_list", "brand"} <= set(batch.columns)


# ---- item features -------------------------------------------------------------------------------


def test_features_of_the_item_are_joined(tiny):
    prepared = prepare("SASRec", load_col=ITEM_COLUMNS)
    for batch in train_loader(prepared):
        for name in ("brand", "title"):
            assert torch.equal(batch[name], prepared.dataset.item_feat[name][batch["item_id"]])


def test_features_of_negatives_are_the_negatives_own(tiny):
    prepared = prepare("BPR", load_col=ITEM_COLUMNS)
    for batch in train_loader(prepared):
        assert torch.equal(batch["neg_brand"], prepared.dataset.item_feat["brand"][batch["neg_item_id"]])
        assert torch.equal(batch["brand"], prepared.dataset.item_feat["brand"][batch["item_id"]])


def test_pointwise_negatives_have_their_own_features(tiny):
    prepared = prepare("DMF", load_col=ITEM_COLUMNS, train_neg_sample_args=NEGATIVES)
    for batch in train_loader(prepared):
        assert torch.equal(batch["brand"], prepared.dataset.item_feat["brand"][batch["item_id"]])


# ---- negatives -----------------------------------------------------------------------------------


def training_pairs(prepared):
    table, rows = prepared.dataset.table, prepared.dataset.split.train_rows
    return set(zip(table.user[rows].tolist(), table.item[rows].tolist(), strict=True))


def test_pairwise_negatives_are_no_training_items_of_the_user(tiny):
    prepared = prepare("BPR", train_neg_sample_args=NEGATIVES)
    loader = train_loader(prepared)
    seen = training_pairs(prepared)
    for _ in range(5):
        for batch in loader:
            users, negatives = batch["user_id"].tolist(), batch["neg_item_id"].tolist()
            assert not seen & set(zip(users, negatives, strict=True))
            assert 1 <= min(negatives) <= max(negatives) <= 48


def test_held_out_items_may_be_negatives(tiny):
    """A sampler that avoided held-out items would leak them to the model."""
    prepared = prepare("BPR", train_neg_sample_args=NEGATIVES)
    loader, test = train_loader(prepared), prepared.dataset.split.test
    targets = set(zip(test.user.tolist(), prepared.dataset.table.item[test.target_rows].tolist(), strict=True))
    drawn = set()
    for _ in range(10):
        for batch in loader:
            drawn |= set(zip(batch["user_id"].tolist(), batch["neg_item_id"].tolist(), strict=True))
    assert targets & drawn


def test_pairwise_rows_repeat_round_by_round_within_the_batch_size(tiny):
    loader = train_loader(prepare("BPR", train_neg_sample_args=NEGATIVES, train_batch_size=64, shuffle=False))
    batch = next(iter(loader))
    assert len(batch) == 21 * 3 <= 64
    assert torch.equal(batch["item_id"][:21].repeat(3), batch["item_id"])
    assert torch.equal(batch["user_id"][:21].repeat(3), batch["user_id"])


def test_pointwise_rows_are_positives_then_negatives_with_labels(tiny):
    prepared = prepare("DMF", train_neg_sample_args=NEGATIVES, train_batch_size=64)
    seen = training_pairs(prepared)
    for batch in train_loader(prepared):
        positives = len(batch) // 4
        pairs = list(zip(batch["user_id"].tolist(), batch["item_id"].tolist(), strict=True))
        assert batch["label"].tolist() == [1.0] * positives + [0.0] * 3 * positives
        assert set(pairs[:positives]) <= seen
        assert not set(pairs[positives:]) & seen
        assert torch.equal(batch["user_id"][:positives].repeat(4), batch["user_id"])


def test_sequential_negatives_are_never_the_target(tiny):
    prepared = prepare("SASRec", loss_type="BPR", train_neg_sample_args=NEGATIVES)
    for _ in range(5):
        for batch in train_loader(prepared):
            assert (batch["neg_item_id"] != batch["item_id"]).all()
            assert len(batch["item_id_list"]) == len(batch)


def test_repeated_sequential_rows_have_the_history_of_their_positive(tiny):
    prepared = prepare("SASRec", loss_type="BPR", train_neg_sample_args=NEGATIVES, train_batch_size=60)
    batch = next(iter(train_loader(prepared)))
    assert torch.equal(batch["item_id_list"][:20].repeat(3, 1), batch["item_id_list"])
    assert torch.equal(batch["position"][:20].repeat(3), batch["position"])


def test_popular_negatives_are_no_training_items_of_the_user(tiny):
    prepared = prepare("BPR", train_neg_sample_args={"distribution": "popularity", "sample_num": 2, "alpha": 1.0})
    seen = training_pairs(prepared)
    for batch in train_loader(prepared):
        assert not seen & set(zip(batch["user_id"].tolist(), batch["neg_item_id"].tolist(), strict=True))


# ---- transforms ----------------------------------------------------------------------------------


def test_a_transform_holds_for_training_and_evaluation(tiny):
    prepared = prepare("SHAN")
    loader = EvalLoader(prepared.device_table(), prepared.dataset.split.test, 20, sequential=True)
    table = prepared.dataset.table
    for batch in [*train_loader(prepared), *(batch for _, batch in loader)]:
        for (user, position, _), row in zip(keys(batch), batch["Inverse_item_id_list"].tolist(), strict=True):
            begin = table.offsets[user]
            history = table.item[max(begin, begin + position - 10) : begin + position].tolist()
            assert row == [0] * (10 - len(history)) + history


def test_masked_histories_are_those_that_the_model_asks_for(tiny):
    prepared = prepare("BERT4Rec")
    batch = next(iter(train_loader(prepared)))
    masked = batch[prepared.model.MASK_ITEM_SEQ]
    assert masked.shape == batch["item_id_list"].shape
    assert (masked == prepared.model.mask_token).any(1).all()


# ---- users alone ---------------------------------------------------------------------------------


def test_autoencoders_get_every_user_once(tiny):
    prepared = prepare("MultiVAE", train_batch_size=32)
    loader = UserLoader(prepared.device_table(), prepared.train_part, prepared.config)
    batches = list(loader)
    assert [batch.columns for batch in batches] == [["user_id"]] * 3
    assert sorted(user for batch in batches for user in batch["user_id"].tolist()) == list(range(81))


# ---- evaluation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_every_case_comes_exactly_once(tiny, size):
    prepared = prepare("SASRec")
    cases = prepared.dataset.split.test
    loader = EvalLoader(prepared.device_table(), cases, size, sequential=True)
    blocks = [(chosen, batch["user_id"].tolist()) for chosen, batch in loader]
    assert len(blocks) == len(loader)
    assert sorted(np.concatenate([chosen for chosen, _ in blocks])) == list(range(len(cases)))
    assert all(cases.user[chosen].tolist() == users for chosen, users in blocks)


def test_blocks_are_sorted_by_length_so_that_padding_is_short(tiny):
    prepared = prepare("SASRec", MAX_ITEM_LIST_LENGTH=50)
    loader = EvalLoader(prepared.device_table(), prepared.dataset.split.test, 20, sequential=True)
    widths = [batch["item_id_list"].shape[1] for _, batch in loader]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_general_models_get_no_histories(tiny):
    prepared = prepare("BPR")
    loader = EvalLoader(prepared.device_table(), prepared.dataset.split.test, 20, sequential=False)
    _, batch = next(iter(loader))
    assert set(batch.columns) == {"user_id", "item_id"}


def test_batches_of_evaluation_carry_the_position_of_the_target(tiny):
    prepared = prepare("SASRec")
    test = prepared.dataset.split.test
    for chosen, batch in EvalLoader(prepared.device_table(), test, 20, sequential=True):
        assert batch["position"].tolist() == (test.end - test.start)[chosen].tolist()


def test_the_table_holds_the_ids_in_four_bytes(tiny):
    prepared = prepare("BPR")
    table = DeviceTable(prepared.dataset, torch.device("cpu"), 10, True)
    assert table.item.dtype == table.user.dtype == torch.int32


# ---- a target at every position ------------------------------------------------------------------


def sequence_loader(model="SASRec", **more):
    prepared = prepare(model, train_targets="all", **more)
    loader, _ = training_loader(prepared)
    assert type(loader) is SequenceLoader
    return prepared, loader


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"MAX_ITEM_LIST_LENGTH": 3},
        {"protocol": "user_split"},
        {"protocol": "user_split", "min_history": 4, "MAX_ITEM_LIST_LENGTH": 3},
        {"protocol": "session"},
        {"protocol": "temporal_20"},
        {"protocol": "session", "sessions": {"by": "day", "min_length": 2}},
        {"left_out": [0, 3]},
    ],
)
def test_every_training_target_comes_once_and_nothing_that_is_evaluated(tiny, more):
    prepared, loader = sequence_loader(train_batch_size=40, **more)
    table, split = prepared.dataset.table, prepared.dataset.split
    following = []
    for batch in loader:
        items, targets, lengths = batch["item_id_list"], batch[TARGETS], batch["item_length"]
        assert items.shape == targets.shape
        for line in range(len(batch)):
            end = int(table.offsets[batch["user_id"][line]]) + int(batch["position"][line])
            rows = np.arange(end - int(lengths[line]), end)
            assert items[line, : len(rows)].tolist() == table.item[rows].tolist()
            assert not items[line, len(rows) :].any()
            real = targets[line].nonzero()[:, 0].numpy()
            assert targets[line, real].tolist() == table.item[rows[real] + 1].tolist()
            following += (rows[real] + 1).tolist()
    assert sorted(following) == split.train_targets.tolist()
    assert not {*following} & {*split.valid.target_rows.tolist(), *split.test.target_rows.tolist()}


def test_windows_are_cut_from_the_end_and_do_not_overlap():
    offsets, user = np.array([0, 0, 8, 11]), np.array([1] * 8 + [2] * 3)
    windows = training_windows(offsets, user, np.array([1, 2, 3, 4, 5, 6, 9, 10]), 4)
    assert windows.tolist() == [[2, 6, 1], [0, 2, 1], [8, 10, 9]]


def test_targets_that_do_not_train_are_context_alone():
    offsets, user = np.array([0, 0, 8]), np.array([1] * 8)
    assert training_windows(offsets, user, np.array([3, 4]), 10).tolist() == [[0, 4, 3]]
    assert training_windows(offsets, user, np.array([1, 2, 5, 6]), 10).tolist() == [[0, 2, 1], [0, 6, 5]]


def test_a_batch_of_windows_has_as_many_targets_as_one_of_prefixes(tiny):
    prepared, loader = sequence_loader(train_batch_size=100)
    counts = [int((batch[TARGETS] > 0).sum()) for batch in loader]
    assert sum(counts) == len(prepared.dataset.split.train_targets)
    assert np.mean(counts[:-1]) == pytest.approx(100, rel=0.15)
    assert len(counts) == len(loader)


def test_processes_share_a_batch_of_windows(tiny):
    parts = []
    for rank in range(2):
        _, loader = sequence_loader()
        loader.share(rank, 2, seed=1)
        parts.append([batch["user_id"].tolist() for batch in loader])
    _, whole = sequence_loader()
    for first, second, batch in zip(*parts, whole, strict=True):
        assert sorted(first + second) == sorted(batch["user_id"].tolist())
