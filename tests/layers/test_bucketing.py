"""Encoding in groups of similar length equals encoding at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_llm.layers.bucketing import FEW_ROWS, MAX_GROUPS, MIN_ROWS, by_length


def batch(rows, width, shortest=1, longest=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, (longest or width) + 1, (rows,), generator=generator)
    items = torch.randint(1, 50, (rows, width), generator=generator)
    return items * (torch.arange(width) < lengths[:, None]), lengths


class Encoder(nn.Module):
    """A GRU that returns the state at each row's last item and records its input shapes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.items, self.gru = nn.Embedding(50, 8, padding_idx=0), nn.GRU(8, 6, batch_first=True)
        self.shapes = []

    def forward(self, item_seq, lengths):
        self.shapes.append(tuple(item_seq.shape))
        states, _ = self.gru(self.items(item_seq))
        return states[torch.arange(len(lengths)), lengths - 1]


SHAPES = {
    "many short rows": (1000, 40, 1, 12),
    "any length": (700, 20, 1, 20),
    "just enough rows": (2 * MIN_ROWS, 10, 1, 10),
    "many groups": (MAX_GROUPS * MIN_ROWS + 37, 12, 1, 12),
    "all long": (600, 10, 9, 10),
    "all one length": (600, 10, 7, 7),
    "all of length one": (600, 10, 1, 1),
    "a small batch": (100, 50, 1, 20),
    "few rows": (50, 10, 1, 10),
    "one row": (1, 10, 3, 3),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_output_and_gradients_are_those_of_one_pass(shape):
    item_seq, lengths = batch(*shape)
    outputs, gradients = [], []
    for run in (lambda encoder: encoder(item_seq, lengths), lambda encoder: by_length(encoder, item_seq, lengths)):
        encoder = Encoder()
        output = run(encoder)
        (output * torch.arange(1.0, len(output) + 1)[:, None]).mean().backward()
        outputs.append(output.detach())
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    assert torch.allclose(*outputs, atol=1e-6)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


def test_groups_are_as_narrow_as_their_longest_row():
    encoder = Encoder()
    item_seq, lengths = batch(1000, 40, 1, 12)
    by_length(encoder, item_seq, lengths)
    widths = [width for _, width in encoder.shapes]
    assert len(widths) == 1000 // MIN_ROWS
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] == 12
    assert sum(rows for rows, _ in encoder.shapes) == 1000


def test_there_are_at_most_so_many_groups():
    encoder = Encoder()
    by_length(encoder, *batch(4000, 20))
    assert len(encoder.shapes) == MAX_GROUPS


def test_a_small_batch_makes_smaller_groups():
    encoder = Encoder()
    by_length(encoder, *batch(100, 50, 1, 20))
    assert [rows for rows, _ in encoder.shapes] == [34, 34, 32]
    assert encoder.shapes[0][1] < encoder.shapes[-1][1] == 20


def test_few_rows_are_encoded_at_once_without_common_padding():
    encoder = Encoder()
    item_seq, lengths = batch(2 * FEW_ROWS - 1, 20, 1, 12)
    by_length(encoder, item_seq, lengths)
    assert encoder.shapes == [(2 * FEW_ROWS - 1, 12)]


def test_rows_of_nearly_one_length_are_encoded_at_once_without_common_padding():
    encoder = Encoder()
    by_length(encoder, *batch(600, 40, 9, 10))
    assert encoder.shapes == [(600, 10)]


def test_outputs_of_any_shape_return_to_their_rows():
    item_seq, lengths = batch(700, 20, 1, 9)
    whole = by_length(lambda seq, n: seq[:, :1, None].expand(-1, 3, 2).float() + n[:, None, None], item_seq, lengths)
    assert torch.equal(whole, (item_seq[:, :1, None] + lengths[:, None, None]).expand(-1, 3, 2).float())
