"""Contract tests for every registered model, on a toy dataset. A new model gets them by being registered.

``pytest tests/methods/test_contracts.py --model=package.module:Class`` runs them on a class of your own; with
``-m landing``, they run on ml-100k.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.utils import init_seed

from recbole_llm.compat.fast import can_trim
from recbole_llm.data.loaders import DeviceTable, EvalLoader
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.run import Run
from recbole_llm.registry import Method, find_method, methods
from recbole_llm.settings.layers import layer_settings
from recbole_llm.training import checkpoint
from recbole_llm.training.loaders import training_loader
from recbole_llm.utils.progress import Stopwatch
from recbole_llm.utils.text import names_of
from recbole_llm.utils.yaml import properties_folder, read_yaml
from tests.device_waits import assert_moves_nothing, assert_waits_for_nothing
from tests.helpers import runner, write_tiny

DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]
# A GPU adds sums in varying order (atomics), and its matrix products round differently for different shapes.
TOLERANCE = {"cpu": {"rtol": 0.0, "atol": 0.0}, "cuda": {"rtol": 1e-3, "atol": 1e-4}}
CLOSE = {"cpu": {"rtol": 1e-4, "atol": 1e-5}, "cuda": {"rtol": 1e-2, "atol": 1e-3}}

every_device = pytest.mark.parametrize("device", DEVICES)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes a ``name`` for all registered models, or for those of ``--model``."""
    names = names_of(metafunc.config.getoption("--model") or list(methods()))
    if "key" in metafunc.fixturenames:
        cases = [pytest.param(*case, id="-".join(map(str, case))) for case in switches(names)]
        metafunc.parametrize(("name", "key", "value"), cases)
    elif "name" in metafunc.fixturenames:
        metafunc.parametrize("name", names)


def settings_file(method: Method) -> dict[str, Any]:
    """Contents of the model's own YAML file."""
    return read_yaml((method.properties or properties_folder()) / "model" / f"{method.name}.yaml")


def switches(names: list[str]) -> list[tuple[str, str, Any]]:
    """Cases that invert each boolean setting of each model, or set ``sigma`` to zero."""
    found: list[tuple[str, str, Any]] = []
    for name in names:
        for key, value in settings_file(find_method(name)).items():
            if isinstance(value, bool):
                found.append((name, key, not value))
            elif key == "sigma":
                found.append((name, key, 0.0))
    return found


@dataclass(frozen=True)
class Data:
    """A dataset that models are built on.

    Attributes:
        name: name of the dataset.
        settings: settings that suit its size.
        users, items: user and item tokens.
    """

    name: str
    settings: Mapping[str, Any]
    users: Sequence[str]
    items: Sequence[str]

    def make_run(self, name: str, **overrides: Any) -> Run:
        """A run with the model's default settings, for one epoch; so is the stage I model, if it has one."""
        method = find_method(name)
        values = {**self.settings, "eval_batch_size": self.settings["train_batch_size"], "epochs": 1, "llm": "offline"}
        protocol = method.protocols[0] if method.protocols else None
        if "lists" in settings_file(method):
            values["lists"] = str(self.some_lists())
        if method.stage_one:
            below = layer_settings(method, self.name, protocol)[method.stage_one]
            values |= {f"{below}.epochs": 1, f"{below}.train_batch_size": 2048, "stage_one_seed": 1}
        return Run.of(layer_settings(method, self.name, protocol, overrides={**values, **overrides}))

    def some_lists(self) -> Path:
        """A file of lists with twenty items for each user."""
        path = Path(f"lists-{self.name}.tsv")
        if not path.is_file():
            lines = (
                f"{user}\t{self.items[(37 * number + 11 * rank) % len(self.items)]}\t{rank}\n"
                for number, user in enumerate(self.users)
                for rank in range(20)
            )
            path.write_text("user_id\titem_id\trank\n" + "".join(lines))
        return path


TOY = Data("toy", {"train_batch_size": 64}, [f"u{n}" for n in range(100)], [f"i{n}" for n in range(120)])
# The filter keeps a third of the users and a tenth of the interactions, and few word pieces of a text are encoded.
ML100K = Data(
    "ml-100k",
    {"train_batch_size": 64, "user_inter_num_interval": "[20,40]", "encoder_max_length": 16},
    [str(n) for n in range(1, 944)],
    [str(n) for n in range(1, 1683)],
)


Make = Callable[..., Prepared]


@pytest.fixture(scope="module")
def made(shared_dir: Path) -> dict[Any, Prepared]:
    """Models that have been built, each once; tests work on copies."""
    write_tiny(shared_dir / "dataset" / TOY.name, n_users=len(TOY.users), n_items=len(TOY.items))
    return {}


