"""Submitted records: what is refused, each case with one message and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm import api
from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.record import DatasetFacts, Record, SemanticFacts
from recbole_llm.experiments.rerun import rerun_command
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.submission import Entry, Submission, read_submission, settings_key
from recbole_llm.experiments.verify import verify
from recbole_llm.llm.endpoint import load_endpoint
from recbole_llm.settings.layers import parse_assignment
from tests.helpers import Cli, make_featured, make_run

KEPT = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with finished runs: one reads semantic files, two are seeds of the same row."""
    place, here = make_featured(tmp_path_factory.mktemp("submission")), Path.cwd()
    os.chdir(place)
    try:
        api.run("Pop", "tiny", seeds=2, results_dir="mine")
        api.run("LDMI", "tiny", epochs=1, results_dir="mine")
    finally:
        os.chdir(here)
    return place


@pytest.fixture
def finished(workspace: Path, _finished: Path) -> Path:
    """A copy of the workspace with finished runs; returns the results folder."""
    shutil.copytree(_finished, workspace, dirs_exist_ok=True)
    return Path("mine")


def record_of(folder: Path, model: str) -> Path:
    return sorted(folder.glob(f"*/*/{model}-*.json"))[0]


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def test_what_holds_is_written_as_one_folder(finished: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("submit", "mine", "--output=handed") == 0
    said = capsys.readouterr().out
    assert "3 records: every metric follows from the ranks" in said
    assert "settings give the key: 3" in said
    assert "answers have their hashes: 1 of 1" in said
    again = read_submission(Path("handed"))
    assert {entry.record.key for entry in again.entries} == {record.key for record in ResultStore(finished)}
    assert len(json.loads(Path("handed/submission.json").read_text())["files"]) == 6


def _metric(values: dict[str, Any]) -> None:
    values["metrics"]["ndcg@10"]["value"] += 1e-4


def _setting(values: dict[str, Any]) -> None:
    values["settings"]["learning_rate"] = 0.5


def _search(values: dict[str, Any]) -> None:
    values["trials"] = 50


def _answers(values: dict[str, Any]) -> None:
    values["features"]["manifest_sha256"] = "0" * 64


TAMPERED = {
    "metric": (_metric, "ndcg@10 is"),
    "settings": (_setting, "its settings give the key"),
    "search": (_search, "its settings give the key"),
    "answers": (_answers, "the run read other answers"),
    "no answers' hash": (lambda v: v["features"].update(manifest_sha256=None), "the answers have no hash"),
    "missing field": (lambda v: v.pop("hardware"), "the field hardware is missing"),
    "wrong type": (lambda v: v.update(seed="many"), "seed"),
    "no files": (lambda v: v["data"].update(files={}), "data.files is missing"),
    "no version": (lambda v: v["versions"].pop("torch"), "versions does not name torch"),
    "later schema": (lambda v: v.update(schema_version=99), "later version"),
    "test cases": (lambda v: v["data"].update(test_cases=5), "data.test_cases is 5"),
    "seed": (lambda v: v.update(seed=7), "seed is 7"),
    "path as ranks": (lambda v: v.update(ranks_file="../../x.npz"), "no plain name"),
    "path as dataset": (lambda v: v.update(dataset="../tiny"), "no plain name"),
    "other place": (lambda v: v.update(dataset="other"), "lies in other/"),
    "nan": (lambda v: v["metrics"]["ndcg@10"].update(value=float("nan")), "is no record: Out of range float"),
    "infinite": (lambda v: v["features"].update(price=float("inf")), "is no record: Out of range float"),
    "half a letter": (lambda v: v.update(notes=["\ud800"]), "is no record: 'utf-8' codec can't encode"),
    "list for a name": (lambda v: v["settings"].update(backbone=[1]), "backbone"),
    "large cut": (lambda v: v["metrics"].update({"ndcg@99999999": {"value": 0.0}}), "no metric of ranks"),
    "metric in capitals": (lambda v: v["metrics"].update({"NDCG@10": v["metrics"]["ndcg@10"]}), "no metric of ranks"),
    "cut of many digits": (lambda v: v["metrics"].update({f"ndcg@{'9' * 5000}": {"value": 0.0}}), "with a cut-off"),
    "long model": (lambda v: v.update(model="字" * 60), "too long"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_changed_record_is_refused(what: str, finished: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    edit, message = TAMPERED[what]
    change(record_of(finished, "LDMI"), edit)
    assert cli("submit", "mine", "--output=handed") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("error:") == 1 and "Traceback" not in said
    assert not Path("handed").exists()


def test_other_ranks_are_refused(finished: Path) -> None:
    path = record_of(finished, "Pop")
    file = path.with_suffix(".ranks.npz")
    ranks = Ranks.load(file)
    replace(ranks, higher=ranks.higher // 2).save(file)
    with pytest.raises(UserError, match="and the ranks in"):
        api.submit(finished, output="handed")


def test_missing_ranks_are_refused(finished: Path) -> None:
    record_of(finished, "Pop").with_suffix(".ranks.npz").unlink()
    with pytest.raises(UserError, match=r"ranks\.npz is missing"):
        api.submit(finished, output="handed")


def test_ranks_of_impossible_shape_are_refused(finished: Path) -> None:
    file = record_of(finished, "Pop").with_suffix(".ranks.npz")
    ranks = Ranks.load(file)
    replace(ranks, offsets=ranks.offsets * 1000).save(file)
    with pytest.raises(UserError, match="offsets do not divide"):
        api.submit(finished, output="handed")


@pytest.mark.parametrize("name", ["pool", "person", "cold_user"])
def test_ranks_with_one_value_too_many_are_refused(name: str, finished: Path) -> None:
    file = record_of(finished, "Pop").with_suffix(".ranks.npz")
    ranks = Ranks.load(file)
    replace(ranks, **{name: np.zeros(len(ranks) + 1, dtype=np.int64)}).save(file)
    with pytest.raises(UserError, match=rf"not a file of ranks: {name} has {len(ranks) + 1} values"):
        api.submit(finished, output="handed")


def test_ranks_of_a_single_number_are_refused(finished: Path) -> None:
    file = record_of(finished, "Pop").with_suffix(".ranks.npz")
    replace(Ranks.load(file), user=np.array(3)).save(file)
    with pytest.raises(UserError, match="not a file of ranks: user is no list of whole numbers"):
        api.submit(finished, output="handed")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\x00"])
def test_a_file_that_is_no_record_is_refused(text: str, finished: Path) -> None:
    record_of(finished, "Pop").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is no record"):
        api.submit(finished, output="handed")


@pytest.mark.parametrize("version", [float("inf"), [3], {}, "three"])
def test_a_schema_that_is_no_number_is_refused(version: Any, finished: Path) -> None:
    path = record_of(finished, "Pop")
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(UserError, match=r"Pop.*\.json(: the field schema_version is missing| is no record)"):
        api.submit(finished, output="handed")


def test_a_link_is_not_followed(finished: Path) -> None:
    path = record_of(finished, "Pop")
    path.rename("elsewhere.json")
    path.symlink_to(Path("elsewhere.json").resolve())
    with pytest.raises(UserError, match="links are not followed"):
        api.submit(finished, output="handed")


def test_changed_semantic_files_are_refused(finished: Path) -> None:
    (record,) = [record for record in ResultStore(finished) if record.model == "LDMI"]
    assert record.features is not None and record.features.folder is not None
    folder = Path(record.features.folder)
    with (folder / "tiny.text").open("a", encoding="utf-8") as stream:
        stream.write("999\tanother answer\n")
    with pytest.raises(UserError, match="the answers were changed"):
        api.submit(finished, output="handed")


def test_semantic_files_that_are_not_here_are_said_to_be_unchecked(finished: Path) -> None:
    assert "answers have their hashes: 0 of 1" in api.submit(finished, output="handed", dataset_dir="nowhere")


@pytest.mark.parametrize("what", ["changed", "gone", "more"])
def test_a_submission_that_was_changed_later_is_refused(what: str, finished: Path) -> None:
    api.submit(finished, output="handed")
    path = record_of(Path("handed"), "Pop")
    if what == "changed":
        change(path, lambda values: values.update(notes=["better than it was"]))
    elif what == "gone":
        path.unlink()
    else:
        (path.parent / "more.txt").write_text("more")
    with pytest.raises(UserError, match=r"changed since|is missing|is not in submission\.json"):
        read_submission(Path("handed"))


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("SASRec", {"init": "vectors"}),
        ("EIMF", {"init": "vectors"}),
        ("GRU4RecF", {"selected_features": ["text_code"]}),
        ("GRU4RecF", {"selected_features": ["text_code"], "init": "vectors"}),
        ("LDMI", {"llm": "elsewhere/lab.yaml"}),
        ("LDMI", {"encoder": "elsewhere"}),
        ("DUIP", {"lm": "elsewhere", "encoder": "elsewhere"}),
        ("S3Rec", {"train_stage": "finetune", "pre_model_path": "elsewhere/config.json"}),
        ("LDMI", {"llm": "vllm", "llm_model": "m", "llm_base_url": "http://a/v1"}),
    ],
)
def test_what_a_record_keeps_of_a_run_gives_its_key(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, model: str, changes: dict[str, Any]
) -> None:
    """Includes paths outside the working folder, which records do not keep."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "config.json").write_text("{}")
    (elsewhere / "lab.yaml").write_text("base_url: http://lab/v1\nmodel: m\n")
    given = {k: str(v).replace("elsewhere", str(elsewhere)) if "elsewhere" in str(v) else v for k, v in changes.items()}
    run = make_run(model, **given)
    record = run.blank_record()
    if record.semantics == "llm":
        server = load_endpoint(given["llm"], {"llm_base_url": given.get("llm_base_url")}).server
        record.features = SemanticFacts(llm="m", server=server)
    record = Record.model_validate_json(record.model_dump_json())
    assert settings_key(record, DatasetFacts(name="tiny", sha256="", files=run.files)) == run.key
    assert str(elsewhere) not in record.model_dump_json()


def test_a_row_is_run_again(finished: Path) -> None:
    said = api.submit(finished, verify=True, output="handed")
    assert "run again: Pop on tiny (loo, seed" in said and "every metric is the same" in said


def test_a_row_with_other_cut_offs_is_run_again(tiny: Path) -> None:
    api.run("Pop", "tiny", topk=[3, 50], metrics=["NDCG", "GAUC"], valid_metric="NDCG@3", quiet=True)
    assert "every metric is the same" in api.submit("results", verify=True, output="handed")


def test_a_row_with_a_metric_that_its_settings_do_not_name_is_run_again(finished: Path) -> None:
    for path in finished.glob("*/*/Pop-*.json"):
        ranks = Ranks.load(path.with_suffix(".ranks.npz"))
        value = float(per_case(ranks, "map@7").mean())
        change(path, lambda values, value=value: values["metrics"].update({"map@7": {"value": value}}))
    assert "every metric is the same" in api.submit(finished, verify=True, output="handed")


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("S3Rec", {"train_stage": "finetune", "pre_model_path": "weights.pth"}),
        ("NAIS", {"pretrain_path": "weights.pth"}),
        ("NeuMF", {"use_pretrain": True, "mf_pretrain_path": "weights.pth"}),
        ("NeuMF", {"use_pretrain": True, "mlp_pretrain_path": "weights.pth"}),
        ("KD_DAGFM", {"phase": "finetuning", "warm_up": "weights.pth"}),
    ],
)
def test_a_row_that_would_load_weights_from_a_file_is_not_run_again(
    tiny: Path, model: str, changes: dict[str, Any]
) -> None:
    """Older versions of torch run the code in a file of weights."""
    entry = Entry(make_run(model, **changes).blank_record(), Path("ranks.npz"), 3, True, None)
    with pytest.raises(UserError, match="no row can be run again here"):
        verify(Submission("theirs", [entry]), Path("dataset"))


def test_a_page_whose_name_is_too_long_for_a_file_is_refused(finished: Path) -> None:
    path = record_of(finished, "Pop")
    place = finished / ("d" * 120) / ("p" * 120)
    place.mkdir(parents=True)
    moved = place / path.name
    path.with_suffix(".ranks.npz").rename(moved.with_suffix(".ranks.npz"))
    path.rename(moved)
    names = {"dataset": place.parent.name, "protocol": place.name}
    change(moved, lambda values: values.update(names))
    with pytest.raises(UserError, match="too long"):
        api.submit(finished, output="handed")


def test_a_row_that_comes_out_otherwise_is_refused(finished: Path) -> None:
    """Forged ranks with matching metrics: only a rerun can detect them."""
    for path in finished.glob("*/*/Pop-*.json"):
        file = path.with_suffix(".ranks.npz")
        forged = replace(Ranks.load(file), higher=Ranks.load(file).higher // 4)
        forged.save(file)

        def better(values: dict[str, Any], ranks: Ranks = forged) -> None:
            for name, metric in values["metrics"].items():
                metric["value"] = float(per_case(ranks, name).mean())

        change(path, better)
    api.submit(finished, output="unverified")
    with pytest.raises(UserError, match="further apart than its standard error"):
        api.submit(finished, verify=True, output="handed")
    assert not Path("handed").exists()


def test_kept_records_hold() -> None:
    folders = [path for path in sorted(KEPT.iterdir()) if path.is_dir()]
    found = [read_submission(path, Path("nowhere")) for path in folders]
    assert sum(len(each.entries) for each in found) > 300


def test_old_records_can_be_submitted(tmp_path: Path) -> None:
    """Old records do not name the dataset's files, which only today's records must do."""
    api.submit(KEPT / "backbones", output=tmp_path / "handed")
    assert len(read_submission(tmp_path / "handed").entries) == 10


def test_the_command_of_a_kept_record_makes_its_key_again(workspace: Path) -> None:
    """The command states the values of defaults that have changed since."""
    records = [record for record in ResultStore(KEPT / "session-graph") if not record.tuned]
    assert len(records) > 20
    for record in records:
        words = rerun_command([record]).replace("'", "").split()[3:]
        given = dict(parse_assignment(word[2:]) for word in words)
        model, dataset, protocol, seeds = (given.pop(name) for name in ("model", "dataset", "protocol", "seeds"))
        (run,) = expand(model, dataset, protocol, seeds, None, (), given)
        assert run.key == record.key
