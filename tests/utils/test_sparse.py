"""Blocks of rows of a product of sparse matrices."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recbole_llm.utils.sparse import product_blocks


@given(st.integers(0, 1000), st.integers(1, 200))
def test_blocks_hold_each_row_once_and_take_as_much_as_they_may(seed: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    left, right = (sparse.random(*shape, 0.2, "csr", rng=generator) for shape in ((30, 20), (20, 25)))
    blocks = product_blocks(left, right, most)
    assert [row for begin, end in blocks for row in range(begin, end)] == list(range(30))
    costs = (left != 0).astype(int) @ np.diff(right.indptr)
    for begin, end in blocks:
        assert costs[begin : end - 1].sum() <= most  # without the row that ends it
    if len(blocks) > 1:
        assert costs.sum() / len(blocks) > most / 3 or costs.max() > most


def test_a_product_of_nothing_is_one_block() -> None:
    nothing = sparse.csr_matrix((4, 4))
    assert product_blocks(nothing, nothing, 10) == [(0, 4)]
