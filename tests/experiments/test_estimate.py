"""``estimate``: what a command will take, from a few measured steps that leave nothing behind."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_llm import api
from recbole_llm.cli import main
from recbole_llm.execution.sharing import CUDA_MIB
from recbole_llm.experiments import generate, measuring
from recbole_llm.experiments.estimate import Estimate, EstimatedWork, estimate_work, render_estimate, work_of_grid
from recbole_llm.experiments.measuring import _SomeSteps
from recbole_llm.experiments.store import ResultStore
from recbole_llm.methods.duip.model import DUIP
from recbole_llm.methods.isrf.loader import AlternatingLoader
from recbole_llm.methods.isrf.model import ISRFDirect
from recbole_llm.training import recorded
from tests.device_waits import nothing_at_hand
from tests.helpers import make_run, runner
from tests.methods.duip.duip import SMALL as SMALL_DUIP
from tests.training.test_recorded import TakenAgain

SMALL: dict[str, Any] = {"MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 64, "embedding_size": 16, "epochs": 4}


def estimate(*names: str, **options: Any) -> Estimate:
    return api.estimate(*names, **{**SMALL, **options})


def files() -> dict[Path, int]:
    """All files of the workspace with their modification times, except cached data."""
    return {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file() and "cache" not in path.parts}


def by_kind(found: Estimate) -> dict[str, EstimatedWork]:
    return {line.work.kind: line for line in found.lines}


def test_seconds_are_those_of_steps_cases_and_epochs_and_add_up(tiny: Path) -> None:
    found = estimate("GRU4Rec,BPR", "tiny", seeds=3, eval_step=2)
    for line in found.lines:
        steps = line.measured
        assert steps is not None
        assert min(steps.before, steps.step, steps.case, steps.memory_mib, steps.kept_mib) > 0
        assert steps.steps >= 3
        assert steps.valid_cases == steps.cases == steps.test_cases == 80
        assert steps.disk_mib > steps.kept_mib
        assert (line.work.count, line.epochs) == (3, 4)
        ranked = (2 * steps.valid_cases + steps.test_cases) * steps.case
        trained = 4 * (steps.start + steps.steps_of_epoch * steps.step)
        assert line.each == pytest.approx(steps.before + trained + ranked)
        assert line.seconds == pytest.approx(3 * (line.each or 0))
    assert found.seconds == pytest.approx(sum(line.seconds for line in found.lines))
    assert found.disk_mib > 3 * sum(line.measured.kept_mib for line in found.lines if line.measured)


CLOCK = """
import os, sys, types
from recbole_llm import api
from recbole_llm.experiments import measuring

def monotonic():  # the clock begins
    print("torch._dynamo" in sys.modules, flush=True)
    os._exit(0)

