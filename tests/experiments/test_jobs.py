"""Work that runs share is done once, before the runs are distributed to workers."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.execution.base import Job, JobResult
from recbole_llm.execution.serial import SerialExecutor
from recbole_llm.experiments.jobs import Payload, make_features, pack, run_job_away
from recbole_llm.experiments.launch import run_all
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.encoder import minilm_folder
from tests.data.build import write_rows
from tests.helpers import make_run, runner
from tests.stub_server import StubServer, intents_from_candidates


def test_runs_whose_features_cannot_be_made_are_named_with_the_reason(tiny: Path) -> None:
    lacking = make_run("LLMDMsRec", encoder="no/such/encoder")
    reasons = make_features([make_run("GRU4Rec"), lacking], runner())
    assert list(reasons) == [lacking.key]
    assert "no/such/encoder" in reasons[lacking.key]


# ---- where the driver's files are missing -------------------------------------------------------

SMALL: dict[str, Any] = {"epochs": 2, "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128}


class Elsewhere:
    """Runs jobs in this process as on another machine: arguments are pickled, and relative paths do not resolve."""

    shares_files = False
    slots = 1
    host = "localhost"

    def __init__(self, place: Path) -> None:
        self.place, self.sent = place, list[Payload]()
        self._inner = SerialExecutor()

    @property
    def free(self) -> int:
        return self._inner.free

    @property
    def under_way(self) -> int:
        return self._inner.under_way

    def put(self, value: Any) -> Any:
        self.sent.append(value)
        return value

    def submit(self, job: Job) -> None:
        self._inner.submit(replace(job, arguments=pickle.loads(pickle.dumps(job.arguments))))

    def next(self, timeout: float | None = None) -> JobResult | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.place)
            patch.setattr("tempfile.tempdir", str(self.place))
            return self._inner.next(timeout)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """An executor whose jobs cannot see the driver's files."""
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"))


def both(elsewhere: Elsewhere, *runs: Run) -> tuple[list[Record], list[Record]]:
    """Run elsewhere and here, check that keys and metrics agree, and return both lists of records."""
    there = run_all(runs, Runner(ResultStore("there")), elsewhere)
    assert [record.error for record in there] == [None] * len(runs)
    here = run_all(runs, Runner(ResultStore("here")))
    assert [record.metrics for record in there] == [record.metrics for record in here]
    assert [record.key for record in there] == [record.key for record in here]
    return there, here


@pytest.mark.parametrize("folder", ["parts", "dataset/tiny"])
@pytest.mark.parametrize("model", ["Pop", "LLMDMsRec"])
def test_ready_parts_travel_with_a_run(tiny: Path, elsewhere: Elsewhere, folder: str, model: str) -> None:
    header, *lines = (tiny / "tiny.inter").read_text().splitlines()
    given = {}
    for number, part in enumerate(("train", "valid", "test")):
        given[part] = str(write_rows(Path(folder) / f"own.{part}.inter", [[line] for line in lines[number::3]], header))
    both(elsewhere, make_run(model, protocol="parts", **given, **SMALL))


def test_runs_that_read_other_files_have_payloads_of_their_own(tiny: Path, elsewhere: Elsewhere) -> None:
    table = run_all([make_run("Pop", **SMALL)], Runner(ResultStore("first")))[0]
    assert table.status == "ok"
    users = {line.split("\t")[0] for line in (tiny / "tiny.inter").read_text().splitlines()[1:]}
    for name, item in (("a.tsv", "i1"), ("b.tsv", "i2")):
        Path(name).write_text(
            "user_id:token\titem_id:token\tscore:float\n" + "".join(f"{u}\t{item}\t1\n" for u in users)
        )
    runs = [make_run("SASRec", **SMALL), *(make_run("Lists", lists=name, **SMALL) for name in ("a.tsv", "b.tsv"))]
    both(elsewhere, *runs)
    assert len(elsewhere.sent) == 3


def test_nothing_is_left_elsewhere_but_what_was_sent(tiny: Path, elsewhere: Elsewhere) -> None:
    run_all([make_run("SASRec", **SMALL)], Runner(ResultStore("there")), elsewhere)
    (payload,) = elsewhere.sent
    left = {path for path in elsewhere.place.rglob("*") if path.is_file()}
    (home,) = elsewhere.place.glob("recbole_llm-*/*")
    assert {str(path.relative_to(home)) for path in left if "cache" not in path.parts} == {*payload.files}
    assert not list(home.glob("run-*"))
    assert not list(home.rglob("*.pt"))


