"""Folds of users: even sizes, stable membership, and complete exclusion from training."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm.data.sessions import cut_sessions
from recbole_llm.data.split import fold_of_users, leave_one_out, rows_digest, user_split, without_fold
from tests.data.build import table_of, walks

LENGTHS = [5, 3, 9, 4, 2, 7, 3, 1, 6, 4, 5]


@pytest.fixture
def cut(tmp_path):
    table = table_of(tmp_path, walks(LENGTHS))
    return table, leave_one_out(table, {})


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_training_user_is_in_one_fold_and_folds_are_even(cut, folds):
    table, split = cut
    found = fold_of_users(table, split, folds)
    assert found[0] == -1
    counts = np.bincount(found[1:], minlength=folds)
    assert counts.sum() == len(LENGTHS)
    assert counts.max() - counts.min() <= 1


def test_a_name_decides_and_not_the_order_of_a_file(tmp_path, cut):
    def by_name(table):
        return dict(zip(table.user_tokens.tolist(), fold_of_users(table, leave_one_out(table, {}), 3), strict=True))

    assert by_name(table_of(tmp_path / "b", walks(LENGTHS)[::-1])) == by_name(cut[0])


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_a_fold_is_left_out_of_training_and_validation_and_nothing_else_is(cut, fold):
    table, split = cut
    found, own = without_fold(table, split, fold, 3), fold_of_users(table, split, 3) == fold
    for rows, before in ((found.train_rows, split.train_rows), (found.train_targets, split.train_targets)):
        assert rows.tolist() == [row for row in before if not own[table.user[row]]]
    assert found.valid.user.tolist() == [user for user in split.valid.user if not own[user]]
    assert len(found.valid) == len(found.valid.target_rows)
    assert found.test is split.test


def test_every_training_row_is_left_out_once(cut):
    table, split = cut
    rows = [without_fold(table, split, fold, 4).train_rows for fold in range(4)]
    seen = np.bincount(np.concatenate(rows), minlength=len(table))
    assert set(seen[split.train_rows]) == {3}
    assert len({rows_digest(each) for each in rows}) == 4


def test_users_who_do_not_train_are_in_no_fold_and_stay(tmp_path):
    table = table_of(tmp_path, walks([6] * 20))
    split = user_split(table, {})
    found = fold_of_users(table, split, 4)
    assert np.all(found[split.valid.user] == -1)
    assert without_fold(table, split, 0, 4).valid is split.valid


def test_all_sessions_of_a_person_are_in_one_fold(tmp_path):
    rows = [(f"u{user}", f"i{step}", 86_400 * (step // 3) + 1000 * user) for user in range(9) for step in range(9)]
    table = cut_sessions(table_of(tmp_path, rows), {"by": "day"})
    assert table.n_users == 27
    found = fold_of_users(table, leave_one_out(table, {}), 3)
    people = [name.partition("#")[0] for name in table.user_tokens[1:].tolist()]
    assert len(set(zip(people, found[1:].tolist(), strict=True))) == 9
    assert len(set(found[1:].tolist())) == 3
