"""Packing sequences on the device equals joining lists by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.layers.packing import TokenTable, join_pieces, pack

ROWS = st.lists(st.lists(st.lists(st.integers(1, 99), max_size=3), min_size=1, max_size=4), min_size=1, max_size=5)


@given(ROWS)
def test_packing_equals_joining_lists(rows: list[list[list[int]]]) -> None:
    pieces = max(map(len, rows))
    tokens = torch.zeros(len(rows), pieces, 3, dtype=torch.int64)
    lengths = torch.zeros(len(rows), pieces, dtype=torch.int64)
    for row, parts in enumerate(rows):
        for place, part in enumerate(parts):
            tokens[row, place, : len(part)] = torch.tensor(part, dtype=torch.int64)
            lengths[row, place] = len(part)
    packed = pack(tokens, lengths)
    for row, parts in enumerate(rows):
        wanted = [token for part in parts for token in part]
        owners = [place for place, part in enumerate(parts) for _ in part]
        assert packed.ids[row, : len(wanted)].tolist() == wanted
        assert packed.piece[row, : len(wanted)].tolist() == owners
        assert int(packed.length[row]) == len(wanted) == int(packed.mask[row].sum())
        assert not packed.ids[row, len(wanted) :].any()


def test_tables_cut_texts_and_pad_the_empty_one() -> None:
    table = TokenTable([[], [5, 6, 7], [8]], width=2)
    tokens, lengths = table(torch.tensor([[0, 1, 2]]))
    assert lengths.tolist() == [[0, 2, 1]]
    packed = join_pieces([(tokens, lengths), table(torch.tensor([[1]]))])
    assert packed.ids.tolist() == [[5, 6, 8, 5, 6]]
