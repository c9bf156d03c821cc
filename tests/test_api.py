"""The Python API, and models defined outside the package."""

from __future__ import annotations

import pkgutil
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_llm
from recbole_llm.cli import VERBS
from recbole_llm.errors import UserError
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import Method, find_method, methods, register
from recbole_llm.settings.layers import layer_settings
from recbole_llm.training.ranking import rank_cases
from tests.helpers import runner
from tests.processes import start

SHORT: dict[str, Any] = {"epochs": 1, "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128}

OWN = '''
import torch
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.utils import InputType


class LastItem(SequentialRecommender):
    """Scores items by a table of transitions from the last item."""

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.factor = config["factor"] or 1.0
        self.table = torch.nn.Embedding(self.n_items, self.n_items)

    def scores(self, interaction):
        last = self.gather_indexes(interaction[self.ITEM_SEQ][:, :, None], interaction[self.ITEM_SEQ_LEN] - 1)
        return self.factor * self.table(last[:, 0])

    def calculate_loss(self, interaction):
        real = interaction["label"] > 0  # the other items are sampled
        return torch.nn.functional.cross_entropy(self.scores(interaction)[real], interaction[self.POS_ITEM_ID][real])

    def predict(self, interaction):
        return self.scores(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

    def full_sort_predict(self, interaction):
        return self.scores(interaction)


class Biased(GeneralRecommender):
    """One score for each item."""

    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.bias = torch.nn.Embedding(self.n_items, 1)

    def calculate_loss(self, interaction):
        difference = self.bias(interaction[self.ITEM_ID]) - self.bias(interaction[self.NEG_ITEM_ID])
        return -torch.nn.functional.logsigmoid(difference).mean()

    def predict(self, interaction):
        return self.bias(interaction[self.ITEM_ID])[:, 0]

    def full_sort_predict(self, interaction):
        return self.bias.weight[:, 0].expand(len(interaction), -1)


not_a_class = 1
'''


@pytest.fixture
def own_models(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module in the current folder with two models; the registry is restored afterwards."""
    Path("own_models.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = dict(methods())
    yield "own_models"
    sys.modules.pop("own_models", None)
    methods().clear()
    methods().update(known)


def test_run_returns_a_record_for_each_run(tiny: Path) -> None:
    records = recbole_llm.run(model="Pop,GRU4Rec", dataset="tiny", seeds=[1, 2], **SHORT)
    assert all(isinstance(record, Record) for record in records)
    assert [(record.model, record.seed) for record in records] == [
        ("Pop", 1), ("Pop", 2), ("GRU4Rec", 1), ("GRU4Rec", 2),
    ]  # fmt: skip


def test_run_takes_lists_as_well_as_text(tiny: Path) -> None:
    records = recbole_llm.run(model=["Pop", "GRU4Rec"], dataset=["tiny"], protocol=["loo"], **SHORT)
    assert [record.model for record in records] == ["Pop", "GRU4Rec"]


def test_run_takes_any_setting_by_its_name(tiny: Path) -> None:
    (record,) = recbole_llm.run(model="GRU4Rec", dataset="tiny", **SHORT | {"learning_rate": 0.005, "topk": [3]})
    assert record.settings["learning_rate"] == 0.005
    assert record.metric("hit@3") is not None


def test_settings_of_one_model_of_several_are_given_by_a_dictionary(tiny: Path) -> None:
    records = recbole_llm.run(model="Pop,GRU4Rec", dataset="tiny", **SHORT | {"GRU4Rec.num_layers": 2})
    assert records[1].settings["num_layers"] == 2


def test_run_leaves_the_callers_random_numbers_alone(tiny: Path) -> None:
    """A search of the caller's own would draw the same values after every run."""

    def drawn(between: Callable[[], Any]) -> tuple[Any, ...]:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        between()
        return random.random(), np.random.rand(), torch.rand(1).item(), torch.backends.cudnn.deterministic

    assert drawn(partial(recbole_llm.run, "GRU4Rec", "tiny", **SHORT)) == drawn(list)


def test_runs_of_several_threads_have_the_numbers_that_they_have_alone(tiny: Path) -> None:
    """They draw from the same generators, so that they must not train at the same time."""
    both = [partial(recbole_llm.run, model, "tiny", **SHORT | {"epochs": 5}) for model in ("GRU4Rec", "SASRec")]
    expected = [run()[0].metrics for run in both]
    with ThreadPoolExecutor(2) as pool:
        found = [work.result() for work in [pool.submit(run, force=True) for run in both]]
    assert [record.metrics for (record,) in found] == expected


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"hidden_size": np.int64(16)}, {"hidden_size": 16}),
        ({"learning_rate": np.float32(0.001)}, {"learning_rate": 0.001}),
        ({"learning_rate": torch.tensor(0.3, dtype=torch.float16)}, {"learning_rate": 0.3}),
        ({"mask_history": np.True_}, {"mask_history": True}),
        ({"topk": np.array([5, 10])}, {"topk": [5, 10]}),
        ({"topk": range(5, 7)}, {"topk": [5, 6]}),
        ({"topk": pd.Series([5, 10])}, {"topk": [5, 10]}),
        ({"seeds": range(1, 3)}, {"seeds": [1, 2]}),
        ({"seeds": np.arange(1, 3)}, {"seeds": [1, 2]}),
        ({"checkpoint_dir": Path("saved")}, {"checkpoint_dir": "saved"}),
        ({"config_file": None}, {}),
    ],
)
def test_values_of_numpy_and_pandas_count_as_those_of_yaml(tiny: Path, given: Any, plain: Any) -> None:
    found, expected = ([run.key for run in grid("GRU4Rec", **each)] for each in (given, plain))
    assert found == expected


