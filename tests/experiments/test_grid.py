"""Grids: run whatever is missing, one run after another, even if some fail."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.api import run
from recbole_llm.errors import UserError
from recbole_llm.experiments.grid import expand, parse_seeds
from recbole_llm.experiments.launch import run_all
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import methods
from tests.helpers import StopAt

SHORT = {"epochs": 2, "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128}
# A class from outside the package has no settings file.
SIZES = {"loss_type": "CE", "embedding_size": 16, "hidden_size": 16, "num_layers": 1, "dropout_prob": 0.1}

FLAKY = '''
from pathlib import Path

from recbole.model.sequential_recommender.gru4rec import GRU4Rec


class Flaky(GRU4Rec):
    """Fails as long as there is a file that says so."""

    def __init__(self, config, dataset):
        if Path("broken").exists():
            raise RuntimeError("no luck today")
        super().__init__(config, dataset)
'''


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "recbole_llm")
    return caplog


def flaky(model: str, **more: Any) -> list[Record]:
    """Run a grid that includes the model that can be made to fail."""
    return run(model, "tiny", **SHORT, **{f"Flaky.{key}": value for key, value in SIZES.items()}, **more)


@pytest.fixture
def own_model(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model from outside the package that can be made to fail."""
    Path("flaky_model.py").write_text(textwrap.dedent(FLAKY))
    monkeypatch.syspath_prepend(Path.cwd())
    known = dict(methods())
    yield "flaky_model:Flaky"
    sys.modules.pop("flaky_model", None)
    methods().clear()
    methods().update(known)


def started(log: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in log.records if record.getMessage().startswith("running ")]
    return [line.split()[1] for line in lines]


# ---- names and seeds ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        (None, [2020]),
        (3, [2020, 2021, 2022]),
        ("3", [2020, 2021, 2022]),
        ([1, 7], [1, 7]),
        ("1,7", [1, 7]),
        ([5, 5], [5]),
    ],
)
def test_seeds_are_a_number_or_a_list(value: Any, seeds: list[int]) -> None:
    assert parse_seeds(value, 2020) == seeds


@pytest.mark.parametrize(
    "value", ["many", [], 0, -1, [-1], "1,x", {"a": 1}, [None], 2.7, [1.5], "1.5,2", True, [True], float("nan")]
)
def test_other_seeds_are_an_error(value: Any) -> None:
    with pytest.raises(UserError, match="--seeds="):
        parse_seeds(value, 2020)


# ---- the grid -----------------------------------------------------------------------------------


def test_a_grid_is_every_model_with_every_seed_and_semantics(tiny: Path) -> None:
    runs = expand("SRGNN,LLMDMsRec", "tiny", seeds=2, semantics="offline,shuffled")
    found = [(run.settings.method.name, run.settings["seed"], run.settings["semantics"]) for run in runs]
    assert found == [
        ("SRGNN", 2020, "none"),
        ("SRGNN", 2021, "none"),
        *[("LLMDMsRec", seed, kind) for kind in ("offline", "shuffled") for seed in (2020, 2021)],
    ]


def test_one_cell_under_two_names_runs_once(tiny: Path) -> None:
    runs = expand("LLMDMsRec", "tiny", semantics="llm,offline", overrides={"llm": "offline"})
    assert len(runs) == 1


def test_a_key_of_one_model_reaches_that_model_alone(tiny: Path) -> None:
    runs = expand("SASRec,GRU4Rec", "tiny", overrides={"GRU4Rec.num_layers": 2, "n_layers": 3})
    by_name = {run.settings.method.name: run.settings for run in runs}
    assert by_name["GRU4Rec"]["num_layers"] == 2
    assert by_name["SASRec"]["n_layers"] == 3


