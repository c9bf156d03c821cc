"""``tune`` from the command line to the table: it never sees test data and survives kills."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from recbole_llm import api
from recbole_llm.cli import main
from recbole_llm.errors import UserError
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.tables import render
from recbole_llm.tuning.budget import Budget
from recbole_llm.tuning.report import write_search_report
from recbole_llm.tuning.search import summary
from recbole_llm.tuning.space import space_of
from recbole_llm.tuning.storage import open_storage, storage_address
from recbole_llm.tuning.study import Study
from tests.helpers import make_run
from tests.processes import start_command

pytestmark = pytest.mark.usefixtures("fork_server")


def tune(*names: Any, **options: Any) -> tuple[Any, Any]:
    """Run a search; returns its records and studies."""
    found = api.tune(*names, **options)
    return found.records, found.studies


SMALL: dict[str, Any] = {
    "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128, "epochs": 2, "embedding_size": 16, "GRU4Rec.hidden_size": 16,
}  # fmt: skip


def scores(studies: list[Study]) -> list[list[tuple[Any, float | None]]]:
    return [[(study.settings(trial), trial.value) for trial in study.ended()] for study in studies]


def move_test_items(folder: Path) -> None:
    """Change the last item of every user but the first to the same item."""
    path = folder / "tiny.inter"
    header, *lines = path.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    last: dict[str, int] = {}
    for number, (user, _, _, time) in enumerate(rows):
        if user != "first" and (user not in last or float(time) > float(rows[last[user]][3])):
            last[user] = number
    for number in last.values():
        rows[number][1] = "i7"
    path.write_text("\n".join([header, *map("\t".join, rows)]) + "\n")


@pytest.fixture
def plain(tiny: Path) -> Path:
    """The small dataset without equal times; a first user has all items, so item ids never change."""
    path = tiny / "tiny.inter"
    header, *lines = path.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    rows = [["first", f"i{n}", "3", str(n)] for n in range(48)] + rows
    rows = [
        [user, item, rating, str(int(time) * 1000 + number)] for number, (user, item, rating, time) in enumerate(rows)
    ]
    path.write_text("\n".join([header, *map("\t".join, rows)]) + "\n")
    return tiny


def test_a_trial_whose_settings_exclude_each_other_fails_alone(tiny: Path) -> None:
    """Regression: it ended the search, and again whenever the command was given again."""
    Path("space.yaml").write_text("train_targets: [all, last]\nloss_type: [CE, BPR]\n")
    _, (study,) = tune("SASRec", "tiny", trials=8, space="space.yaml", MAX_ITEM_LIST_LENGTH=10, epochs=1)
    errors = [trial.user_attrs.get("error") for trial in study.ended()]
    assert len(errors) == 8
    assert {None, "train_targets=all goes with loss_type: CE, not BPR."} == {*errors}


def test_the_test_items_change_no_trial(plain: Path) -> None:
    _, before = tune("GRU4Rec", "tiny", trials=3, **SMALL)
    shutil.rmtree("results")
    move_test_items(plain)
    records, after = tune("GRU4Rec", "tiny", trials=3, **SMALL)
    assert scores(after) == scores(before)
    assert after[0].name != before[0].name  # other data make another study
    assert records[0].metrics


def test_a_search_ranks_validation_cases_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    loader = Prepared.eval_loader
    monkeypatch.setattr(Prepared, "eval_loader", lambda self, phase: asked.append(phase) or loader(self, phase))
    (record,), _ = tune("BPR", "tiny", trials=2, epochs=1)
    assert asked == ["valid", "valid", "valid", "test"]  # two trials, then the tuned run
    assert [found.key for found in ResultStore("results")] == [record.key]


def test_each_of_several_semantics_has_a_search_of_its_own(tiny: Path) -> None:
    records, studies = tune("SASRecText", "tiny", semantics="offline,none", trials=1, epochs=1)
    assert [record.semantics for record in records] == ["text", "none"]
    made = {"features", "encode"}  # before the trials; regression: no record had their seconds
    assert [made & record.seconds.keys() for record in records] == [made, set()]
    assert len({study.name for study in studies}) == 2


def test_each_model_has_one_study_and_the_best_enters_the_table_as_tuned(tiny: Path) -> None:
    records, studies = tune("GRU4Rec,LLMDMsRec,Pop", "tiny", trials=2, seeds=2, **SMALL)
    assert [len(study.ended()) for study in studies] == [2, 2, 1]
    assert [(record.label, record.tuned, record.trials) for record in records] == [
        *[("GRU4Rec", True, 2)] * 2,
        *[("LLMDMsRec (offline)", True, 2)] * 2,
        *[("Pop", True, 1)] * 2,
    ]
    for study, record in zip(studies, records[::2], strict=True):
        best = study.best()
        assert best.value >= study.ended()[0].value
        assert {name: record.settings[name] for name in study.space} == study.settings(best)
        assert record.valid_metrics["ndcg@10"] == best.value  # same seed and epochs as the trial
    stage_ones = [record for record in ResultStore("results") if not record.tuned]
    assert [record.model for record in stage_ones] == ["SRGNN"]  # trained once, not per trial
    assert len(list(Path("dataset/tiny/semantics").glob("loo-*"))) == 1
    assert not list(Path("saved/search").rglob("*.pt"))
    assert re.search(r"^LLMDMsRec †? +offline +2 trials", render(records), flags=re.M)
    assert "GRU4Rec-tiny-loo" in summary(studies)
    again, _ = tune("GRU4Rec,LLMDMsRec,Pop", "tiny", trials=2, seeds=2, **SMALL)
    assert again == records


def test_the_report_is_one_page_that_loads_nothing(tiny: Path) -> None:
    _, studies = tune("BPR", "tiny", trials=4, epochs=2, pruner="none")
    page = write_search_report(studies, Path("search.html")).read_text()
    found = re.search(r'<script type="application/json" class="data">(.*?)</script>', page, flags=re.S)
    assert found is not None
    data = json.loads(found[1])
    assert [trial["value"] for trial in data["history"]] == [trial.value for trial in studies[0].ended()]
    assert {name for name, _ in data["importances"]} == {axis["title"] for axis in data["parallel"]["axes"]}
    assert sum(share for _, share in data["importances"]) == pytest.approx(1)
    assert not re.findall(r"<link|<script[^>]+src|<img|@import|url\(", page)
    assert "default-src 'none'" in page
    assert studies[0].name in page


def test_time_that_is_over_ends_a_trial_after_its_epoch(tiny: Path) -> None:
    (record, pop), (study, _) = tune("BPR,Pop", "tiny", trials=1, trial_minutes=1e-6, trial_epochs=8, epochs=9)
    assert (record.trials, record.trial_epochs, record.trial_minutes) == (1, 8, 1e-6)
    assert (pop.trials, pop.trial_epochs, pop.trial_minutes) == (1, None, None)  # Pop has nothing to search
    (trial,) = study.ended()
    assert trial.user_attrs["epochs"] == 1
    assert trial.value == trial.intermediate_values[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "recbole"}, "tune needs --engine=fast"),
        ({"model": "BPR,GRU4Rec", "space": "space.yaml"}, "--space is for one model"),
        ({"trials": 0}, "--trials=0"),
        ({"seeds": 0}, "--seeds=0"),
        ({"learning_rat": 1.0}, "learning_rat"),
    ],
)
def test_a_mistake_is_an_error_before_anything_runs(tiny: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tune(**{"model": "BPR", "dataset": "tiny"} | arguments)
    assert not Path("results").exists()


def test_a_search_on_workers_that_is_killed_goes_on(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``kill -9`` ends the driver and its workers in the middle; the next command does the remaining work."""
    given = [f"--{key}={value}" for key, value in SMALL.items()]
    words = ["tune", "--model=GRU4Rec", "--dataset=tiny", *given, "--trials=6", "--workers=2", "--report"]
    first = start_command(*words)
    while "GRU4Rec [2/6]" not in (line := first.stderr.readline()):
        assert line, "it ended before it could be killed"
    first.kill()
    settings = {key: value for key, value in SMALL.items() if key != "seed"}
    run = make_run("GRU4Rec", **{"seed": 2020, **settings})
    storage = open_storage(storage_address(None, Path("results")))
    study = Study(run, space_of(run.settings), Budget(6), storage, Path("results"))
    before = {trial.number: trial.datetime_complete for trial in study.ended()}
    assert 2 <= len(before) < 6
    assert main(words) == 0
    assert "2 epochs at most, tuned with 6 trials\n" in capsys.readouterr().out
    assert Path("results/search.html").is_file()
    assert study.is_done
    ended = study.ended()
    assert {number: ended[number].datetime_complete for number in before} == before
    assert all(trial.value is not None for trial in ended)
    assert ended[0].params["learning_rate"] == 0.001
    assert len(study.history.read_text().splitlines()) == 7


