"""Checkpoints hold tensors and plain values, and load back unchanged."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_llm.errors import UserError
from recbole_llm.training import checkpoint
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.loaders import training_loader
from tests.helpers import prepare

STATE = {
    "number": 3,
    "real": 0.1,
    "text": "é",
    "truth": True,
    "nothing": None,
    "list": [1, [2.5, "x"]],
    "nested": {"tensor": torch.arange(3), 7: "a key that is a number"},
}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_plain_values_and_tensors_come_back(tmp_path):
    checkpoint.save(tmp_path / "a.pt", STATE)
    assert same(checkpoint.load(tmp_path / "a.pt"), STATE)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.array([0.5, -0.25], dtype=np.float32),
        np.array([], dtype=np.int64),
        np.array([True, False]),
        np.arange(10)[::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ],
)
def test_arrays_come_back(tmp_path, array):
    checkpoint.save(tmp_path / "a.pt", {"array": array})
    read = checkpoint.load(tmp_path / "a.pt")["array"]
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil"])
def test_sparse_matrices_come_back(tmp_path, form):
    matrix = sp.random(7, 5, density=0.3, random_state=1, format=form)
    checkpoint.save(tmp_path / "a.pt", {"matrix": matrix})
    read = checkpoint.load(tmp_path / "a.pt")["matrix"]
    assert read.shape == (7, 5)
    assert abs(read - matrix.tocsr()).nnz == 0


def test_numbers_of_numpy_become_plain_numbers(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"score": np.float64(0.5), "count": np.int32(3)})
    assert same(checkpoint.load(tmp_path / "a.pt"), {"score": 0.5, "count": 3})


def test_tuples_become_lists(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"betas": (0.9, 0.999)})
    assert checkpoint.load(tmp_path / "a.pt")["betas"] == [0.9, 0.999]


def test_modules_are_left_to_the_state_dict(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"layer": torch.nn.Linear(1, 1)})
    assert checkpoint.load(tmp_path / "a.pt")["layer"] is None


def test_what_a_checkpoint_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match="a checkpoint cannot hold a set"):
        checkpoint.save(tmp_path / "a.pt", {"items": {1, 2}})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_older_checkpoint(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"epoch": 1})
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "a.pt", {"epoch": 2, "bad": object()})
    assert checkpoint.load(tmp_path / "a.pt") == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_loads_under_torch_s_safe_loader(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {**STATE, "array": np.arange(3), "matrix": sp.eye(3)})
    assert torch.load(tmp_path / "a.pt", weights_only=True)["number"] == 3


# ---- files that are not checkpoints --------------------------------------------------------------


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint .*nowhere\.pt"):
        checkpoint.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("keep", [0, 5, 200, -30])
def test_a_truncated_file_is_a_user_error(tmp_path, keep):
    checkpoint.save(tmp_path / "a.pt", STATE)
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[:keep])
    with pytest.raises(UserError, match=r"a\.pt is not a readable checkpoint"):
        checkpoint.load(tmp_path / "a.pt")


class Foreign:
    """An object of an unknown class, as a foreign checkpoint may hold."""


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_changed_byte_of_a_weight_is_a_user_error(tmp_path):
    """Regression: torch reads such a file without a word, and lists were made of other weights."""
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"weight": torch.randn(100, 64)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data/0 is not what its checksum says\. Delete it"):
        checkpoint.load(path)


def test_a_foreign_object_is_refused(tmp_path):
    torch.save({"config": Foreign()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt is not a readable checkpoint: it holds objects that are neither"):
        checkpoint.load(tmp_path / "a.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"config": Evil(tmp_path / "made")}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt is not a readable checkpoint"):
        checkpoint.load(tmp_path / "a.pt")
    assert not (tmp_path / "made").exists()


# ---- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SASRec", "LightGCN", "Pop", "EASE", "ItemKNN"])
def test_a_model_scores_as_before(tiny, tmp_path, name):
    from recbole_llm.data.loaders import EvalLoader, TrainLoader

    first, second = (prepare(name, seed=seed) for seed in (1, 2))
    loader = TrainLoader(first.device_table(), first.train_part, first.config, first.sequential)
    if name == "Pop":
        for batch in loader:
            first.model.calculate_loss(batch)
    checkpoint.save(tmp_path / "a.pt", checkpoint.model_state(first.model))
    checkpoint.restore_model(second.model, checkpoint.load(tmp_path / "a.pt"), tmp_path / "a.pt")
    _, batch = next(iter(EvalLoader(first.device_table(), first.dataset.split.test, 50, first.sequential)))
    scores = []
    for prepared in (first, second):
        prepared.model.eval()
        with torch.no_grad():
            scores.append(torch.as_tensor(prepared.model.full_sort_predict(batch)))
    assert torch.allclose(*scores)


def test_parameters_that_do_not_fit_are_a_user_error(tiny):
    small, large = prepare("SASRec", hidden_size=16), prepare("SASRec", hidden_size=32)
    with pytest.raises(UserError, match=r"a\.pt does not fit the model: .*size mismatch.* Delete it; the same"):
        checkpoint.restore_model(large.model, checkpoint.model_state(small.model), Path("a.pt"))


def test_a_file_that_holds_no_model_is_a_user_error(tiny):
    with pytest.raises(UserError, match=r"a\.pt does not fit the model"):
        checkpoint.restore_model(prepare("SASRec").model, {"epoch": 3}, Path("a.pt"))


# ---- random numbers ------------------------------------------------------------------------------


def draws():
    return [random.random(), random.gauss(0, 1), *np.random.rand(2), np.random.normal(), *torch.rand(3).tolist()]


def test_random_numbers_go_on_where_they_were(tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    draws()
    checkpoint.save(tmp_path / "a.pt", checkpoint.random_state())
    expected = draws()
    draws()
    checkpoint.restore_random_state(checkpoint.load(tmp_path / "a.pt"))
    assert draws() == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [("cuda:1", "cuda"), ("cuda", "cuda:1"), ("cuda:2", "cuda:2"), ("cuda", "cpu"), ("cpu", "cuda"), ("cpu", "cpu")],
)
def test_a_training_goes_on_on_a_gpu_of_another_number(tiny, monkeypatch, before, after):
    """Regression: the states of all GPUs were restored by number, which failed where there were fewer of them."""
    prepared, gpus = prepare("SASRec", device="cpu"), {number: 10 + number for number in range(3)}
    trainer = make_trainer(prepared.config, prepared.model)

    def get(device):
        return torch.tensor([gpus[torch.device(device).index or 0]], dtype=torch.uint8)

    def put(state, device):
        gpus[torch.device(device).index or 0] = int(state)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", get)
    monkeypatch.setattr(torch.cuda, "set_rng_state", put)
    trainer._loader = training_loader(prepared)[0]
    trainer.epochs, trainer.device = 5, torch.device(before)
    trainer._save_last(0, over=False)
    used, gpus = gpus[trainer.device.index or 0], {torch.device(after).index or 0: 20}
    monkeypatch.setattr(trainer, "resumable", lambda: checkpoint.load(trainer.folder / "last.pt"))
    trainer.device = torch.device(after)
    assert trainer.resume(trainer._loader)
    assert list(gpus.values()) == [used if "cpu" not in (before, after) else 20]


def test_the_states_of_all_gpus_of_an_earlier_version_are_read(monkeypatch):
    restored = {}
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.update({str(device): int(state)}))
    state = {**checkpoint.random_state(torch.device("cpu")), "cuda": [torch.tensor(10), torch.tensor(11)]}
    for device in ("cuda", "cuda:1", "cuda:2"):
        checkpoint.restore_random_state(state, torch.device(device))
    assert restored == {"cuda": 10, "cuda:1": 11, "cuda:2": 11}


@pytest.mark.parametrize(
    ("value", "held"),
    [
        *((value, True) for value in (None, True, 3, 0.5, "text", [1, [2]], {"a": 1}, torch.ones(2), np.ones(2))),
        *((value, False) for value in ((1, 2), Counter("ab"), {1}, np.random.default_rng(1), torch.nn.Linear(1, 1))),
    ],
)
def test_what_would_come_back_as_something_else_is_not_held(value, held):
    assert checkpoint.holds(value) == held
