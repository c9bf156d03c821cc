"""The split of a refit: validation data trains, test data never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm.data.interactions import Interactions
from recbole_llm.data.parts import split_by_parts
from recbole_llm.data.refit import with_validation
from recbole_llm.data.sessions import cut_sessions, people_of
from recbole_llm.data.split import Split, split_interactions
from tests.data.build import table_of

GTS = {"split": "gts", "valid_from": 0.6, "test_from": 0.8}
WINDOWS = {"by": "day", "window": 4, "min_length": 2}
PROTOCOLS: list[dict[str, Any]] = [
    {"split": "loo"},
    {"split": "session"},
    {"split": "user_split"},
    *({**GTS, "targets": targets} for targets in ("last", "first", "random", "all")),
    *({"split": "temporal", "sessions": WINDOWS, "window_targets": wanted} for wanted in ("all", "once", "last")),
]


@pytest.fixture
def table(tmp_path: Path) -> Interactions:
    """Forty users with 3 to 12 interactions over 200 hours, some at equal times; no user has an item twice."""
    generator = np.random.default_rng(3)
    rows = []
    for user in range(40):
        times = np.sort(generator.integers(0, 200, size=int(generator.integers(3, 13)))) * 3600 + 1_400_025_600
        items = generator.permutation(30)[: len(times)]
        rows += [(f"u{user}", f"i{item}", time) for item, time in zip(items, times, strict=True)]
    return table_of(tmp_path, rows)


def both(table: Interactions, options: dict[str, Any]) -> tuple[Interactions, Split, Split]:
    """The interactions as a protocol cuts them, the protocol's split, and the split of a refit."""
    options = {"protocol": "mine", **options}
    if options.get("sessions"):
        table = cut_sessions(table, options["sessions"])
    split = split_interactions(table, options)
    return table, split, with_validation(table, split, options)


def interactions(table: Interactions, rows: np.ndarray) -> set[tuple[str, int, int]]:
    """(person, item, time) of some rows, regardless of the session they belong to."""
    person = people_of(table, np.asarray(table.user)[rows])
    assert table.time is not None
    return set(zip(person.tolist(), table.item[rows].tolist(), np.asarray(table.time)[rows].tolist(), strict=True))


@pytest.mark.parametrize("options", PROTOCOLS, ids=str)
def test_what_is_tested_never_trains(table: Interactions, options: dict[str, Any]) -> None:
    table, split, refit = both(table, options)
    assert not interactions(table, refit.train_rows) & interactions(table, split.test.target_rows)
    assert set(refit.train_targets) <= set(refit.train_rows)


@pytest.mark.parametrize("options", PROTOCOLS, ids=str)
def test_what_validated_trains_and_the_test_stays(table: Interactions, options: dict[str, Any]) -> None:
    table, split, refit = both(table, options)
    assert set(split.train_rows) <= set(refit.train_rows)
    assert set(split.train_targets) <= set(refit.train_targets)
    missing = interactions(table, split.valid.target_rows) - interactions(table, refit.train_rows)
    assert missing <= interactions(table, split.test.target_rows)  # overlapping windows share interactions
    assert len(refit.train_targets) > len(split.train_targets)
    assert refit.test is split.test


def test_leave_one_out_trains_on_all_but_the_last_item(table: Interactions) -> None:
    table, split, refit = both(table, {"split": "loo"})
    assert len(refit.train_rows) == len(table) - len(split.test)


@pytest.mark.parametrize("targets", ["last", "first", "random", "all"])
def test_a_global_time_split_trains_on_everything_before_the_test(table: Interactions, targets: str) -> None:
    table, split, refit = both(table, {**GTS, "targets": targets})
    assert split.cuts is not None
    assert table.time is not None
    assert refit.train_rows.tolist() == np.flatnonzero(np.asarray(table.time) < split.cuts.test).tolist()
    rows = np.concatenate([split.valid.target_rows, split.test.target_rows])
    # Prompts show the same.
    assert [refit.shown_until(row) for row in rows] == [split.shown_until(row) for row in rows]