def test_a_search_without_its_storage_is_not_made_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository keeps only records and histories; with these, one more seed costs one more training."""
    arguments: dict[str, Any] = {"model": "GRU4Rec", "dataset": "tiny", "trials": 3, **SMALL}
    (record,), (study,) = tune(**arguments)
    for path in Path("results").glob("studies.sqlite3*"):
        path.unlink()
    monkeypatch.setattr(Runner, "validate", None)
    (again, other), (found,) = tune(**arguments, seeds=2)
    assert again == record
    assert (other.seed, other.status) == (record.seed + 1, "ok")
    assert scores([found]) == scores([study])


def test_a_search_that_is_interrupted_goes_on_in_the_same_process(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook; a journal storage has no heartbeat to show that a trial was abandoned."""
    validate = Runner.validate

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "validate", interrupted)
    arguments: dict[str, Any] = {"model": "BPR", "dataset": "tiny", "trials": 2, "epochs": 1, "storage": "s.log"}
    with pytest.raises(KeyboardInterrupt):
        tune(**arguments)
    monkeypatch.setattr(Runner, "validate", validate)
    _, (study,) = tune(**arguments)
    assert [trial.number for trial in study.ended()] == [0, 1]


def test_a_folder_of_checkpoints_that_cannot_be_made_fails_no_trial(tiny: Path) -> None:
    Path("saved").write_text("a file")
    with pytest.raises(UserError, match=r"the folder saved/search/BPR-.* cannot be made"):
        tune("BPR", "tiny", trials=2, epochs=1)
    Path("saved").unlink()
    _, (study,) = tune("BPR", "tiny", trials=2, epochs=1)
    assert [trial.state.name for trial in study.ended()] == ["COMPLETE"] * 2


