"""Means of text vectors equal those of a loop over the texts."""

from __future__ import annotations

import pytest
import torch

from recbole_llm.layers.text_bag import InteractionKeys, TextBag

LISTS = [[0], [], [3, 1, 4], [2, 2], [], [5, 0, 1, 2, 3]]


def vectors(n=6, dim=4):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0))


def bag_of(lists, table=None):
    offsets = torch.tensor([0, *[len(ids) for ids in lists]]).cumsum(0)
    ids = torch.tensor([text for ids in lists for text in ids], dtype=torch.int64)
    return TextBag(vectors() if table is None else table, offsets, ids)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [5, 5, 0], [1], [2]])
def test_means_are_those_of_a_loop(rows):
    mean, found = bag_of(LISTS)(torch.tensor(rows))
    for row, own, present in zip(rows, mean, found.tolist(), strict=True):
        texts = [vectors()[text] for text in LISTS[row]]
        assert present == bool(texts)
        expected = torch.stack(texts).mean(0) if texts else torch.zeros(4)
        assert torch.allclose(own, expected, atol=1e-6)


def test_an_interaction_without_texts_is_zero_and_says_so():
    mean, found = bag_of(LISTS)(torch.tensor([1, 4]))
    assert mean.abs().sum() == 0
    assert found.tolist() == [False, False]


def test_one_row_past_the_last_has_no_texts():
    mean, found = bag_of(LISTS)(torch.tensor([len(LISTS)]))
    assert (mean.abs().sum().item(), found.tolist()) == (0, [False])


@pytest.mark.parametrize("lists", [[[], [], []], [[1, 2]], [[0, 1, 2, 3, 4, 5]]])
def test_any_number_of_lists_is_served(lists):
    mean, found = bag_of(lists)(torch.arange(len(lists)))
    assert found.tolist() == [bool(ids) for ids in lists]
    assert mean.shape == (len(lists), 4)


def test_the_table_is_as_long_as_there_are_lists():
    assert len(bag_of([[], [], [1], [], []]).table) == 2


def test_the_vectors_are_shared_not_copied():
    table = vectors()
    bags = [bag_of(LISTS, table), bag_of([[1]], table)]
    assert all(bag.vectors.data_ptr() == table.data_ptr() for bag in bags)


def test_features_are_neither_parameters_nor_part_of_a_checkpoint():
    bag = bag_of(LISTS)
    assert list(bag.parameters()) == []
    assert bag.state_dict() == {}


def test_the_dimension_is_that_of_the_vectors():
    assert bag_of(LISTS).dim == 4


def test_keys_are_rows_of_the_flat_interactions():
    keys = InteractionKeys(torch.tensor([0, 0, 3, 5]))
    assert keys(torch.tensor([1, 1, 2]), torch.tensor([0, 2, 1])).tolist() == [0, 2, 4]


def test_a_position_after_a_user_s_history_has_no_row_of_the_next_user():
    keys = InteractionKeys(torch.tensor([0, 0, 3, 5]))
    assert keys(torch.tensor([1, 2]), torch.tensor([3, 7])).tolist() == [5, 5]
