"""eSASRec, gSASRec and HSTU against their papers' equations, computed position by position."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.layers.next_item import TARGETS
from recbole_llm.methods.baselines.hstu import time_buckets
from recbole_llm.training.loaders import training_loader
from tests.helpers import layered, make_run, prepare, runner

SIZE, HEADS = 8, 2
SMALL = {"hidden_size": SIZE, "n_heads": HEADS, "n_layers": 2, "n_negatives": 12, "MAX_ITEM_LIST_LENGTH": 6}
NAMES = ("eSASRec", "gSASRec", "HSTU")
Vector = list[float]


# ---- vectors as lists ----------------------------------------------------------------------------


def linear(layer: Any, x: Vector) -> Vector:
    bias = layer.bias.tolist() if layer.bias is not None else [0.0] * len(layer.weight)
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(layer.weight.tolist(), bias, strict=True)
    ]


def layer_norm(layer: Any, x: Vector) -> Vector:
    mean = sum(x) / len(x)
    root = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + layer.eps)
    scale = zip(x, layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [(v - mean) / root * w + b for v, w, b in scale]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def silu(x: float) -> float:
    return x * sigmoid(x)


def add(x: Vector, y: Vector) -> Vector:
    return [a + b for a, b in zip(x, y, strict=True)]


def times(x: Vector, y: Vector) -> Vector:
    return [a * b for a, b in zip(x, y, strict=True)]


def dot(x: Vector, y: Vector) -> float:
    return sum(times(x, y))


def heads_of(x: Vector) -> list[Vector]:
    width = SIZE // HEADS
    return [x[head * width : (head + 1) * width] for head in range(HEADS)]


def attention(module: Any, xs: list[Vector], at: int) -> Vector:
    """Causal softmax attention at one position."""
    q, ks, vs = (
        linear(module.query, xs[at]),
        [linear(module.key, x) for x in xs],
        [linear(module.value, x) for x in xs],
    )
    seen: Vector = []
    for head in range(HEADS):
        scores = [dot(heads_of(q)[head], heads_of(k)[head]) / math.sqrt(SIZE / HEADS) for k in ks[: at + 1]]
        total = sum(map(math.exp, scores))
        weights = [math.exp(score) / total for score in scores]
        seen += [sum(w * heads_of(v)[head][n] for w, v in zip(weights, vs, strict=False)) for n in range(SIZE // HEADS)]
    return linear(module.out, seen)


# ---- the papers' equations -----------------------------------------------------------------------


def esasrec(model: Any, items: list[int], _: list[int]) -> Vector:
    xs = embedded(model, items)
    for block in model.blocks:
        (norm_1, norm_2), (gate_1, gate_2), (mha, ff) = block.norms, block.gates, block.parts
        normed = [layer_norm(norm_1, x) for x in xs]
        xs = [
            add(x, times([sigmoid(g) for g in linear(gate_1, x)], attention(mha, normed, n))) for n, x in enumerate(xs)
        ]
        inner = [layer_norm(norm_2, x) for x in xs]
        fed = [linear(ff.down, times([silu(g) for g in linear(ff.gate, x)], linear(ff.up, x))) for x in inner]
        xs = [add(x, times([sigmoid(g) for g in linear(gate_2, x)], f)) for x, f in zip(xs, fed, strict=True)]
    return layer_norm(model.norm, xs[-1])


def gsasrec(model: Any, items: list[int], _: list[int]) -> Vector:
    xs = embedded(model, items)
    for number in range(0, len(model.parts), 2):
        normed = [layer_norm(model.norms[number], x) for x in xs]
        xs = [add(x, attention(model.parts[number], normed, n)) for n, x in enumerate(xs)]
        first, last = model.parts[number + 1][0], model.parts[number + 1][3]
        fed = [linear(last, [max(0.0, v) for v in linear(first, layer_norm(model.norms[number + 1], x))]) for x in xs]
        xs = [add(x, f) for x, f in zip(xs, fed, strict=True)]
    return layer_norm(model.norm, xs[-1])


def hstu(model: Any, items: list[int], at: list[int]) -> Vector:
    vectors, places = model.item_embedding.weight.tolist(), model.position_embedding.weight.tolist()
    xs = [[math.sqrt(SIZE) * v + p for v, p in zip(vectors[i], places[n], strict=True)] for n, i in enumerate(items)]
    for layer in model.layers:
        parts = [[silu(v) for v in linear(layer.split, layer_norm(layer.norm, x))] for x in xs]
        u, v, q, k = ([part[n * SIZE : (n + 1) * SIZE] for part in parts] for n in range(4))
        new = []
        for i in range(len(xs)):
            seen = []
            for head in range(HEADS):
                total = [0.0] * (SIZE // HEADS)
                for j in range(i + 1):
                    bucket = min(127, int(math.log(max(1, at[i] - at[j])) / 0.301))
                    rab = float(layer.place[i - j]) + float(layer.time[bucket])
                    weight = silu(dot(heads_of(q[i])[head], heads_of(k[j])[head]) + rab) / 6
                    total = add(total, [weight * value for value in heads_of(v[j])[head]])
                seen += total
            new.append(add(xs[i], linear(layer.out, times(layer_norm(layer.norm_seen, seen), u[i]))))
        xs = new
    norm = math.sqrt(dot(xs[-1], xs[-1]))
    return [value / norm / model.temperature for value in xs[-1]]


def embedded(model: Any, items: list[int]) -> list[Vector]:
    vectors, places = model.item_embedding.weight.tolist(), model.position_embedding.weight.tolist()
    return [add(vectors[item], places[n]) for n, item in enumerate(items)]


EQUATIONS: dict[str, Callable[[Any, list[int], list[int]], Vector]] = {
    "eSASRec": esasrec,
    "gSASRec": gsasrec,
    "HSTU": hstu,
}


def roughened(model: Any) -> Any:
    """The model in double precision, with random parameters so that every part affects the scores."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.double().eval()


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_equations(tiny: Path, name: str) -> None:
    prepared = prepare(name, **SMALL)
    model = roughened(copy.deepcopy(prepared.model))
    batch = next(iter(training_loader(prepared)[0]))
    time = batch["timestamp_list"]
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
    vectors = model.item_vectors().tolist()
    lines = [line for line in range(len(batch)) if int(batch["item_length"][line]) in (1, 4, 6)][:6]
    assert len({int(batch["item_length"][line]) for line in lines}) > 1
    for line in lines:
        length = int(batch["item_length"][line])
        state = EQUATIONS[name](model, batch["item_id_list"][line, :length].tolist(), time[line, :length].tolist())
        expected = [dot(state, vector) for vector in vectors]
        torch.testing.assert_close(scores[line], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_at_every_position_is_the_mean_over_all_prefixes(tiny: Path, name: str) -> None:
    """With softmax over all items and whole histories, both forms of training have the same loss and gradient."""
    found = []
    for form in ("last", "all"):
        more = {**SMALL, "MAX_ITEM_LIST_LENGTH": 20, "objective": "softmax", "train_batch_size": 5000}
        prepared = prepare(name, train_targets=form, hidden_dropout_prob=0.0, attn_dropout_prob=0.0, **more)
        (batch,) = training_loader(prepared)[0]
        assert (TARGETS in batch) == (form == "all")
        prepared.model.calculate_loss(batch).backward()
        found.append([parameter.grad for parameter in prepared.model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_times_fall_into_buckets_by_their_logarithm() -> None:
    at = torch.tensor([[1_400_000_000, 1_400_000_000, 1_400_000_060, 1_400_086_400]])
    found = time_buckets(at, 128)[0]
    assert found[1, 0] == 0
    assert found[2, 1] == int(math.log(60) / 0.301)
    assert found[3, 0] == int(math.log(86_400) / 0.301)
    assert int(time_buckets(at, 5).max()) == 4


def test_hstu_wants_times_or_no_bias_by_them(tiny: Path) -> None:
    columns = {"inter": ["user_id", "item_id"]}
    with pytest.raises(UserError, match="HSTU reads times, which TIME_FIELD leaves out"):
        prepare("HSTU", load_col=columns, TIME_FIELD=None, protocol="user_split")
    without = prepare("HSTU", load_col=columns, TIME_FIELD=None, protocol="user_split", time_bias=False)
    assert without.model.columns == ()


@pytest.mark.parametrize("name", NAMES)
def test_heads_must_divide_the_dimension(name: str) -> None:
    with pytest.raises(UserError, match="hidden_size=10 is no multiple of n_heads=4"):
        layered(name, hidden_size=10, n_heads=4)


@pytest.mark.parametrize("name", NAMES)
def test_the_published_settings_are_a_preset(name: str) -> None:
    settings = layered(name, preset="paper")
    assert settings["train_targets"] == "all"
    assert settings["shared_negatives"] is False


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", ["user_split", "session"])
def test_it_serves_users_that_it_has_not_seen(tiny: Path, name: str, protocol: str) -> None:
    record = runner().run(make_run(name, protocol=protocol, epochs=1, **SMALL))
    assert record.status == "ok"
    assert record.settings["train_targets"] == "all"