def grid(model: Any, dataset: Any = "tiny", **given: Any) -> list[Run]:
    """The runs that a call of the API makes."""
    seeds, files = given.pop("seeds", None), given.pop("config_file", ())
    return expand(model, dataset, seeds=seeds, config_files=files, overrides=given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(recbole_llm.run, "Pop", {"tiny": 1}), r"--dataset=\{'tiny': 1\}: give a name"),
        (partial(recbole_llm.run, 3, "tiny"), "--model=3: there is no such model"),
        (partial(recbole_llm.run, "Pop", "tiny", topk={5, 10}), "--topk: settings are .* got a value of type set"),
        (
            partial(recbole_llm.run, "Pop", "tiny", val_interval={"timestamp": object()}),
            "--val_interval: .* type object",
        ),
        (partial(recbole_llm.run, "Pop", "tiny", seeds={1, 2}), "--seeds: settings are"),
        (partial(recbole_llm.run, "Pop", "tiny", executor=3), "--executor=3: use serial"),
        (partial(recbole_llm.run, "Pop", "tiny", val_interval={"timestamp": pd.Timestamp(1)}), "write an interval"),
        (partial(recbole_llm.run, "Pop", "tiny", config_file=["dates.yaml"]), "write an interval"),
    ],
)
def test_what_is_no_setting_or_name_is_refused(tiny: Path, call: Callable[[], Any], message: str) -> None:
    Path("dates.yaml").write_text("val_interval: {timestamp: 2014-01-01}")
    with pytest.raises(UserError, match=message):
        call()


def test_names_are_taken_from_numpy_and_pandas(tiny: Path) -> None:
    for names in (np.array(["Pop", "BPR"]), pd.Series(["Pop", "BPR"]), pd.Index(["Pop", "BPR"])):
        assert [run.settings.method.name for run in grid(names)] == ["Pop", "BPR"]


def test_run_keeps_its_records_where_it_is_told(tiny: Path, tmp_path: Path) -> None:
    recbole_llm.run(model="Pop", dataset="tiny", results_dir=tmp_path / "mine", **SHORT)
    assert len(list(ResultStore(tmp_path / "mine"))) == 1


def test_a_mistake_raises_the_error_with_the_hint(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"Did you mean tiny\?"):
        recbole_llm.run(model="Pop", dataset="tinny")