def test_held_out_users_of_validation_train_whole(table: Interactions) -> None:
    table, split, refit = both(table, {"split": "user_split"})
    tested = np.isin(np.asarray(table.user), split.test.user)
    assert refit.train_rows.tolist() == np.flatnonzero(~tested).tolist()


@pytest.mark.parametrize("last", [["i0"], ["i9"], ["i8"], ["i9", "i8"]], ids=str)
def test_items_that_repeat_a_target_of_validation_train_too(tmp_path: Path, last: list[str]) -> None:
    items = [*(f"i{step}" for step in range(10)), *last]
    rows = [(f"u{user}", item, time) for user in range(10) for time, item in enumerate(items)]
    table, split, refit = both(table_of(tmp_path, rows), {"split": "user_split"})
    tested = np.isin(np.asarray(table.user), split.test.user)
    assert refit.train_rows.tolist() == np.flatnonzero(~tested).tolist()
    assert (
        split.valid.select(np.array([0])).whole_end.tolist() == np.asarray(table.offsets)[split.valid.user + 1].tolist()
    )


def test_repeats_in_a_ready_part_of_validation_train_and_the_test_part_does_not() -> None:
    label = np.array([0, 0, 1, 1, 1, 2, 2])
    table = Interactions(
        user=np.ones(7, dtype=np.int32),
        item=np.array([1, 2, 3, 4, 3, 4, 5], dtype=np.int32),
        time=None,
        extra={},
        offsets=np.array([0, 0, 7]),
        user_tokens=np.array(["[PAD]", "u"]),
        item_tokens=np.array(["[PAD]", *"abcde"]),
    )
    options = {"split": "parts", "protocol": "parts"}
    split = split_by_parts(table, label, options)
    assert split.valid.target_rows.tolist() == [2, 3]
    assert with_validation(table, split, options).train_rows.tolist() == [0, 1, 2, 3, 4]


def test_a_ready_part_of_validation_trains_whole() -> None:
    """User 2 has no training rows and user 3 only validation rows: no validation cases, but data for a refit."""
    label = np.array([0, 1, 2, 1, 2, 1])
    table = Interactions(
        user=np.array([1, 1, 1, 2, 2, 3], dtype=np.int32),
        item=np.array([1, 2, 3, 1, 2, 3], dtype=np.int32),
        time=None,
        extra={},
        offsets=np.array([0, 0, 3, 5, 6]),
        user_tokens=np.array(["[PAD]", *"uvw"]),
        item_tokens=np.array(["[PAD]", *"abc"]),
    )
    options = {"split": "parts", "protocol": "parts"}
    split = split_by_parts(table, label, options)
    assert split.valid.target_rows.tolist() == [1]
    assert with_validation(table, split, options).train_rows.tolist() == [0, 1, 3, 5]


def test_the_shortest_history_of_a_training_example_is_kept(table: Interactions) -> None:
    table, _, refit = both(table, {"split": "user_split", "min_history": 3})
    position = refit.train_targets - np.asarray(table.offsets)[np.asarray(table.user)[refit.train_targets]]
    assert position.min() == 3


def test_windows_train_each_interaction_once(table: Interactions) -> None:
    table, _, refit = both(table, {"split": "temporal", "sessions": WINDOWS, "window_targets": "once"})
    assert len(interactions(table, refit.train_rows)) == len(refit.train_rows)


@pytest.mark.parametrize("lengths", [(4, 7), (30,), (9, 14, 11), (4, 25, 4, 17, 6)])
@pytest.mark.parametrize("wanted", ["all", "once", "last"])
def test_windows_of_one_second_keep_the_test_apart(tmp_path: Path, lengths: tuple[int, ...], wanted: str) -> None:
    """Sessions tie in time, so a test window may stand among validation windows."""
    rows = [(f"u{user}", f"i{user}.{step}", 100) for user, n in enumerate(lengths) for step in range(n)]
    table = table_of(tmp_path, [*rows, ("early", "i", 1), ("early", "j", 50)])
    table, split, refit = both(table, {"split": "temporal", "sessions": WINDOWS, "window_targets": wanted})
    assert not interactions(table, refit.train_rows) & interactions(table, split.test.target_rows)
