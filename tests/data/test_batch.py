"""Batches (RecBole ``Interaction``) whose columns are computed on first access."""

from __future__ import annotations

import copy

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_llm.data.batch import LazyInteraction


def tensors():
    return {"user": torch.tensor([1, 2, 3]), "item": torch.tensor([7, 8, 9]), "seq": torch.arange(6).view(3, 2)}


@pytest.fixture
def built():
    """Names of the columns that were computed, in order."""
    return []


@pytest.fixture
def lazy(built):
    def source(name, value):
        def make():
            built.append(name)
            return value

        return make

    return LazyInteraction({name: source(name, value) for name, value in tensors().items()}, 3)


@pytest.fixture
def plain():
    return Interaction(tensors())


def same(one, other):
    assert set(one.columns) == set(other.columns)
    assert all(torch.equal(one[name], other[name]) for name in one.columns)
    assert len(one) == len(other)


def test_nothing_is_built_by_making_it(lazy, built):
    assert (len(lazy), built) == (3, [])


def test_only_what_is_read_is_built(lazy, built):
    assert lazy["item"].tolist() == [7, 8, 9]
    assert built == ["item"]


def test_a_column_is_built_once(lazy, built):
    assert lazy["item"] is lazy["item"]
    assert built == ["item"]


def test_asking_for_names_builds_nothing(lazy, built):
    assert sorted(lazy.columns) == sorted(lazy) == ["item", "seq", "user"]
    assert "seq" in lazy
    assert "other" not in lazy
    assert built == []


def test_columns_are_attributes_too(lazy, built):
    assert lazy.user.tolist() == [1, 2, 3]
    assert built == ["user"]


def test_a_column_that_is_not_there_is_an_attribute_error(lazy):
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        assert lazy.other
    assert not hasattr(lazy, "other")


def test_a_column_that_is_not_there_is_a_key_error(lazy):
    with pytest.raises(KeyError):
        lazy["other"]


def test_setting_a_column_replaces_its_source(lazy, built):
    lazy["item"] = torch.zeros(3)
    assert lazy["item"].tolist() == [0, 0, 0]
    assert built == []


def test_an_added_source_replaces_a_column(lazy):
    assert lazy["item"].tolist() == [7, 8, 9]
    lazy.add("item", lambda: torch.ones(3))
    assert lazy["item"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("read_before", [True, False])
def test_a_deleted_column_is_gone(lazy, read_before):
    if read_before:
        assert len(lazy["item"]) == 3
    del lazy["item"]
    assert "item" not in lazy
    assert "item" not in lazy.columns


def test_deleting_what_is_not_there_is_a_key_error(lazy):
    with pytest.raises(KeyError):
        del lazy["other"]


def test_dropping_what_is_not_there_is_recbole_s_error(lazy, plain):
    for batch in (lazy, plain):
        with pytest.raises(ValueError, match=r"Column \[other\] is not in"):
            batch.drop("other")


def test_update_takes_over_columns(lazy, built):
    lazy.update(Interaction({"item": torch.tensor([4, 5, 6]), "new": torch.tensor([1, 1, 1])}))
    assert lazy["item"].tolist() == [4, 5, 6]
    assert lazy["new"].tolist() == [1, 1, 1]
    assert built == []


def test_read_whole_it_equals_recbole_s(lazy, plain):
    same(lazy, plain)
    assert set(lazy.interaction) == set(plain.interaction)


OPERATIONS = {
    "rows by tensor": lambda batch: batch[torch.tensor([2, 0])],
    "rows by mask": lambda batch: batch[torch.tensor([True, False, True])],
    "rows by slice": lambda batch: batch[1:],
    "to": lambda batch: batch.to(torch.device("cpu")),
    "to, some": lambda batch: batch.to(torch.device("cpu"), selected_field="item"),
    "cpu": lambda batch: batch.cpu(),
    "repeat": lambda batch: batch.repeat(2),
    "repeat_interleave": lambda batch: batch.repeat_interleave(2),
    "copy": copy.deepcopy,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
def test_operations_give_what_recbole_s_give(lazy, plain, operation):
    same(operation(lazy), operation(plain))


def test_a_copy_builds_nothing_and_stands_alone(lazy, built):
    copied = copy.deepcopy(lazy)
    assert built == []
    copied["item"] = torch.zeros(3)
    assert lazy["item"].tolist() == [7, 8, 9]


def sort(batch):
    batch["key"] = torch.tensor([3, 1, 2])
    batch.sort("key")


def sort_by_two(batch):
    batch["tie"] = torch.tensor([1, 0, 0])
    batch.sort(["tie", "user"])


def prefix(batch):
    batch.add_prefix("neg_")


def shuffle(batch):
    torch.manual_seed(3)
    batch.shuffle()


def drop(batch):
    batch.drop("item")


@pytest.mark.parametrize("change", [sort, sort_by_two, prefix, shuffle, drop])
def test_changes_in_place_do_what_recbole_s_do(lazy, plain, change):
    change(lazy)
    change(plain)
    same(lazy, plain)


def test_numpy_gives_what_recbole_s_gives(lazy, plain):
    one, other = lazy.numpy(), plain.numpy()
    assert {name: value.tolist() for name, value in one.items()} == {n: v.tolist() for n, v in other.items()}


def test_recbole_s_update_takes_over_ours(lazy, plain):
    plain.update(lazy)
    same(plain, lazy)


def test_it_prints_as_recbole_s_does(lazy, plain):
    assert sorted(str(lazy).splitlines()) == sorted(str(plain).splitlines())