def test_a_refit_elsewhere_keeps_the_record_that_chose_its_epochs(
    tiny: Path, elsewhere: Elsewhere, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [make_run("SASRec", refit=True, **SMALL), make_run("Pop", refit=True, **SMALL)]
    with caplog.at_level("INFO", logger="recbole_llm"):
        there, _ = both(elsewhere, *runs)
    assert len(elsewhere.sent) == 1
    store = ResultStore("there")
    for run, record in zip(runs, there, strict=True):
        chooser = run.chooser()
        assert chooser is not None
        assert record.chosen_by == chooser.key
        found = store.find(chooser.key)
        assert found is not None
        assert store.ranks_of(found).is_file()
    began = [message for message in caplog.messages if message.startswith("running SASRec")]
    assert began[:2] == ["running SASRec on tiny (loo, seed 1)", "running SASRec on tiny (loo, seed 1, refit)"]
    assert len(began) == 4  # ``both`` runs them here as well


@pytest.mark.parametrize("force", [False, True])
def test_a_refit_elsewhere_takes_the_epochs_that_are_known(
    tiny: Path, elsewhere: Elsewhere, caplog: pytest.LogCaptureFixture, force: bool
) -> None:
    runner("there").run(make_run("SASRec", **SMALL))
    run = make_run("SASRec", refit=True, **SMALL)
    with caplog.at_level("INFO", logger="recbole_llm"):
        caplog.clear()  # drops messages of the first run, in case another test left logging on
        (record,) = run_all([run], Runner(ResultStore("there"), force=force), elsewhere)
    assert record.status == "ok"
    began = [message.removeprefix("running SASRec on tiny ") for message in caplog.messages if "running" in message]
    assert began == [*(["(loo, seed 1)"] if force else []), "(loo, seed 1, refit)"]


def test_a_refit_whose_epochs_cannot_be_chosen_fails_with_the_reason(tiny: Path, elsewhere: Elsewhere) -> None:
    bad = {**SMALL, "learning_rate": 1e30}
    runs = [make_run("GRU4Rec", refit=True, **bad), make_run("Pop", refit=True, **SMALL)]
    records = run_all(runs, Runner(ResultStore("there")), elsewhere)
    assert [record.status for record in records] == ["failed", "ok"]
    assert "diverged" in (records[0].error or "")
    with pytest.raises(UserError, match="diverged"):
        run_all(runs[:1], Runner(ResultStore("there")), elsewhere)


def only_features(elsewhere: Elsewhere) -> Path:
    """The only feature folder elsewhere, which shows that the sent features were the ones that were read."""
    (found,) = elsewhere.place.glob("recbole_llm-*/*/dataset/tiny/semantics/*")
    return found


def test_a_source_of_answers_of_ones_own_travels(few_users: Path, elsewhere: Elsewhere) -> None:
    with StubServer(intents_from_candidates) as server:
        Path("lab.yaml").write_text(f"base_url: {server.base_url}\nmodel: lab-7b\n")
        run = make_run("LLMDMsRec", llm="lab.yaml", **{**SMALL, "epochs": 1})
        runner().make_features(run)
        asked = len(server.calls)
        (there,), (here,) = both(elsewhere, run)
        assert len(server.calls) == asked
    assert only_features(elsewhere).name.startswith("loo-lab-")
    assert there.settings == here.settings
    assert ResultStore("there").find(there.key) == there
    assert ResultStore("there").ranks_of(there).is_file()


def test_a_local_encoder_is_found_where_machines_share_it(tiny: Path, elsewhere: Elsewhere) -> None:
    shutil.copytree(minilm_folder(), "mine")
    (there,), (here,) = both(elsewhere, make_run("LLMDMsRec", encoder="mine", **SMALL))
    assert only_features(elsewhere)
    assert there.settings == here.settings


def test_a_machine_that_lacks_a_local_encoder_says_which(tiny: Path, elsewhere: Elsewhere) -> None:
    shutil.copytree(minilm_folder(), "mine")
    run = make_run("LLMDMsRec", encoder="mine", **SMALL)
    payload = pack(run, runner().make_features(run))
    shutil.rmtree("mine")
    with pytest.raises(UserError, match=rf"--encoder={Path.cwd()}/mine: .* has no such .*, and it is not sent"):
        run_job_away(run, payload)


@pytest.mark.parametrize(("model", "name"), [("DUIP", "lm"), ("SASRec", "pre_model_path")])
def test_other_local_models_keep_their_place_and_the_key(
    tiny: Path, elsewhere: Elsewhere, model: str, name: str
) -> None:
    Path("weights.gguf").write_bytes(b"some")
    run = make_run(model, **{name: "weights.gguf"})
    payload = pack(run, None)
    path = Path("weights.gguf").absolute()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere.place)
        patch.setattr("tempfile.tempdir", str(elsewhere.place))
        with payload.unpacked(run) as (moved, _):
            assert moved.settings[name] == str(path)
            assert moved.key == run.key
        path.write_bytes(b"others")
        with pytest.raises(UserError, match="hold something else"), payload.unpacked(run):
            pass
