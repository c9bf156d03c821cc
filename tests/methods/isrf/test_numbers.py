"""Item numbers: what they encode, and that they do not depend on held-out interactions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.methods.isrf.model import item_numbers
from recbole_llm.methods.isrf.numbers import BASE, cooccurrence_vectors, path_numbers, trained_order
from recbole_llm.methods.isrf.settings import ISRFSettings
from tests.helpers import prepare, settings_of

KINDS = ["random", "trained_order", "collaborative", "semantic"]
SMALL: dict[str, Any] = {"lm_scratch": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 120}}


def settings(kind: str, width: int = 4) -> ISRFSettings:
    return ISRFSettings.of(settings_of("ISRF", item_numbers=kind, number_width=width).values)


def changed(dataset: Any, held_out: bool) -> Any:
    """The dataset with the items changed in all held-out rows, or in all training rows."""
    table, split = dataset.table, dataset.split
    rows = np.zeros(len(table), dtype=bool)
    rows[split.train_rows] = True
    rows = ~rows if held_out else rows
    item = np.array(table.item)
    item[rows] = item[rows] % table.n_items + 1
    return SimpleNamespace(table=replace(table, item=item), split=split, semantics=dataset.semantics)


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_interaction_is_in_a_number(tiny: Path, kind: str) -> None:
    dataset = prepare("ISRF", item_numbers=kind, number_width=4, **SMALL).dataset
    own = item_numbers(settings(kind), dataset)
    assert own == item_numbers(settings(kind), changed(dataset, held_out=True))
    trained = own != item_numbers(settings(kind), changed(dataset, held_out=False))
    assert trained == (kind in ("trained_order", "collaborative"))  # the other kinds read no interactions


@pytest.mark.parametrize("kind", KINDS)
def test_every_item_has_a_number_of_its_own_that_the_trie_can_write(shared_tiny: Path, kind: str) -> None:
    prepared = prepare("ISRF", item_numbers=kind, number_width=4, **SMALL)
    numbers = item_numbers(settings(kind), prepared.dataset)
    assert len(set(numbers)) == len(set(map(int, numbers))) == prepared.dataset.item_num - 1
    core = prepared.model.core
    for item, number in enumerate(numbers, start=1):
        assert core.item_of_number[int(number)] == item
        tokens = core.labels[item][core.labels[item] >= 0].tolist()
        assert core.tokenizer.decode(tokens[:-1]) == number
        assert core.trie.item_of(tokens) == item
    if kind in ("collaborative", "semantic"):  # one token per two digits
        assert {len(number) for number in numbers} == {2 * (int((core.labels[1] >= 0).sum()) - 1)}


def test_trained_order_is_that_of_first_training_interactions(tiny: Path) -> None:
    dataset = prepare("ISRF", semantics="none", **SMALL).dataset
    rows, table = dataset.split.train_rows, dataset.table
    numbers = dict(enumerate(map(int, trained_order(dataset)), start=1))
    met = list(dict.fromkeys(table.item[rows].tolist()))
    assert [numbers[item] for item in met] == list(range(1, len(met) + 1))
    assert {numbers[item] for item in numbers if item not in met} == set(range(len(met) + 1, len(numbers) + 1))


def halves() -> Any:
    """Two groups of users without common items; item 9 is in no training row."""
    user = np.repeat(np.arange(1, 21), 4)
    item = np.concatenate([np.random.default_rng(u).permutation(4) + 1 + 4 * (u % 2) for u in range(1, 21)])
    names = np.array(["[PAD]", *map(str, range(1, 21))]), np.array(["[PAD]", *map(str, range(1, 10))])
    table = SimpleNamespace(user=user, item=item, user_tokens=names[0], item_tokens=names[1])
    return SimpleNamespace(table=table, split=SimpleNamespace(train_rows=np.arange(len(user))))


def test_items_that_users_have_in_common_begin_alike() -> None:
    dataset = halves()
    numbers = path_numbers(cooccurrence_vectors(dataset), dataset.table.item_tokens, width=2)
    first = [number[:2] for number in numbers]
    assert len(set(first[:4])) == len(set(first[4:8])) == 1
    assert len({first[0], first[4], first[8]}) == 3


def test_items_of_equal_vectors_are_told_apart_however_many_they_are() -> None:
    tokens = np.array(["[PAD]", *map(str, range(BASE + 5))])
    numbers = path_numbers(np.zeros((BASE + 5, 3)), tokens, width=8)
    assert len(set(numbers)) == BASE + 5
    assert {len(number) for number in numbers} == {8}


def test_a_path_is_the_clusters_of_the_vector_and_of_what_is_left_of_it() -> None:
    """Two coarse positions with two fine ones around each; both coarse clusters share the residual clusters."""
    coarse, fine = torch.tensor([-10.0, 10.0]), torch.tensor([-1.0, 1.0])
    vectors = (coarse[:, None] + fine).flatten().repeat_interleave(3)[:, None].numpy()
    tokens = np.array(["[PAD]", *map(str, range(len(vectors)))])
    numbers = path_numbers(vectors, tokens, width=2)
    levels = [(number[:2], number[2:4]) for number in numbers]
    assert len(set(levels)) == 4
    assert len({level[0] for level in levels[:6]}) == 1
    assert [level[1] for level in levels[:6]] == [level[1] for level in levels[6:]]


def test_numbers_of_texts_want_texts(workspace: Path) -> None:
    with pytest.raises(UserError, match="item_numbers: semantic are made of the items' texts"):
        settings_of("ISRF", item_numbers="semantic", semantics="none")
