"""The similarities of ItemKNN beside those of RecBole's own code."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.model.general_recommender.itemknn import ComputeSimilarity
from scipy import sparse

from recbole_llm.compat import similar_items as module
from recbole_llm.compat.similar_items import similar_items
from recbole_llm.registry import recbole_folder


def matrix_of(users: np.ndarray, items: np.ndarray) -> sparse.csr_matrix:
    """Counts of interactions, as ``inter_matrix`` gives them."""
    return sparse.coo_matrix((np.ones(len(users)), (users, items))).tocsr().astype(np.float32)


def random_matrix(seed: int, rows: int = 400) -> sparse.csr_matrix:
    """Few users, some items more popular than others, with repeated interactions and an item that nobody has."""
    generator = np.random.default_rng(seed)
    users, items = generator.integers(1, 40, rows), 1 + (generator.pareto(0.8, rows) * 8).clip(max=58).astype(int)
    return matrix_of(np.append(users, 0), np.append(np.where(items == 7, 8, items), 60))


def assert_as_recbole(matrix: sparse.csr_matrix, k: int, shrink: float) -> sparse.csc_matrix:
    """The same neighbours with the same similarities, to the last bit."""
    found = similar_items(matrix, k, shrink)
    wanted = ComputeSimilarity(matrix, topk=k, shrink=shrink).compute_similarity("item")[1]
    wanted.sort_indices()
    assert found.shape == wanted.shape
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.dtype == wanted.dtype == np.float32
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 70), st.sampled_from([0.0, 0.5, 10, 100.0]), st.integers(1, 900))
def test_similarities_are_those_of_recbole(seed: int, k: int, shrink: float, rows: int) -> None:
    assert_as_recbole(random_matrix(seed, rows), k, shrink)


@pytest.mark.parametrize(("k", "shrink"), [(100, 0.0), (10, 50.0)])
def test_similarities_of_ml_100k_are_those_of_recbole(k: int, shrink: float) -> None:
    path = recbole_folder() / "dataset_example" / "ml-100k" / "ml-100k.inter"
    frame = pd.read_csv(path, sep="\t")
    users, items = (frame[name].factorize()[0] + 1 for name in ("user_id:token", "item_id:token"))
    assert_as_recbole(matrix_of(users, items), k, shrink)


def test_of_items_that_are_as_similar_as_the_last_one_those_stay_that_recbole_keeps() -> None:
    """All pairs of items are as similar as others, so that each choice is one among equals."""
    users = np.repeat(np.arange(20), 30)
    found = assert_as_recbole(matrix_of(users, np.tile(np.arange(30), 20)), 7, 0.0)
    assert np.diff(found.indptr).tolist() == [7] * 30
    assert len(np.unique(found.data)) == 1


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_matrix(5)
    whole = similar_items(matrix, 9, 0.0)
    monkeypatch.setattr(module, "BLOCK", 50)
    assert (similar_items(matrix, 9, 0.0) != whole).nnz == 0


def test_what_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    matrix = random_matrix(5)
    with caplog.at_level(logging.INFO, module.__name__):
        similar_items(matrix, 9, 0.0)
        assert not caplog.messages
        monkeypatch.setattr(module, "SAY_EVERY", 0.0)
        similar_items(matrix, 9, 0.0)
    assert caplog.messages[-1] == "ItemKNN: 61 of 61 items compared"