def test_a_model_without_features_keeps_no_other_from_being_tuned(tiny: Path) -> None:
    unanswered: dict[str, Any] = {"llm": "vllm", "llm_base_url": "http://127.0.0.1:1/v1", "max_requests": 0}
    records, studies = tune("EIMF,BPR", "tiny", trials=2, epochs=1, **unanswered)
    assert [study.run.settings.method.name for study in studies] == ["BPR"]
    assert [(record.model, record.status, record.trials) for record in records] == [
        ("BPR", "ok", 2),
        ("EIMF", "failed", 2),
    ]
    assert "--max_requests=0 is reached" in (records[1].error or "")
    assert [record.model for record in ResultStore("results")] == ["BPR"]
    with pytest.raises(UserError, match="--max_requests=0 is reached"):
        tune("EIMF", "tiny", trials=2, epochs=1, **unanswered)


def test_a_search_for_accuracy_and_seconds_gives_what_is_best_for_each_time(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**SMALL, "trials": 4, "pruner": "none", "objectives": "accuracy,seconds", "report": ""}
    found = api.tune("GRU4Rec", "tiny", **options)
    (study,) = found.studies
    assert study.name != tune("GRU4Rec", "tiny", **{**SMALL, "trials": 4, "pruner": "none"})[1][0].name
    assert all(trial.values[1] > 0 for trial in study.complete())
    front = study.front()
    assert front[0].number == study.best().number
    for trial in study.complete():
        accuracy, seconds = trial.values
        beaten = any(
            other.values[0] >= accuracy and other.values[1] <= seconds
            and (other.values != trial.values or other.number < trial.number)
            for other in study.complete()
        )  # fmt: skip
        assert (trial not in front) == beaten
    lines = summary([study]).splitlines()
    assert len(lines) == 2 + len(front) - 1
    assert found.report is not None and "Accuracy and seconds" in found.report.read_text()
    assert found.records[0].status == "ok"


@pytest.mark.parametrize(
    ("objectives", "message"),
    [("accuracy,dollars", "the same dollars"), ("seconds", "use accuracy"), ("accuracy,seconds", "--pruner=none")],
)
def test_objectives_that_no_search_can_have_are_an_error(tiny: Path, objectives: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tune("GRU4Rec", "tiny", objectives=objectives)