@pytest.fixture(params=[pytest.param(TOY, id="toy"), pytest.param(ML100K, id="ml-100k", marks=pytest.mark.landing)])
def make(
    request: pytest.FixtureRequest, shared_dir: Path, made: dict[Any, Prepared], monkeypatch: pytest.MonkeyPatch
) -> Make:
    """Returns a function that builds a model with its features in the test session's shared folder."""
    monkeypatch.chdir(shared_dir)
    data: Data = request.param

    def build(name: str, device: str = "cpu", **overrides: Any) -> Prepared:
        key = (data.name, name, device, tuple(overrides.items()))
        if key not in made:
            made[key] = runner().prepare(data.make_run(name, device=device, **overrides), Stopwatch())
        return made[key]

    return build


def fresh(prepared: Prepared, seed: int = 1) -> Any:
    """A new model, initialised from a seed."""
    init_seed(seed, True)
    model_class = type(prepared.model)
    return model_class(prepared.config, prepared.train_part).to(prepared.config["device"])


def first_batch(prepared: Prepared) -> Any:
    """The first training batch of an epoch; the same each time."""
    loader, _ = training_loader(prepared)
    return next(iter(loader))


def loss_of(model: Any, batch: Any) -> torch.Tensor:
    """The loss in training mode, with the same dropout each time."""
    model.train()
    init_seed(3, True)
    losses = model.calculate_loss(batch)
    return sum(losses[1:], losses[0]) if isinstance(losses, tuple) else losses


def learns(model: Any) -> bool:
    """Whether a model learns by gradients; counting models set ``learns`` to false."""
    return getattr(model, "learns", True)


def step(model: Any, batch: Any, learning_rate: float = 1e-3) -> float:
    """Take one step of Adam; returns the loss before it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    loss = loss_of(model, batch)
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    optimizer.step()
    return float(loss.detach())


def test_cases(prepared: Prepared, count: int = 100, trim: bool | None = None) -> Any:
    """A batch of test cases that are spread evenly over all."""
    model = prepared.model
    table = DeviceTable(
        prepared.dataset,
        prepared.config["device"],
        int(prepared.config["MAX_ITEM_LIST_LENGTH"]),
        can_trim(model) if trim is None else trim,
    )
    loader = EvalLoader(table, prepared.dataset.split.test, count, prepared.sequential)
    return loader.batch(np.linspace(0, len(loader.cases) - 1, count).astype(np.int64))


test_cases.__test__ = False  # type: ignore[attr-defined]


@torch.no_grad()
def scores_of(model: Any, batch: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval().full_sort_predict(batch).view(len(batch), -1)
    return found


# ---- the row ------------------------------------------------------------------------------------


def test_it_has_a_file_of_settings_and_names_its_paper(name: str) -> None:
    method = find_method(name)
    assert settings_file(method)
    assert method.paper
    assert method.load().__name__ == method.target.rpartition(":")[2]


def test_the_module_says_which_paper_it_implements(name: str) -> None:
    method = find_method(name)
    text = sys.modules[method.load().__module__].__doc__ or ""
    assert method.paper.removeprefix("arXiv ") in text


# ---- the model ----------------------------------------------------------------------------------


@every_device
def test_it_is_built_from_its_settings(make: Make, name: str, device: str) -> None:
    model = make(name, device).model
    parameters = list(model.parameters())
    assert parameters
    assert all(parameter.device.type == device for parameter in parameters)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in parameters)


def assert_it_learns(model: Any, batch: Any) -> None:
    """Check that a step on a batch lowers its loss; a counting model's loss must stay zero."""
    before = step(model, batch)
    after = float(loss_of(model, batch).detach())
    assert np.isfinite(before)
    assert after < before if learns(model) else after == before == 0.0


@every_device
def test_one_step_on_a_batch_lowers_its_loss(make: Make, name: str, device: str) -> None:
    prepared = make(name, device)
    assert_it_learns(fresh(prepared), first_batch(prepared))


@every_device
def test_it_learns_and_scores_in_half_precision(make: Make, name: str, device: str) -> None:
    prepared = make(name, device)
    model, batch = fresh(prepared), first_batch(prepared)
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = loss_of(model, batch)
        loss.backward()
        scores = scores_of(model, test_cases(prepared, 20))
    assert bool(torch.isfinite(loss))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert bool(torch.isfinite(scores[:, 1:]).all())


@every_device
def test_scores_of_all_items_agree_with_scores_of_single_ones(make: Make, name: str, device: str) -> None:
    prepared = make(name, device)
    model, batch = copy.deepcopy(prepared.model).eval(), test_cases(prepared)
    scores = scores_of(model, batch)
    assert scores.shape == (len(batch), prepared.dataset.item_num)
    assert bool(torch.isfinite(scores[:, 1:]).all())
    generator = np.random.default_rng(0)
    for _ in range(5):
        items = torch.from_numpy(generator.integers(1, scores.shape[1], len(batch))).to(scores.device)
        batch[model.ITEM_ID] = items
        with torch.no_grad():
            alone = model.predict(batch)
        torch.testing.assert_close(alone.view(-1), scores.gather(1, items[:, None])[:, 0], **CLOSE[device])


def without_paraphrases(model: Any) -> None:
    """Turn paraphrases off: the host draws them, which makes a GPU wait."""
    for module in model.modules():
        if hasattr(module, "paraphrases"):
            module.paraphrases = False


