"""Stage I: the candidate model that semantic features are made from."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_llm.api import run
from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import rows_digest, split_interactions
from recbole_llm.errors import UserError
from recbole_llm.experiments.candidate_model import CandidateTable
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.training import trainer
from recbole_llm.utils.progress import Stopwatch
from tests.data.build import table_of
from tests.helpers import StopAt, make_run, runner

SHORT = {"epochs": 1, "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128}


def trained(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Models that were trained according to the log."""
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("running ")]
    return [line.split()[1] for line in lines]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "recbole_llm")
    return caplog


def test_its_cell_has_the_users_settings_and_a_seed_of_its_own(tiny: Path) -> None:
    run = make_run("LLMDMsRec", seed=7, learning_rate=0.005, sigma=0.5)
    below = runner().candidate_run(run)
    assert below.settings.method.name == "SRGNN"
    assert below.settings["seed"] == 2020
    assert below.settings["learning_rate"] == 0.005
    assert "sigma" not in below.settings.values


def test_a_new_seed_of_the_benchmark_stands_on_the_same_model(tiny: Path) -> None:
    keys = {runner().candidate_run(make_run("LLMDMsRec", seed=seed)).key for seed in range(3)}
    assert len(keys) == 1


@pytest.mark.parametrize("models", ["SRGNN,LLMDMsRec", "LLMDMsRec,SRGNN"])
def test_the_benchmarks_own_run_of_srgnn_doubles_as_stage_one(
    tiny: Path, log: pytest.LogCaptureFixture, models: str
) -> None:
    records = {record.model: record for record in run(models, "tiny", **SHORT)}
    assert records["LLMDMsRec"].stage_one == records["SRGNN"].key
    assert sorted(trained(log)) == ["LLMDMsRec", "SRGNN"]
    assert len(list(Path("saved/tiny/loo").glob("SRGNN-*/best.pt"))) == 1


def test_several_seeds_train_it_once(tiny: Path, log: pytest.LogCaptureFixture) -> None:
    records = run("LLMDMsRec", "tiny", seeds=[1, 2], **SHORT)
    assert trained(log).count("SRGNN") == 1
    assert len({record.stage_one for record in records}) == 1
    assert len({record.features.folder for record in records if record.features}) == 1


def test_force_trains_it_once_in_a_command(tiny: Path, log: pytest.LogCaptureFixture) -> None:
    run("SRGNN,LLMDMsRec", "tiny", **SHORT)
    log.clear()
    run("SRGNN,LLMDMsRec", "tiny", force=True, **SHORT)
    assert sorted(trained(log)) == ["LLMDMsRec", "SRGNN"]


def test_its_record_stands_among_the_results(tiny: Path) -> None:
    run("LLMDMsRec", "tiny", **SHORT)
    assert {record.model for record in ResultStore("results")} == {"LLMDMsRec", "SRGNN"}


def test_top_items_never_hold_the_padding_and_never_repeat(tiny: Path) -> None:
    runs = runner()
    run = make_run("LLMDMsRec", epochs=1)
    rows = runs.prepare(runs.candidate_run(run), Stopwatch()).dataset.split.test.end[:3]
    found = runs.candidate_model(run, Stopwatch()).top_items(rows, 10)
    assert found.shape == (3, 10)
    assert all(len(set(line)) == 10 and 0 not in line for line in found.tolist())


def test_an_interrupted_training_of_it_is_resumed(
    tiny: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", 0.0)
    run = make_run("LLMDMsRec", epochs=4)
    with pytest.raises(KeyboardInterrupt):
        Runner(ResultStore(), StopAt("epoch 3")).run(run)
    runner().run(run)
    assert "continuing after epoch 2" in log.text


def given_table(folder: Path, *lines: str, more: str = "") -> tuple[CandidateTable, Interactions]:
    """A table of candidates for one user's rows of items ``i0`` to ``i4``, of which the last two are tested."""
    table = table_of(folder, [("u", f"i{n}", n) for n in range(5)])
    path = folder / "mine.candidates"
    path.write_text("\n".join((f"user_id:token\tposition:token\titems:token_seq{more}", *lines)) + "\n")
    dataset = SimpleNamespace(table=table, split=split_interactions(table, {"split": "loo"}))
    return CandidateTable(path, "ab" * 32, lambda: dataset), table


def test_a_training_row_that_a_table_lacks_has_the_items_of_the_last_earlier_one(tmp_path: Path) -> None:
    given, table = given_table(tmp_path, "u\t3\ti3 i4", "u\t1\ti0 i2", "u\t4\ti1 i0")
    items = given.top_items(np.array([1, 2, 3, 4]), 2)
    assert table.item_tokens[items].tolist() == [["i0", "i2"], ["i0", "i2"], ["i3", "i4"], ["i1", "i0"]]
    with pytest.raises(UserError, match="user u, position 0 has 0 of 2 candidates"):
        given.top_items(np.array([0]), 2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["u\t1\ti0 i2", "u\t3\ti3 i4"], "no candidates for user u, position 4, which is tested"),
        (["u\t1\ti0 i0", "u\t3\ti3 i4", "u\t4\ti3 i4"], "user u, position 1 has an item twice"),
        (["u\t1\t", "u\t3\ti3 i4", "u\t4\ti3 i4"], "user u, position 1 has 0 of 2 candidates"),
        (["u\t\ti0 i2"], "position ''"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    given, _ = given_table(tmp_path, *lines)
    with pytest.raises(UserError, match=message):
        given.top_items(np.array([1, 2, 3, 4]), 2)


def test_a_table_of_another_split_is_refused(tmp_path: Path) -> None:
    items = ("u\t1\ti0 i2", "u\t2\ti0 i3", "u\t3\ti3 i4", "u\t4\ti1 i0")
    mine = rows_digest(np.array([3]), np.array([4]))  # rows 3 and 4 are tested
    rows, more = np.array([1, 2, 3, 4]), "\ttested_rows:token"
    given, table = given_table(tmp_path, *(f"{line}\t{mine}" for line in items), more=more)
    assert table.item_tokens[given.top_items(rows, 2)[3]].tolist() == ["i1", "i0"]
    other = rows_digest(np.array([2]), np.array([3]))
    for tested in [other] * 4, [mine, mine, mine, other], [mine, mine, mine, ""]:
        lines = (f"{line}\t{digest}" for line, digest in zip(items, tested, strict=True))
        given, _ = given_table(tmp_path, *lines, more=more)
        with pytest.raises(
            UserError, match=r"mine\.candidates is of other data or another split: other rows were held out"
        ):
            given.top_items(rows, 2)


def test_a_full_table_that_names_no_split_gives_a_warning(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    lines = ["u\t1\ti0 i2", "u\t2\ti0 i3", "u\t3\ti3 i4", "u\t4\ti1 i0"]
    given_table(tmp_path, *lines)[0].top_items(np.array([1, 2, 3, 4]), 2)
    assert "does not say of which split it is" in log.text
    log.clear()
    given_table(tmp_path, *lines[:1], *lines[2:])[0].top_items(np.array([1, 2, 3, 4]), 2)
    assert not log.text