@pytest.mark.parametrize(
    ("key", "value"), [("max_cost", 1.0), ("max_requests", 5), ("answers", "store"), ("results_dir", "other")]
)
def test_what_a_command_has_one_of_is_the_same_for_its_models(tiny: Path, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^--{key} holds for the whole command, .* EIMF: {value}"):
        expand("Pop,EIMF", "tiny", overrides={f"EIMF.{key}": value})
    (alone,) = expand("EIMF", "tiny", overrides={f"EIMF.{key}": value})
    both = expand("Pop,EIMF", "tiny", overrides={key: value})
    assert [run.settings[key] for run in (alone, *both)] == [value] * 3


def test_seeds_count_from_a_model_s_own(tiny: Path) -> None:
    """Regression: a seed given for one model replaced all of its seeds, so only one run was left."""
    runs = expand("SASRec,GRU4Rec", "tiny", seeds=2, overrides={"GRU4Rec.seed": 7})
    assert [run.settings["seed"] for run in runs] == [2020, 2021, 7, 8]


@pytest.mark.parametrize("keys", [["epochs", "GRU4Rec.epochs"], ["GRU4Rec.epochs", "epochs"]])
def test_a_key_of_one_model_wins_over_the_plain_one_in_any_order(tiny: Path, keys: list[str]) -> None:
    values = {"epochs": 3, "GRU4Rec.epochs": 7}
    runs = expand("SASRec,GRU4Rec", "tiny", overrides={key: values[key] for key in keys})
    assert [run.settings["epochs"] for run in runs] == [3, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "SASRek"}, r"--model=SASRek.*Did you mean SASRec or"),
        ({"dataset": "tinny"}, r"--dataset=tinny.*Did you mean tiny\?"),
        ({"protocol": "lou"}, r"--protocol=lou.*Did you mean loo\?"),
        ({"semantics": "shufled"}, "--semantics=shufled"),
        ({"semantics": ""}, "--semantics=: it names nothing"),
        ({"protocol": ","}, "--protocol=: it names nothing"),
        ({"overrides": {"learning_rat": 1.0}}, r"learning_rat.*Did you mean learning_rate or"),
        ({"overrides": {"epochs": "many"}}, "epochs takes a whole number"),
        ({"model": ""}, "give --model=NAME"),
        ({"dataset": ""}, "give --model=NAME and --dataset=NAME"),
        ({"config_files": ["missing.yaml"]}, "missing.yaml: No such file"),
        ({"overrides": {"eval_args.mode": "uni100"}}, r"eval_args.mode=uni100: the protocol says.*--candidates"),
        ({"overrides": {"eval_args.split": {"RS": [8, 1, 1]}}}, r"eval_args.split=.*list protocols"),
        ({"overrides": {"eval_args": {"group_by": "none"}}}, r"eval_args.group_by=none: the protocol says"),
        ({"overrides": {"eval_args.order": "RO", "engine": "recbole"}}, r"eval_args.order=RO: the protocol says"),
        ({"overrides": {"benchmark_filename": ["train", "valid", "test"]}}, "holds no tiny.train.inter. Name"),
        ({"overrides": {"unload_col": {"inter": ["timestamp"]}}}, "leave these columns out of load_col.inter"),
        ({"overrides": {"save_dataset": True}}, "save_dataset=True is not supported here: .* nothing is pickled"),
        ({"overrides": {"save_dataloaders": True}}, "save_dataloaders=True is not supported here"),
        ({"overrides": {"dataset_save_path": "x.pth"}}, "dataset_save_path=x.pth is not supported here"),
        ({"overrides": {"dataloaders_save_path": "x.pth"}}, "dataloaders_save_path=x.pth is not supported here"),
        ({"overrides": {"log_q": True}}, "log_q=True: it is not read by softmax, but by objective: sampled_softmax"),
        ({"overrides": {"negatives_by": "popularity"}}, "negatives_by=popularity: it is not read by softmax"),
        ({"overrides": {"n_negatives": 3}}, r"n_negatives=3: it is not read by softmax.*--MODEL.n_negatives="),
        ({"overrides": {"calibration": 0.1, "objective": "bce"}}, "calibration=0.1: it is not read by bce"),
        ({"overrides": {"loss_type": "BPR", "n_negatives": 3}}, "n_negatives=3: it is not read by loss_type: BPR"),
        ({"overrides": {"valid_metric_bigger": False}}, "valid_metric_bigger=False is not supported here"),
        ({"overrides": {"valid_metric_bigger": False, "engine": "recbole"}}, "bigger=False is not supported"),
        ({"overrides": {"log_wandb": True}}, "log_wandb=True is not supported here: .*--tensorboard"),
        ({"overrides": {"metric_decimal_place": 4}}, "metric_decimal_place=4 is not supported here"),
        ({"overrides": {"enable_scaler": True}}, "enable_scaler=True is not supported here"),
        ({"overrides": {"field_separator": "::"}}, "field_separator='::': give one character"),
        ({"overrides": {"field_separator": ""}}, "field_separator='': give one character"),
        ({"overrides": {"field_separator": "¦"}}, "field_separator='¦': give one character"),
        ({"overrides": {"enable_amp": True}}, "enable_amp=True is not supported here: our loop takes --precision=bf16"),
    ],
)
def test_a_mistake_anywhere_is_an_error_before_anything_runs(
    tiny: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        expand(**{"model": "Pop,SASRec", "dataset": "tiny"} | arguments)
    assert not Path("results").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"model": "gSASRec", "overrides": {"objective": "softmax"}},
        {"model": "LLMESR", "overrides": {"objective": "softmax", "preset": "paper"}},
        {"model": "SASRec", "overrides": {"objective": "sampled_softmax", "log_q": True, "n_negatives": 3}},
        {"model": "SASRec,eSASRec", "overrides": {"eSASRec.n_negatives": 3}},
    ],
)
def test_options_of_another_loss_may_be_defaults_or_a_preset_s(tiny: Path, given: dict[str, Any]) -> None:
    assert len(expand(**given, dataset="tiny")) == len(given["model"].split(","))


