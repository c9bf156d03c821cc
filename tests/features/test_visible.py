"""Which interactions prompts may show, under every split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recbole_llm.data.interactions import Interactions
from recbole_llm.data.sessions import cut_sessions
from recbole_llm.data.split import SPLITS, split_interactions
from recbole_llm.features.feature import training_lists, visible_ends


def table_of(lengths: list[int]) -> Interactions:
    """Users with histories of these lengths, each starting after the previous one ends."""
    counts = np.array([0, *lengths])
    user = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    generator = np.random.default_rng(3)
    return Interactions(
        user=user,
        item=generator.integers(1, 9, len(user)).astype(np.int32),
        time=np.arange(len(user), dtype=np.int64) * 10,
        extra={},
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        user_tokens=np.array(["[PAD]", *(f"u{n}" for n in range(len(lengths)))]),
        item_tokens=np.array(["[PAD]", *(f"i{n}" for n in range(9))]),
    )


TABLE = table_of([1, 2, 3, 9, 4, 6, 10, 5, 7, 3, 8, 12, 2, 6, 5, 9, 4, 11, 3, 6])


CUTS = {"valid_from": 0.6, "test_from": 0.8, "targets": "last"}


@pytest.mark.parametrize("name", SPLITS)
def test_no_target_of_validation_or_test_is_visible(name: str) -> None:
    held_out = {"valid": np.array([TABLE.n_users - 1]), "test": np.array([TABLE.n_users])}
    split = split_interactions(TABLE, {"split": name, "protocol": name, "held_out": held_out, **CUTS})
    ends = visible_ends(TABLE, split)
    rows = np.arange(len(TABLE))
    visible = rows < ends[TABLE.user]
    for cases in (split.valid, split.test):
        assert not visible[cases.target_rows].any()
        assert (ends[cases.user] <= cases.end).all()


def visible_of(name: str, **options: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    split = split_interactions(TABLE, {"split": name, "protocol": name, **CUTS, **options})
    return split, visible_ends(TABLE, split), np.asarray(TABLE.offsets)


def test_leave_one_out_shows_all_training_items_and_nothing_else() -> None:
    split, ends, offsets = visible_of("loo")
    shown = np.concatenate([np.arange(offsets[user], ends[user]) for user in range(1, TABLE.n_users + 1)])
    np.testing.assert_array_equal(shown, split.train_rows)


def test_a_held_out_user_of_user_split_shows_the_history_of_the_case() -> None:
    split, ends, _ = visible_of("user_split")
    for cases in (split.valid, split.test):
        np.testing.assert_array_equal(ends[cases.user], cases.end)


def test_a_session_that_is_evaluated_at_each_place_shows_only_its_first_item() -> None:
    split, ends, offsets = visible_of("session")
    users = np.unique(split.test.user)
    np.testing.assert_array_equal(ends[users], offsets[users] + 1)


@pytest.mark.parametrize("name", ["loo", "session", "user_split", "temporal", "gts"])
def test_training_lists_hold_training_rows_and_no_other(name: str) -> None:
    split, _, _ = visible_of(name)
    users, ends, items = training_lists(TABLE, split)
    np.testing.assert_array_equal(items, TABLE.item[split.train_rows])
    np.testing.assert_array_equal(np.repeat(users, np.diff(ends)), TABLE.user[split.train_rows])


@pytest.mark.parametrize("targets", ["all", "once", "last"])
def test_training_lists_of_windows_are_whole(targets: str) -> None:
    table = cut_sessions(TABLE, {"by": "user", "window": 4, "min_length": 2})
    split = split_interactions(table, {"split": "temporal", "protocol": "temporal_20", "window_targets": targets})
    users, ends, items = training_lists(table, split)
    assert users.tolist() == np.unique(table.user[split.train_rows]).tolist()
    for place, user in enumerate(users):
        own = table.item[table.offsets[user] : table.offsets[user + 1]]
        np.testing.assert_array_equal(items[ends[place] : ends[place + 1]], own)


def test_training_lists_are_the_training_items_user_by_user() -> None:
    split, _, offsets = visible_of("user_split")
    users, ends, items = training_lists(TABLE, split)
    assert not np.isin(users, [*split.valid.user, *split.test.user]).any()
    for place, user in enumerate(users):
        np.testing.assert_array_equal(
            items[ends[place] : ends[place + 1]], TABLE.item[offsets[user] : offsets[user + 1]]
        )
