"""Refits: training on training and validation data for the epochs that validation chose, then testing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from recbole_llm.api import tune
from recbole_llm.errors import UserError
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.refit import chosen_epochs
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.tables import render
from recbole_llm.training import checkpoint, trainer
from tests.data.build import write_rows
from tests.helpers import Cli, StopAt, make_run, runner
from tests.methods.duip.duip import SMALL
from tests.reporting.records import record_of


def run_both(model: str, **options: Any) -> tuple[Record, Record]:
    """Run a refit; returns its record and that of the run that chose its epochs."""
    refit = runner().run(make_run(model, refit=True, **options))
    chooser = ResultStore("results").find(refit.chosen_by or "")
    assert chooser is not None
    return refit, chooser


def test_the_row_says_that_it_is_a_refit_and_the_ordinary_run_keeps_its_key(tiny: Path) -> None:
    refit, chooser = run_both("SASRec", epochs=3)
    assert chooser.key == make_run("SASRec", epochs=3).key != refit.key
    assert (refit.label, chooser.label) == ("SASRec (refit)", "SASRec")
    assert (refit.refit, chooser.refit) == (True, False)
    text = render([refit, chooser])
    assert "SASRec, refit" in text


def test_a_refit_trains_as_long_as_validation_chose_and_validates_nothing(tiny: Path) -> None:
    refit, chooser = run_both("SASRec", epochs=25, learning_rate=0.05, stopping_step=3)
    assert chooser.best_epoch is not None
    assert chooser.epochs is not None
    assert refit.epochs == chooser.best_epoch < chooser.epochs
    assert not any("valid" in entry for entry in refit.curve)
    assert refit.valid_metrics == {}
    assert refit.data is not None
    assert chooser.data is not None
    assert refit.data.valid_cases == 0
    assert refit.data.train_interactions == chooser.data.train_interactions + chooser.data.valid_cases
    assert refit.data.test_cases == chooser.data.test_cases


def test_epochs_that_are_known_are_not_chosen_again(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = runner().run(make_run("SASRec"))
    caplog.clear()
    with caplog.at_level("INFO", logger="recbole_llm"):
        refit, chooser = run_both("SASRec")
    assert chooser.created == first.created
    assert [m for m in caplog.messages if m.startswith("running")] == ["running SASRec on tiny (loo, seed 1, refit)"]
    assert refit.chosen_by == first.key


@pytest.mark.parametrize("model", ["Pop", "PopRecent", "EASE", "VSKNN", "MarkovChain", "BPR"])
def test_counting_models_count_the_validation_data_too(tiny: Path, model: str) -> None:
    refit, chooser = run_both(model)
    assert refit.data is not None
    assert chooser.data is not None
    assert refit.data.train_interactions > chooser.data.train_interactions
    assert refit.epochs == (chooser.best_epoch or chooser.epochs)


@pytest.mark.parametrize(
    "protocol", [{"protocol": "gts"}, {"protocol": "session"}, {"protocol": "user_split"}, {"protocol": "temporal_20"}]
)
def test_every_protocol_has_refits(tiny: Path, protocol: dict[str, Any]) -> None:
    refit, chooser = run_both("PopRecent", **protocol)
    assert refit.data is not None
    assert chooser.data is not None
    assert refit.data.train_interactions > chooser.data.train_interactions
    assert refit.data.test_cases == chooser.data.test_cases
    if protocol["protocol"] == "gts":
        assert refit.data.cuts == {"test": chooser.data.cuts["test"]}
        assert refit.data.later_training == 0.0
        assert f"trained before {chooser.data.cuts['test']}, tested from" in refit.warnings[0]


def test_ready_parts_have_refits(workspace: Path) -> None:
    folder = workspace / "dataset" / "mine"
    rows = [(f"u{user}", f"i{(user * 3 + step) % 9}", step) for user in range(20) for step in range(6)]
    for name, low, high in (("train", 0, 4), ("valid", 4, 5), ("test", 5, 6)):
        write_rows(folder / f"mine.{name}.inter", [row for row in rows if low <= row[2] < high])
    refit = runner().run(make_run("Pop", "mine", protocol="parts", refit=True))
    assert refit.data is not None
    assert (refit.data.train_interactions, refit.data.test_cases) == (100, 20)


def shop(folder: Path, shift: int, held_back: int) -> Path:
    """A dataset with every user's last items shifted; all items appear earlier in the file, so their ids are fixed."""
    rows = [(f"u{user}", f"i{(user * 5 + 3 * step) % 30}", 1_400_000_000 + 1000 * step + user)
            for step in range(8) for user in range(40)]  # fmt: skip
    kept = len(rows) - held_back * 40
    moved = [(user, f"i{(int(item[1:]) + shift) % 30}", time) for user, item, time in rows[kept:]]
    write_rows(folder / "dataset" / "tiny" / "tiny.inter", [*rows[:kept], *moved])
    return folder


@pytest.mark.parametrize("protocol", [{"protocol": "loo"}, {"protocol": "gts", "valid_from": 0.7, "test_from": 0.875}])
@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BPR", "EASE"])
def test_the_weights_do_not_depend_on_what_is_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, protocol: dict[str, Any]
) -> None:
    """Changing each user's test item leaves the weights the same; changing the validation item too does not."""

    def weights(name: str, shift: int, held_back: int) -> dict[str, Any]:
        folder = shop(tmp_path / name, shift, held_back)
        monkeypatch.chdir(folder)
        run = make_run(model, refit=True, **protocol)
        runner().run(run)
        state = checkpoint.load(run.folder / "best.pt")
        found = {**state["state_dict"], **(state["other_parameter"] or {})}
        return {key: np.asarray(value.toarray() if sp.issparse(value) else value) for key, value in found.items()}

    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        return all(np.array_equal(value, other[key]) for key, value in one.items())

    plain = weights("plain", 0, 1)
    assert same(plain, weights("tested", 7, 1))
    assert not same(plain, weights("validated", 7, 2))