@pytest.mark.parametrize(
    "given",
    [
        {"eval_args": {"mode": {"valid": "full", "test": "full"}, "order": "TO", "split": {"LS": "valid_and_test"}}},
        {"eval_args.mode": "uni50", "engine": "recbole"},
    ],
)
def test_recbole_s_way_of_evaluating_may_be_given_where_it_is_followed(tiny: Path, given: dict[str, Any]) -> None:
    assert len(expand("Pop", "tiny", overrides=given)) == 1


def test_what_recbole_s_own_loop_follows_may_be_given_with_it(tiny: Path) -> None:
    given = {"metric_decimal_place": 4, "enable_amp": True, "worker": 2, "engine": "recbole"}
    assert len(expand("Pop", "tiny", overrides=given)) == 1


def test_ignored_settings_are_reported(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {"worker": 2, "state": "WARNING", "show_progress": False, "loss_decimal_place": 2}
    expand("Pop", "tiny", overrides=given)
    for key, value in given.items():
        assert f"{key}={value} is ignored" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "learning_rte: 0.5",
            r"mine.yaml, learning_rte: there is no setting .*Did you mean learning_rate",
        ),
        ("SASRec.n_layer: 3", r"mine.yaml, SASRec.n_layer: there is no setting 'n_layer'"),
        ("sigma: 0.1", r"mine.yaml, sigma: .* has no setting 'sigma' .it belongs to LLMDMsRec"),
        ("list_metrics: [NDCG]", "mine.yaml, list_metrics: list_metrics takes ItemCoverage"),
        ("metrics: [Hit, NDGC]", "mine.yaml, metrics: metrics takes Hit, NDCG.*got .NDGC.. Did you mean NDCG"),
        ("n_layers: 0", "mine.yaml, n_layers: .*SASRec has at least one layer"),
        ("topk: [0]", "mine.yaml, topk: .*give cut-offs"),
        ("clip_grad_norm: {max_norm: 0}", "mine.yaml, clip_grad_norm: .*above 0"),
        ("model: SASRec", "mine.yaml, model: give --model on the command line"),
    ],
)
def test_a_key_that_no_model_has_is_an_error_in_a_file_too(tiny: Path, line: str, message: str) -> None:
    Path("mine.yaml").write_text(f"epochs: 3\n{line}\n")
    with pytest.raises(UserError, match=message):
        expand("Pop,SASRec", "tiny", config_files=["mine.yaml"])


def test_a_file_may_serve_commands_with_other_models(tiny: Path) -> None:
    Path("mine.yaml").write_text("n_layers: 3\nGRU4Rec.num_layers: 2\n")
    by_name = {run.settings.method.name: run for run in expand("Pop,SASRec", "tiny", config_files=["mine.yaml"])}
    assert by_name["SASRec"].settings["n_layers"] == 3
    assert by_name["Pop"].settings.get("n_layers") is None