def test_no_module_has_the_name_of_a_function() -> None:
    """Importing such a module would replace the function in the package's namespace."""
    modules = {module.name for module in pkgutil.iter_modules(recbole_llm.__path__)}
    assert not modules & set(recbole_llm.__all__)
    assert all(getattr(recbole_llm, name) for name in recbole_llm.__all__)


def test_the_package_has_the_verbs_of_the_command_line() -> None:
    assert [name for name, verb in VERBS.items() if getattr(recbole_llm, name, None) is not verb.function] == []
    assert VERBS.keys() <= set(recbole_llm.__all__)


def test_a_session_completes_the_names_of_the_package_and_shows_runs_in_a_line(tiny: Path) -> None:
    assert {*recbole_llm.__all__} <= {*dir(recbole_llm)}
    assert len(repr(expand("LLMDMsRec", "tiny", overrides={"epochs": 3})[0].settings)) < 1000  # of 300 values


def test_importing_the_package_loads_neither_torch_nor_recbole() -> None:
    code = "import sys, recbole_llm; sys.exit('torch' in sys.modules or 'recbole' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=300).returncode == 0


# ---- models defined outside the package ---------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("LastItem", "sequential"), ("Biased", "general")])
def test_a_class_in_the_current_folder_runs_by_its_path(own_models: str, name: str, kind: str) -> None:
    (record,) = recbole_llm.run(model=f"{own_models}:{name}", dataset="tiny", **SHORT)
    assert record.status == "ok"
    assert record.model == f"{own_models}:{name}"
    assert find_method(f"{own_models}:{name}").kind == kind
    assert record.metric("ndcg@10") is not None


@pytest.mark.parametrize("name", ["LastItem", "Biased"])
def test_a_class_runs_as_a_class(own_models: str, name: str) -> None:
    model = find_method(f"{own_models}:{name}").load()
    (record,) = recbole_llm.run(model=model, dataset="tiny", **SHORT)
    assert (record.status, record.model) == ("ok", f"{own_models}:{name}")


def type_in(code: str) -> None:
    """Run code as a session does, whose main module has no file."""
    sys.path.insert(0, "")
    exec(code, vars(sys.modules["__main__"]))


def test_a_class_typed_into_a_session_runs(own_models: str) -> None:
    """The module of such a class has no file."""
    typed = f"import recbole_llm, {own_models}\nclass Mine({own_models}.Biased): pass\n"
    session = start(type_in, f"{typed}print(recbole_llm.run(Mine, 'tiny', **{SHORT})[0].label)")
    out, err = session.communicate()
    assert out == "__main__:Mine\n", err


TYPED = """
import torch
import recbole_llm, own_models
from recbole_llm.utils.plugins import code_of
START = 0.0
def slope(size): return torch.arange(size) * 1.0
class Mine(own_models.Biased):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.bias.weight.data[:, 0] = START + slope(self.n_items)
def key():
    return recbole_llm.run(Mine, 'tiny', **SHORT)[0].key
keys = [key()]
"""


def test_a_class_typed_into_a_session_runs_again_when_its_code_changes(own_models: str) -> None:
    """What it uses of the session counts as well, what is equal to the earlier text does not."""
    slope = "def slope(size): return torch.arange(size) * 2.0  # steeper"
    body = TYPED[TYPED.index("class Mine") : TYPED.index("def key")]
    changed = body.replace("[:, 0] = START", "[:, 0] = -START")
    more = "\n".join(f"{text}\nkeys.append(key())" for text in (body, slope, "START = 1.0", changed))
    session = start(type_in, f"SHORT = {SHORT}\n{TYPED}\n{more}\nprint(*[keys.index(key) for key in keys])")
    out, err = session.communicate()
    assert out == "0 0 2 3 4\n", err


def test_a_class_whose_name_another_class_has_taken_is_refused(own_models: str) -> None:
    typed = "class Mine(own_models.Biased): pass\n"
    tried = (
        f"try: recbole_llm.run(first, 'tiny', **{SHORT})\nexcept recbole_llm.errors.UserError as error: print(error)"
    )
    session = start(type_in, f"import recbole_llm, own_models\n{typed}first = Mine\n{typed}{tried}")
    out, err = session.communicate()
    assert "--model=__main__:Mine: another class has this name now" in out, err


