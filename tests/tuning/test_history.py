"""A search's history as a text file: written, checked, and used to continue without the storage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from recbole_llm.errors import UserError
from recbole_llm.tuning.history import SCHEMA, Ended, Header, read_history, write_history
from recbole_llm.tuning.space import space_json
from recbole_llm.tuning.study import Study
from tests.processes import start, wait_for
from tests.tuning.searchers import hang, result, study_of, take_part

HEADER = Header(study="a", metric="NDCG@10", budget={"epochs": None, "pruner": "none"}, space={"b": [1, 2.5]})


def mixed(storage: str) -> Study:
    """An unfinished search with trials of several kinds: completed, failed and pruned."""
    study = study_of(storage, 7, space="num_layers: [1, 2, 3, null]", pruner="median", epochs=2)
    for number in range(4):
        trial = study.next()
        assert trial is not None
        study.reporter(trial)(1, 0.1 * number)
        error = UserError("no luck\nat all") if number == 1 else None
        study.finish(trial, result(0.1 * number, error, pruned=number == 3))
    return study


def told(study: Study) -> list[tuple[object, ...]]:
    kept = ("epochs", "best_epoch", "seconds", "same_as", "error")
    return [
        (t.number, t.state, t.value, t.params, t.intermediate_values, [t.user_attrs.get(name) for name in kept])
        for t in study.ended()
    ]


def test_a_history_says_what_was_searched_and_what_came_of_it(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 2)
    take_part(study)
    header, first, _ = map(json.loads, study.history.read_text().splitlines())
    assert header == {
        **{"study": study.name, "schema_version": SCHEMA, "metric": "NDCG@10"},
        **{"budget": {"epochs": None, "seconds": None, "pruner": "none"}, "space": space_json(study.space)},
    }
    assert first == {
        **{"number": 0, "state": "COMPLETE", "value": pytest.approx(0.999)},
        **{"params": {"learning_rate": 0.001, "num_layers": 1}, "epochs": 1, "best_epoch": 1, "seconds": 0.1},
    }
    assert study.history.parent == Path("results/studies")


def test_another_machine_finds_the_trials_and_goes_on(tiny: Path) -> None:
    here = mixed("results/here.sqlite3")
    shutil.copytree("results/studies", "kept")
    take_part(here)
    shutil.rmtree("results/studies")
    Path("kept").rename("results/studies")
    there = study_of("results/there.sqlite3", 7, space="num_layers: [1, 2, 3, null]", pruner="median", epochs=2)
    known = told(there)
    assert 4 <= len(known) < 7
    assert known == told(here)[: len(known)]
    take_part(there)
    assert told(there) == told(here)
    assert {trial.state for trial in there.ended()} == {TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED}
    assert any("same_as" in trial.user_attrs for trial in there.ended())


def test_a_trial_that_ran_when_the_history_was_written_is_run_again(tiny: Path) -> None:
    here = study_of("results/here.sqlite3", 4)
    trials = [here.next() for _ in range(3)]
    for number in (0, 2):
        here.finish(trials[number], result(0.5 + number))  # type: ignore[arg-type]
    there = study_of("results/there.sqlite3", 4)
    assert [trial.number for trial in there.ended()] == [0, 2]
    assert take_part(there) == 2
    assert [trial.number for trial in there.ended()] == [0, 1, 2, 3]
    assert there.ended()[1].params == trials[1].params  # type: ignore[union-attr]


def test_a_storage_that_is_behind_takes_in_what_it_lacks(tiny: Path) -> None:
    take_part(study_of("results/behind.sqlite3", 2))
    ahead = study_of("results/ahead.sqlite3", 5)
    take_part(ahead)
    behind = study_of("results/behind.sqlite3", 5)
    assert told(behind) == told(ahead)
    assert take_part(behind) == 0


def test_a_process_that_is_killed_leaves_a_whole_history(tiny: Path) -> None:
    process = start(hang, "results/s.sqlite3", 6, 3, "mark")
    wait_for(Path("mark").exists)
    process.kill()
    (history,) = Path("results/studies").iterdir()
    assert len(history.read_text().splitlines()) == 4  # the header, and the three trials before the hanging one


def test_a_trial_that_was_taken_in_under_another_number_does_not_count(tiny: Path) -> None:
    """Two machines may import a history into one database at the same time."""
    first = study_of("results/s.sqlite3", 3)
    take_part(first)
    again = study_of("results/again.sqlite3", 3)
    for number, trial in read_history(again.history, again._header()).items():
        again._study.add_trial(trial.frozen(again._distributions))
        assert trial.number == number
    assert [trial.number for trial in again._study.trials] == [0, 1, 2, 3, 4, 5]
    assert told(again) == told(first)
    more = study_of("results/again.sqlite3", 4)
    assert take_part(more) == 1
    assert [trial.number for trial in more.ended()] == [0, 1, 2, 6]


# ---- what a file may hold -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '{"number": 3, "state": "COMPL',
        "<<<<<<< HEAD",
        '{"number": 3, "state": "COMPLETE", "params": {"b": 1}}',
        '{"number": 3, "state": "FAIL", "params": {"b": 1}}',
        '{"number": -1, "state": "PRUNED", "params": {}}',
        '{"number": 3, "state": "COMPLETE", "value": NaN, "params": {}}',
        '{"number": 3, "state": "COMPLETE", "value": 1.0, "params": {}, "something": "else"}',
        "[]",
        "",
    ],
)
def test_a_line_that_is_no_trial_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    path = tmp_path / "a.jsonl"
    kept = [Ended(number=n, state="COMPLETE", value=0.5, params={"b": 1}) for n in (0, 1)]
    write_history(path, HEADER, kept)
    header, first, second = path.read_text().splitlines()
    path.write_text("\n".join([header, first, line, second]) + "\n")
    assert read_history(path, HEADER) == dict(enumerate(kept))
    assert f"{path}, line 3 is no trial and is skipped" in caplog.text


def test_a_trial_that_does_not_fit_the_space_is_run_again(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = study_of("results/s.sqlite3", 2)
    take_part(first)
    text = first.history.read_text()
    first.history.write_text(text.replace('"num_layers": 1', '"num_layers": 7'))
    assert take_part(study_of("results/again.sqlite3", 2)) == 1
    assert "trial 0 does not fit and is run again" in caplog.text
    assert first.history.read_text().splitlines()[1] == text.splitlines()[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not the history of a search"),
        ("\x00\xff", "is not the history of a search"),
        ('{"study": "b"}\n', "is not the history of a search"),
        (HEADER.model_copy(update={"study": "b"}).model_dump_json(), "was written for another search, and this one"),
        (HEADER.model_copy(update={"space": {}}).model_dump_json(), "was written for another search, and this one"),
        (
            HEADER.model_copy(update={"schema_version": SCHEMA + 1}).model_dump_json(),
            "by a later version, and this one",
        ),
    ],
)
def test_a_file_of_something_else_is_not_replaced(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=message):
        read_history(path, HEADER)


def test_where_there_is_no_file_there_is_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / "a.jsonl", HEADER) == {}


FINITE = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)  # torch may have turned them off
VALUES = st.none() | st.booleans() | st.integers() | FINITE | st.text()
TRIALS = st.builds(
    Ended,
    number=st.integers(0, 1000),
    state=st.just("COMPLETE"),
    value=FINITE,
    params=st.dictionaries(st.text(), VALUES),
    curve=st.dictionaries(st.integers(0, 99), FINITE),
    error=st.none() | st.text(),
)


@given(trials=st.lists(TRIALS, unique_by=lambda trial: trial.number))
def test_what_is_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, trials: list[Ended]) -> None:
    path = tmp_path_factory.mktemp("history") / "a.jsonl"
    write_history(path, HEADER, trials)
    assert read_history(path, HEADER) == {trial.number: trial for trial in trials}


@given(text=st.text())
def test_any_text_gives_trials_or_a_users_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("history") / "a.jsonl"
    path.write_text(HEADER.model_dump_json() + "\n" + text, encoding="utf-8", errors="replace")
    assert all(isinstance(trial, Ended) for trial in read_history(path, HEADER).values())