# ---- running ------------------------------------------------------------------------------------


def test_the_second_time_nothing_runs(tiny: Path, log: pytest.LogCaptureFixture) -> None:
    first = run("Pop,GRU4Rec", "tiny", **SHORT)
    log.clear()
    states = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")}
    assert run("Pop,GRU4Rec", "tiny", **SHORT) == first
    assert started(log) == []
    assert "2 of 2 results are present already" in log.text
    assert {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")} == states


def test_only_what_is_missing_runs(tiny: Path, log: pytest.LogCaptureFixture) -> None:
    run("Pop", "tiny", **SHORT)
    log.clear()
    records = run("Pop,GRU4Rec", "tiny", **SHORT)
    assert started(log) == ["GRU4Rec"]
    assert [record.model for record in records] == ["Pop", "GRU4Rec"]


def test_force_runs_everything_again(tiny: Path, log: pytest.LogCaptureFixture) -> None:
    run("Pop,GRU4Rec", "tiny", **SHORT)
    log.clear()
    run("Pop,GRU4Rec", "tiny", force=True, **SHORT)
    assert started(log) == ["Pop", "GRU4Rec"]


def test_results_go_where_they_are_asked_to(tiny: Path) -> None:
    run("Pop", "tiny", results_dir="elsewhere", **SHORT)
    assert len(list(ResultStore("elsewhere"))) == 1
    assert not Path("results").exists()


def test_a_place_for_records_that_cannot_be_made_is_known_before_anything_runs(
    tiny: Path, log: pytest.LogCaptureFixture
) -> None:
    Path("results").mkdir()
    Path("results/tiny").write_text("mine")
    with pytest.raises(UserError, match="the folder results/tiny/loo cannot be made"):
        run("Pop,BPR", "tiny", **SHORT)
    assert started(log) == []


def test_a_failing_cell_is_recorded_and_the_others_go_on(own_model: str) -> None:
    Path("broken").touch()
    records = flaky(f"Pop,{own_model},GRU4Rec")
    assert [record.status for record in records] == ["ok", "failed", "ok"]
    assert records[1].error == "RuntimeError: no luck today"
    stored = {record.model: record.status for record in ResultStore("results")}
    assert stored == {"Pop": "ok", own_model: "failed", "GRU4Rec": "ok"}


def test_a_failed_cell_is_tried_again_next_time(own_model: str, log: pytest.LogCaptureFixture) -> None:
    Path("broken").touch()
    flaky(f"Pop,{own_model}")
    Path("broken").unlink()
    log.clear()
    records = flaky(f"Pop,{own_model}")
    assert started(log) == ["Flaky"]
    assert [record.status for record in records] == ["ok", "ok"]
    assert [record.status for record in ResultStore("results")] == ["ok", "ok"]


def test_training_that_diverges_is_recorded_with_what_to_do(tiny: Path) -> None:
    records = run("Pop,GRU4Rec", "tiny", **SHORT | {"GRU4Rec.learning_rate": 1e30})
    assert records[1].status == "failed"
    assert "try a smaller learning_rate" in (records[1].error or "")


def test_the_error_of_a_single_cell_is_raised_and_recorded(own_model: str) -> None:
    Path("broken").touch()
    with pytest.raises(RuntimeError, match="no luck today"):
        flaky(own_model)
    (record,) = ResultStore("results")
    assert (record.status, record.error) == ("failed", "RuntimeError: no luck today")


def test_a_users_mistake_in_a_single_cell_is_raised_and_not_recorded(tiny: Path) -> None:
    with pytest.raises(UserError, match="--device=cuda:99"):
        run("Pop", "tiny", device="cuda:99")
    assert not list(ResultStore("results"))


def test_ctrl_c_stops_the_grid_and_keeps_what_is_done(tiny: Path) -> None:
    runs = expand("Pop,GRU4Rec,SRGNN", "tiny", overrides=SHORT)
    with pytest.raises(KeyboardInterrupt):
        run_all(runs, Runner(ResultStore(), StopAt("epoch 2")))
    assert [record.model for record in ResultStore()] == ["Pop"]