@pytest.mark.parametrize("form", [{}, {"train_targets": "all"}, {"head": "lm"}], ids=["own", "all targets", "head lm"])
def test_a_step_waits_for_nothing_on_a_gpu(
    make: Make, name: str, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Covers the different forms that a training step can have."""
    if not form.keys() <= settings_file(find_method(name)).keys():
        pytest.skip("its steps have no such form")
    prepared = make(name, **form)
    model = fresh(prepared)
    if not learns(model):
        pytest.skip("counts")
    without_paraphrases(model)
    scores = scores_of(model, test_cases(prepared, 20))
    assert_waits_for_nothing(model, partial(first_batch, prepared), monkeypatch)
    torch.testing.assert_close(scores_of(model, test_cases(prepared, 20)), scores, rtol=1e-3, atol=1e-4)


def test_a_step_moves_nothing_to_a_gpu(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = make(name)
    model = fresh(prepared)
    if not learns(model):
        pytest.skip("counts")
    without_paraphrases(model)
    assert_moves_nothing(model, partial(first_batch, prepared), monkeypatch)


def test_a_model_is_built_for_a_gpu(make: Make, name: str) -> None:
    """Parameters are on the host until the model is moved, so the constructor must not mix them with device tensors."""
    prepared = make(name)
    config = copy.copy(prepared.config)
    config.final_config_dict = {**prepared.config.final_config_dict, "device": torch.device("meta")}
    init_seed(1, True)
    type(prepared.model)(config, prepared.train_part).to("meta")


@every_device
def test_the_same_seed_gives_the_same_numbers(make: Make, name: str, device: str) -> None:
    prepared = make(name, device)
    batch, cases = first_batch(prepared), test_cases(prepared)
    models = [fresh(prepared, seed=5) for _ in range(2)]
    losses = [[step(model, batch) for _ in range(3)] for model in models]
    first, second = (scores_of(model, cases) for model in models)
    np.testing.assert_allclose(losses[0], losses[1], **TOLERANCE[device])
    torch.testing.assert_close(first, second, **TOLERANCE[device])


@every_device
def test_another_seed_gives_other_numbers_where_anything_is_drawn(make: Make, name: str, device: str) -> None:
    prepared = make(name, device)
    cases, models = test_cases(prepared), [fresh(prepared, seed=seed) for seed in (5, 6)]
    first, second = (scores_of(model, cases) for model in models)
    assert torch.allclose(first, second) != learns(models[0])


@every_device
def test_what_is_saved_and_loaded_scores_the_same(make: Make, name: str, device: str, tmp_path: Path) -> None:
    prepared = make(name, device)
    cases = test_cases(prepared)
    trained = fresh(prepared, seed=5)
    step(trained, first_batch(prepared))
    path = tmp_path / "model.pt"
    checkpoint.save(path, checkpoint.model_state(trained))
    other = fresh(prepared, seed=6)
    checkpoint.restore_model(other, checkpoint.load(path, prepared.config["device"]), path)
    torch.testing.assert_close(scores_of(other, cases), scores_of(trained, cases), **TOLERANCE[device])


@every_device
def test_scoring_changes_nothing(make: Make, name: str, device: str) -> None:
    prepared = make(name, device)
    model, cases = copy.deepcopy(prepared.model), test_cases(prepared)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = scores_of(model, cases)
    torch.testing.assert_close(scores_of(model, cases), first, **TOLERANCE[device])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@every_device
def test_padding_beyond_the_longest_history_changes_no_score(make: Make, name: str, device: str) -> None:
    """Models that declare it never read this padding, so their batches may omit it."""
    prepared = make(name, device)
    trimmed, padded = (test_cases(prepared, trim=trim) for trim in (can_trim(prepared.model), False))
    model = copy.deepcopy(prepared.model)
    torch.testing.assert_close(scores_of(model, trimmed), scores_of(model, padded), **CLOSE[device])


@every_device
def test_a_case_scores_the_same_alone_and_among_others(make: Make, name: str, device: str) -> None:
    prepared = make(name, device)
    model = copy.deepcopy(prepared.model)
    together = scores_of(model, test_cases(prepared))
    alone = scores_of(model, test_cases(prepared, count=1))
    torch.testing.assert_close(alone[0], together[0], **CLOSE[device])


def test_every_switch_runs_a_step(make: Make, name: str, key: str, value: Any) -> None:
    prepared = make(name, **{key: value})
    model = fresh(prepared)
    assert_it_learns(model, first_batch(prepared))
    assert bool(torch.isfinite(scores_of(model, test_cases(prepared))[:, 1:]).all())


def test_semantics_are_features_or_none(make: Make, name: str) -> None:
    """The hook supplies a model's features; with ``semantics`` none, the model is built without them."""
    method = find_method(name)
    build = partial(make, name)
    assert (build().dataset.semantics is not None) == bool(method.features)
    if method.features:
        prepared = build(semantics="none")
        assert prepared.dataset.semantics is None
        step(fresh(prepared), first_batch(prepared))