def test_an_interrupted_refit_goes_on_by_itself(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", 0.0)
    options = {"epochs": 4, "refit": True}
    whole = runner("whole").run(make_run("SASRec", **options, checkpoint_dir="whole"))
    broken = make_run("SASRec", **options, checkpoint_dir="broken")
    chooser = broken.chooser()
    assert chooser is not None
    runner("broken").run(chooser)
    stopped = runner("broken")
    stopped.bars = StopAt("epoch 3")
    with pytest.raises(KeyboardInterrupt):
        stopped.run(broken)
    assert (broken.folder / "last.pt").is_file()
    again = runner("broken").run(broken)
    assert {name: metric.value for name, metric in again.metrics.items()} == {
        name: metric.value for name, metric in whole.metrics.items()
    }
    assert [entry["epoch"] for entry in again.curve] == [1, 2, 3, 4]


def test_stages_are_followed(tiny: Path) -> None:
    refit, chooser = run_both("DUIP", **{**SMALL, "epochs": 4, "stage_epochs": [2, 2]})
    plan = chosen_epochs(chooser)
    stages = [entry["stage"] for entry in refit.curve]
    assert stages == ["frozen"] * plan[0] + ["finetuned"] * sum(plan[1:])


def validated(*points: tuple[str, float | None]) -> list[dict[str, Any]]:
    """A training curve from (stage, score) pairs; the score is ``None`` if the epoch was not validated."""
    return [
        {"epoch": n, "loss": 1.0, **({"stage": stage, "valid": {"ndcg@10": score}} if score is not None else {})}
        for n, (stage, score) in enumerate(points, start=1)
    ]


@pytest.mark.parametrize(
    ("curve", "best", "expected"),
    [
        (validated(("a", 0.1), ("a", 0.3), ("a", 0.2)), 2, [2]),
        (validated(("a", 0.1), ("a", 0.3), ("a", 0.2), ("b", 0.4), ("b", 0.5)), 5, [2, 2]),
        (validated(("a", 0.1), ("a", 0.3), ("b", 0.2), ("b", 0.1)), 2, [2]),
        (validated(("a", 0.1), ("a", 0.3), ("b", 0.2), ("c", 0.4)), 4, [2, 0, 1]),
        (validated(("a", None), ("a", 0.3), ("a", None), ("a", 0.2), ("b", None), ("b", 0.4)), 6, [2, 2]),
        (validated(("a", 0.3), ("a", 0.3), ("b", 0.4)), 3, [2, 1]),
    ],
)
def test_the_epochs_are_those_behind_the_best_weights(
    curve: list[dict[str, Any]], best: int, expected: list[int]
) -> None:
    record = record_of(curve=curve, best_epoch=best, epochs=len(curve), valid_metric="ndcg@10")
    assert chosen_epochs(record) == expected


def test_without_validation_all_epochs_count() -> None:
    assert chosen_epochs(record_of(epochs=7)) == [7]


def test_a_model_that_is_pretrained_is_pretrained_on_both(tiny: Path) -> None:
    refit, _ = run_both("S3Rec", epochs=1, pretrain_epochs=1, item_attribute="categories", load_col=None)
    assert refit.epochs == 1
    assert refit.metrics


def test_features_are_those_of_the_training_part(featured: Path) -> None:
    folders = sorted((featured / "dataset" / "tiny" / "semantics").iterdir())
    refit, chooser = run_both("LLMDMsRec", epochs=1)
    assert sorted((featured / "dataset" / "tiny" / "semantics").iterdir()) == folders
    assert refit.stage_one == chooser.stage_one  # the candidate model is not refit
    assert "refit: features and prompts are those of the training part alone" in refit.warnings


@pytest.mark.parametrize("model", ["EIMF", "LDMI", "ISRF"])
def test_methods_have_refits(tiny: Path, model: str) -> None:
    refit, chooser = run_both(model, epochs=1)
    assert refit.data is not None
    assert chooser.data is not None
    assert refit.data.train_interactions > chooser.data.train_interactions


def test_a_search_looks_at_validation_and_the_best_settings_are_refit(tiny: Path) -> None:
    options: dict[str, Any] = {"trials": 2, "epochs": 2, "train_batch_size": 128}
    found = tune("SASRec", "tiny", refit=True, **options)
    (record,) = found.records
    assert record.tuned
    assert record.refit
    assert record.chosen_by is not None
    chooser = ResultStore("results").find(record.chosen_by)
    assert chooser is not None
    assert chooser.tuned
    plain = tune("SASRec", "tiny", **options)
    assert plain.studies[0].name == found.studies[0].name  # the same search
    assert plain.records[0].key == record.chosen_by


@pytest.mark.parametrize(
    ("options", "message"),
    [({"engine": "recbole"}, "refit=True: RecBole's own loop"), ({"lists": "x.tsv"}, "lists that were made elsewhere")],
)
def test_what_cannot_be_refit_is_refused(tiny: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_run("Lists" if "lists" in options else "SASRec", refit=True, **options)


def test_the_command_line_takes_refit_without_a_value(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--model=Pop", "--dataset=tiny", "--refit", "--quiet") == 0
    assert "Pop, refit" in capsys.readouterr().out


def test_a_forced_refit_chooses_its_epochs_anew(tiny: Path) -> None:
    first, chooser = run_both("SASRec")
    again = runner(force=True).run(make_run("SASRec", refit=True))
    assert ResultStore("results").find(chooser.key) is not None
    assert {n: m.value for n, m in again.metrics.items()} == {n: m.value for n, m in first.metrics.items()}