measuring.time = types.SimpleNamespace(monotonic=monotonic)
api.estimate("BPR", "tiny", epochs=1)
"""


def test_what_a_process_loads_once_is_not_counted_for_each_training(tiny: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CLOCK], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_gpu_is_measured_with_the_steps_that_it_records(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Noted(TakenAgain):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    nothing_at_hand(monkeypatch)
    monkeypatch.setattr(recorded, "CUDARecording", Noted)
    (line,) = estimate("BPR", "tiny").lines
    assert line.measured is not None
    assert made


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_memory_of_a_gpu_is_what_a_process_takes_of_it(tiny: Path) -> None:
    (line,) = estimate("SASRec", "tiny", device="cuda").lines
    (record,) = api.run("SASRec", "tiny", device="cuda", **SMALL)
    assert line.measured is not None
    assert line.measured.on_gpu
    assert line.measured.memory_mib > CUDA_MIB + record.memory_mib["device"]


def test_a_model_with_a_loop_of_its_own_is_measured_by_its_batches(tiny: Path) -> None:
    (line,) = api.estimate("RecVAE", "tiny", train_batch_size=64, epochs=2).lines
    assert line.measured is not None
    assert line.measured.step > 0


def test_steps_of_a_model_with_a_curriculum_are_measured_as_after_it(
    featured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    negatives = []

    class Noted(AlternatingLoader):
        def candidates_now(self) -> int:
            negatives.append(super().candidates_now())
            return negatives[-1]

    monkeypatch.setattr(ISRFDirect, "train_loader", Noted)
    api.estimate("ISRFDirect", "tiny", protocol="direct_100", candidates=5, curriculum=[1, 2], n_negatives=5)
    assert set(negatives) == {5}


def test_a_step_is_the_mean_of_two_kinds_that_alternate() -> None:
    clock = itertools.accumulate(itertools.chain([0.0, 5.0], itertools.cycle([0.25, 0.75])))
    some = _SomeSteps(lambda: next(clock))
    assert len(list(some(range(100)))) > 3
    assert some.step == 0.5


def test_each_stage_of_a_training_is_measured_and_counts_by_its_epochs(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, loss = {0: 0.02, 1: 0.1}, DUIP.calculate_loss

    def slow(self: DUIP, interaction: Any) -> torch.Tensor:
        time.sleep(seconds[self.stage])
        return loss(self, interaction)

    monkeypatch.setattr(DUIP, "calculate_loss", slow)
    monkeypatch.setattr(measuring, "STEP_SECONDS", 0.1)
    (line,) = api.estimate("DUIP", "tiny", **{**SMALL_DUIP, "stage_epochs": [1, 3]}).lines
    assert line.measured is not None
    assert line.measured.step >= (seconds[0] + 3 * seconds[1]) / 4
    assert line.measured.steps >= 6


def test_patience_may_end_a_training_earlier_than_its_limit(tiny: Path) -> None:
    (line,) = estimate("GRU4Rec", "tiny", epochs=50, stopping_step=3).lines
    assert (line.epochs, line.work.least_epochs) == (50, 5)
    assert 0 < line.least_seconds < line.seconds


def test_a_training_without_validation_has_all_epochs_and_no_validation(tiny: Path) -> None:
    (line,) = estimate("GRU4Rec", "tiny", epochs=50, stopping_step=3, eval_step=0).lines
    steps = line.measured
    assert steps is not None
    assert line.each == pytest.approx(steps.before + 50 * steps.epoch + steps.test_cases * steps.case)
    assert line.least_seconds == line.seconds


def test_measuring_leaves_nothing_behind(tiny: Path) -> None:
    before = files()
    torch.manual_seed(5)
    wanted = torch.rand(3).tolist()
    torch.manual_seed(5)
    estimate("GRU4Rec,LLMDMsRec", "tiny", semantics="offline")
    assert torch.rand(3).tolist() == wanted
    assert files() == before


def test_a_run_after_an_estimate_has_the_numbers_of_one_without(tiny: Path) -> None:
    (alone,) = api.run("GRU4Rec", "tiny", results_dir="alone", checkpoint_dir="alone", **SMALL)
    estimate("GRU4Rec", "tiny")
    (after,) = api.run("GRU4Rec", "tiny", checkpoint_dir="after", **SMALL)
    assert after.metrics == alone.metrics
    assert [each["loss"] for each in after.curve] == [each["loss"] for each in alone.curve]


def test_what_is_done_is_not_counted_unless_it_is_forced(tiny: Path) -> None:
    api.run("GRU4Rec", "tiny", seeds=[1, 2], **SMALL)
    (line,) = estimate("GRU4Rec", "tiny", seeds=[1, 2, 3]).lines
    assert (line.work.count, line.work.done) == (1, 2)
    assert line.work.run.settings["seed"] == 3
    (done,) = estimate("GRU4Rec", "tiny", seeds=[1, 2]).lines
    assert (done.work.count, done.seconds, done.measured) == (0, 0, None)
    (again,) = estimate("GRU4Rec", "tiny", seeds=[1, 2], force=True).lines
    assert again.work.count == 2


def test_epochs_are_those_of_records_that_converged(tiny: Path) -> None:
    options = {"epochs": 60, "stopping_step": 1, "learning_rate": 0.05}
    (record,) = api.run("GRU4Rec", "tiny", **{**SMALL, **options})
    assert record.epochs is not None and record.epochs < 60
    found = estimate("GRU4Rec", "tiny", seeds=[7], **options)
    assert found.lines[0].epochs == record.epochs
    assert f"{record.epochs} epochs, as 1 record had" in render_estimate(found) == repr(found)
    other = estimate("GRU4Rec", "tiny", seeds=[7], **{**options, "learning_rate": 0.01})
    assert "as 1 record with 1 other setting had" in render_estimate(other)
    assert estimate("GRU4Rec", "tiny", seeds=[7], **{**options, "epochs": 2}).lines[0].epochs == 2


def test_settings_that_change_no_number_or_are_younger_than_a_record_are_no_other_settings(tiny: Path) -> None:
    options = {"epochs": 60, "stopping_step": 1, "learning_rate": 0.05}
    (record,) = api.run("GRU4Rec", "tiny", **{**SMALL, **options})
    path = ResultStore("results").path(record)
    values = json.loads(path.read_text(encoding="utf-8"))
    for name in ("warmup_steps", "valid_users", "refit", "score_block_mib"):
        del values["settings"][name]
    values["settings"] |= {"device": "cuda:1", "gpu_id": "1", "topk": [3], "worker": 2}
    path.write_text(json.dumps(values), encoding="utf-8")
    text = render_estimate(estimate("GRU4Rec", "tiny", seeds=[7], **options))
    assert f"{record.epochs} epochs, as 1 record had" in text


def test_a_record_that_ended_at_a_lower_limit_says_nothing_of_convergence(tiny: Path) -> None:
    api.run("GRU4Rec", "tiny", **{**SMALL, "epochs": 2})
    found = estimate("GRU4Rec", "tiny", epochs=60)
    assert found.lines[0].epochs == 60
    assert "1 record ended at a lower limit of epochs, before convergence" in render_estimate(found)


def test_a_model_that_counts_has_one_epoch(tiny: Path) -> None:
    (line,) = api.estimate("Pop", "tiny", epochs=100).lines
    assert line.epochs == 1


def test_a_search_is_its_trials_and_the_runs_that_follow(tiny: Path) -> None:
    found = estimate("GRU4Rec", "tiny", trials=5, trial_epochs=2, seeds=3, epochs=30)
    lines = by_kind(found)
    assert {kind: (line.work.count, line.epochs) for kind, line in lines.items()} == {
        "trial": (5, 2),
        "tuned run": (3, 30),
    }
    assert lines["trial"].measured is lines["tuned run"].measured
    assert lines["trial"].kept_mib == 0  # trials are not kept
    limited = by_kind(estimate("GRU4Rec", "tiny", trials=5, trial_minutes=1e-5, seeds=3, epochs=10_000))
    assert (limited["trial"].each or 0) < (limited["tuned run"].each or 0)
    assert not Path("results").exists()


def test_a_refit_counts_with_the_run_that_chooses_its_epochs_and_does_not_validate(tiny: Path) -> None:
    options = {**SMALL, "epochs": 2, "refit": True}
    lines = by_kind(estimate("GRU4Rec", "tiny", seeds=2, **options))
    assert {kind: line.work.count for kind, line in lines.items()} == {"run": 2, "refit": 2}
    steps = lines["refit"].measured
    assert steps is not None
    assert lines["refit"].each == pytest.approx(steps.before + 2 * steps.epoch + steps.test_cases * steps.case)
    api.run("GRU4Rec", "tiny", **{**options, "refit": False})
    lines = by_kind(estimate("GRU4Rec", "tiny", **options))
    assert {kind: (line.work.count, line.work.done) for kind, line in lines.items()} == {
        "run": (0, 1),
        "refit": (1, 0),
    }
    api.run("GRU4Rec", "tiny", **options)
    (done,) = estimate("GRU4Rec", "tiny", **options).lines
    assert (done.work.kind, done.work.count, done.work.done) == ("refit", 0, 1)


def test_a_search_with_a_refit_has_trials_and_tuned_runs_without_one_before(tiny: Path) -> None:
    options = {**SMALL, "epochs": 1, "trials": 2, "pruner": "none", "refit": True}
    lines = by_kind(estimate("GRU4Rec", "tiny", seeds=3, **options))
    assert {kind: line.work.count for kind, line in lines.items()} == {"trial": 2, "tuned run": 3, "refit": 3}
    assert [line.work.run.settings["refit"] for line in lines.values()] == [False, False, True]
    api.tune("GRU4Rec", "tiny", seeds=1, **options)
    lines = by_kind(estimate("GRU4Rec", "tiny", seeds=3, **options))
    assert {kind: (line.work.count, line.work.done) for kind, line in lines.items()} == {
        "trial": (0, 2),
        "tuned run": (2, 0),
        "refit": (2, 1),
    }


def test_requests_and_dollars_are_those_of_the_dry_run_and_count_once(few_users: Path) -> None:
    options = {"llm": "gpt-4o-mini", "llm_price_in": 10.0, "llm_price_out": 20.0, "semantics": "llm"}
    run = make_run("EIMF", "tiny", **options)
    planned = [row for _, row in generate.plan([run], runner())]
    found = estimate("EIMF", "tiny", seeds=2, **{**options, "semantics": "llm,shuffled"})
    assert found.requests == sum(row.requests for row in planned) > 0
    assert found.dollars == pytest.approx(sum(row.price for row in planned))
    assert (found.dollars or 0) > 0
    assert all(line.measured and line.measured.without_features for line in found.lines)
    assert "not made yet" in render_estimate(found)


def test_a_source_without_a_price_has_none(few_users: Path) -> None:
    found = estimate("EIMF", "tiny", llm="mistral", semantics="llm")
    assert found.requests > 0
    assert found.dollars is None
    assert "an unstated price" in render_estimate(found)


def test_features_that_are_made_are_read_and_cost_nothing(featured: Path) -> None:
    before = files()
    run = make_run("LLMDMsRec", epochs=1)  # the settings with which the features were made
    (line,) = estimate_work(work_of_grid([run], runner()), runner()).lines
    assert line.measured is not None
    assert not line.measured.without_features
    assert line.requests == 0
    assert files() == before


def test_a_model_that_others_stand_on_is_a_line_of_its_own(few_users: Path) -> None:
    lines = by_kind(estimate("LLMDMsRec", "tiny", semantics="offline,shuffled"))
    assert lines["candidate model"].work.count == 1
    assert lines["candidate model"].seconds > 0


def test_a_candidate_model_whose_settings_are_searched_is_trained_besides_its_trials(few_users: Path) -> None:
    options = {**SMALL, "epochs": 1, "trials": 2, "pruner": "none", "semantics": "offline"}
    lines = by_kind(estimate("SRGNN,LLMDMsRec", "tiny", **options))
    assert lines["candidate model"].work.count == 1
    api.tune("SRGNN,LLMDMsRec", "tiny", **options)
    run = lines["candidate model"].work.run
    assert runner().finished(run) is not None
    assert "candidate model" not in by_kind(estimate("SRGNN,LLMDMsRec", "tiny", **{**options, "trials": 3}))
    assert "candidate model" not in by_kind(estimate("SRGNN,LLMDMsRec", "tiny", **SMALL, semantics="offline,none"))


def test_what_cannot_be_measured_says_why_and_the_sum_says_so(tiny: Path) -> None:
    found = estimate("BPR,S3Rec", "tiny")
    known, unknown = found.lines
    assert unknown.measured is None
    assert found.seconds == known.seconds
    text = render_estimate(found)
    assert "not measured: it is trained in several stages" in text
    assert "one after the other and what could not be measured" in text


def test_workers_are_as_many_as_the_largest_training_fits(tiny: Path) -> None:
    found = estimate("GRU4Rec,BPR", "tiny")
    assert found.memory_mib == max(line.measured.memory_mib for line in found.lines if line.measured)
    half = replace(found, free_mib=[1.5 * found.memory_mib, 2.5 * found.memory_mib])
    assert half.workers == 2  # a third would go to the first device again, which is full
    assert "up to 2 of the largest fit" in render_estimate(half)
    unknown = replace(found, free_mib=[])
    assert unknown.workers is None
    assert "--workers" not in render_estimate(unknown)


# ---- what lines are called ------------------------------------------------------------------------

SUITE = """stages:
  - tune: {model: GRU4Rec, trials: 2}
  - tune: {model: GRU4Rec, trials: 2, train_targets: all}
  - run: {model: GRU4Rec, protocol: direct_100, train_targets: all}
  - run: {model: [Pop, GRU4Rec], seeds: 2}