@pytest.mark.parametrize("apart", [{"workers": 2}, {"executor": "processes"}, {"nproc": 2}])
def test_a_class_of_the_main_module_is_not_given_to_other_processes(
    own_models: str, monkeypatch: pytest.MonkeyPatch, apart: dict[str, Any]
) -> None:
    """They failed there one by one, and each was recorded as failed."""
    model = type("Mine", (find_method(f"{own_models}:Biased").load(),), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", model, raising=False)
    for verb in (recbole_llm.run, recbole_llm.tune):
        with pytest.raises(UserError, match="--model=__main__:Mine: other processes cannot import"):
            verb(["Pop", model], "tiny", **SHORT, **apart)
    assert not Path("results").exists()


def test_scores_that_are_a_models_own_memory_are_not_written_to(own_models: str) -> None:
    """``Biased`` returns a view of the same parameter row for every user."""
    run = Run.of(layer_settings(find_method(f"{own_models}:Biased"), "tiny", overrides=SHORT))
    maker = runner()
    maker.run(run)
    prepared = maker.trained(run)
    before = prepared.model.bias.weight.clone()
    rank_cases(prepared.model, prepared.eval_loader("test"), mask_history=True)
    assert torch.equal(prepared.model.bias.weight, before)


def test_a_class_and_its_path_are_one_run(own_models: str) -> None:
    (first,) = recbole_llm.run(model=f"{own_models}:LastItem", dataset="tiny", **SHORT)
    (second,) = recbole_llm.run(model=find_method(f"{own_models}:LastItem").load(), dataset="tiny", **SHORT)
    assert first == second


def test_classes_and_names_stand_in_one_grid(own_models: str) -> None:
    model = find_method(f"{own_models}:LastItem").load()
    records = recbole_llm.run(model=["Pop", model, f"{own_models}:Biased"], dataset="tiny", **SHORT)
    assert [record.status for record in records] == ["ok"] * 3


def test_a_class_from_outside_has_settings_of_its_own(own_models: str) -> None:
    records = [
        recbole_llm.run(model=f"{own_models}:LastItem", dataset="tiny", factor=f, **SHORT)[0] for f in (1.0, 0.5)
    ]
    assert records[0].key != records[1].key
    assert records[1].settings["factor"] == 0.5


def test_a_class_from_outside_runs_in_both_engines(own_models: str) -> None:
    for engine in ("fast", "recbole"):
        (record,) = recbole_llm.run(model=f"{own_models}:LastItem", dataset="tiny", engine=engine, **SHORT)
        assert record.status == "ok"


def test_a_registered_model_runs_under_its_name(own_models: str) -> None:
    sys.path.insert(0, "")
    register(Method("MyLast", f"{own_models}:LastItem", "sequential"))
    (record,) = recbole_llm.run(model="MyLast", dataset="tiny", **SHORT)
    assert record.status == "ok"


def test_a_taken_name_is_refused(own_models: str) -> None:
    with pytest.raises(UserError, match="'SASRec' is taken by"):
        register(Method("SASRec", f"{own_models}:LastItem", "sequential"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("own_models:LastItm", r"own_models has no class 'LastItm'.*Did you mean LastItem\?"),
        ("own_models:not_a_class", "has no class 'not_a_class'"),
        ("own_modells:LastItem", "there is no module 'own_modells'"),
        ("own_models.deep:LastItem", "there is no module 'own_models.deep'"),
    ],
)
def test_a_path_that_leads_nowhere_is_an_error(own_models: str, model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recbole_llm.run(model=model, dataset="tiny")


def test_a_package_that_a_model_needs_is_named(own_models: str) -> None:
    Path("own_models.py").write_text("import no_such_package_at_all\n" + OWN)
    with pytest.raises(UserError, match="pip install no_such_package_at_all"):
        recbole_llm.run(model=f"{own_models}:LastItem", dataset="tiny")