"""


def test_lines_that_differ_in_a_setting_alone_name_it(tiny: Path) -> None:
    Path("mine.yaml").write_text(SUITE, encoding="utf-8")
    found = api.estimate_suite("mine.yaml", dataset="tiny", **SMALL)
    assert [(line.name, line.work.kind) for line in found.lines] == [
        ("GRU4Rec [train_targets=last], tiny, loo", "trial"),
        ("GRU4Rec [train_targets=last], tiny, loo", "tuned run"),
        ("GRU4Rec [train_targets=all], tiny, loo", "trial"),
        ("GRU4Rec [train_targets=all], tiny, loo", "tuned run"),
        ("GRU4Rec, tiny, direct_100", "run"),
        ("Pop, tiny, loo", "run"),
        ("GRU4Rec [train_targets=last], tiny, loo", "run"),
    ]
    assert render_estimate(found).count("GRU4Rec [train_targets=all], tiny, loo") == 2


STAGES = """stages:
  - run: {model: BPR, seeds: 4}
  - run: {model: [BPR, Pop], seeds: 2}
  - tune: {model: BPR, trials: 8}
  - tune: {model: BPR, trials: 3, seeds: 2}
  - tune: {model: BPR, trials: 5, trial_epochs: 1}
"""


def test_stages_of_a_suite_that_share_rows_or_trials_count_them_once_and_all_others(tiny: Path) -> None:
    Path("mine.yaml").write_text(STAGES, encoding="utf-8")
    found = api.estimate_suite("mine.yaml", dataset="tiny", epochs=2)
    assert [(line.name.partition(",")[0], line.work.kind, line.work.count) for line in found.lines] == [
        ("BPR", "run", 4),
        ("Pop", "run", 2),
        ("BPR", "trial", 8),
        ("BPR", "tuned run", 1),
        ("BPR", "tuned run", 2),
        ("BPR", "trial", 5),
        ("BPR", "tuned run", 1),
    ]


def test_a_line_names_its_preset_and_not_what_the_preset_says(tiny: Path) -> None:
    runs = [make_run("SRGNN"), make_run("SRGNN", preset="paper")]
    found = estimate_work(work_of_grid(runs, runner()), runner())
    assert [line.name for line in found.lines] == ["SRGNN, tiny, loo", "SRGNN [preset=paper], tiny, loo"]


def test_lines_that_differ_in_a_file_alone_name_it(tiny: Path) -> None:
    runs = []
    for name, item in (("a", "i1"), ("b", "i2")):
        Path(f"{name}.tsv").write_text(f"user_id\titem_id\trank\nu1\t{item}\t1\n", encoding="utf-8")
        runs.append(make_run("Lists", lists=f"{name}.tsv"))
    found = estimate_work(work_of_grid(runs, runner()), runner())
    assert [line.name for line in found.lines] == [f"Lists [lists#{run.files['lists'][:6]}], tiny, loo" for run in runs]


def test_rows_without_their_features_are_named_in_one_line(few_users: Path) -> None:
    found = estimate("EIMF", "tiny", semantics="offline,shuffled,none", trials=2)
    (text,) = (line for line in render_estimate(found).splitlines() if "not made yet" in line)
    assert text.endswith("it will take longer: EIMF, tiny, loo, offline; EIMF, tiny, loo, shuffled")


def test_an_estimate_says_that_it_is_of_one_process(tiny: Path) -> None:
    said = {n: render_estimate(estimate("BPR", "tiny", epochs=1, nproc=n)) for n in (1, 2)}
    assert [n for n, text in said.items() if "--nproc: seconds and memory are those of one process" in text] == [2]


def test_what_is_said_meanwhile_names_the_lines_and_no_folder_to_be_thrown_away(
    few_users: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="recbole_llm"):
        estimate("EIMF", "tiny", llm="mistral", semantics="llm,none")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [text for text in said if text.startswith("measuring")] == [
        "measuring EIMF, tiny, loo, llm",
        "measuring EIMF, tiny, loo",
    ]
    assert not any("making" in text or "dry" in text for text in said)


# ---- on the command line --------------------------------------------------------------------------

WORDS = [f"--{key}={value}" for key, value in SMALL.items()]


@pytest.mark.parametrize("verb", [["run", "--dry-run"], ["estimate"], ["--dry-run"]])
def test_a_dry_run_of_a_grid_shows_the_estimate_and_runs_nothing(
    tiny: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    before = files()
    assert main([*verb, "--model=GRU4Rec", "--dataset=tiny", "--seeds=2", "--quiet", *WORDS]) == 0
    out = capsys.readouterr().out
    assert "all: 2 trainings" in out
    assert "measured here: " in out and "extrapolated: " in out
    assert files() == before


def test_a_dry_run_of_a_search_shows_trials_and_tuned_runs(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model=GRU4Rec", "--dataset=tiny", "--trials=4", "--seeds=2", "--pruner=none", "--report", "--quiet"]
    assert main(["tune", "--dry-run", *words, *WORDS]) == 0
    assert "all: 6 trainings" in capsys.readouterr().out
    assert not Path("results").exists()


def test_a_search_that_was_kept_as_text_leaves_the_seeds_that_are_missing(tiny: Path) -> None:
    given = {"trials": 3, "pruner": "none", **SMALL}
    api.tune("GRU4Rec", "tiny", seeds=1, **given)
    for path in Path("results").glob("studies.sqlite3*"):  # a repository keeps only the text history
        path.unlink()
    found = by_kind(api.estimate("GRU4Rec", "tiny", seeds=2, **given))
    assert {kind: (line.work.count, line.work.done) for kind, line in found.items()} == {
        "trial": (0, 3),
        "tuned run": (1, 1),
    }
    assert {line.name for line in found.values()} == {"GRU4Rec, tiny, loo"}  # names no tuned values
    more = by_kind(api.estimate("GRU4Rec", "tiny", seeds=2, **{**given, "trials": 5}))
    assert (more["trial"].work.count, more["trial"].work.done, more["tuned run"].work.count) == (2, 3, 2)
    assert not Path("results/studies.sqlite3").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--model=GRU4Re"], "Did you mean GRU4Rec"), (["--model=GRU4Rec", "--epoch=3"], "Did you mean epochs")],
)
def test_a_mistake_is_an_error_in_a_dry_run_too(
    tiny: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["run", "--dry-run", "--dataset=tiny", *words]) == 2
    assert message in capsys.readouterr().err
