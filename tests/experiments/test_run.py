"""From settings to a record."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recbole.data.dataset
import torch
from recbole.data.dataset import Dataset, KnowledgeBasedDataset
from recbole.trainer import Trainer

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import summarise
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import OF_READING, Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.lookup import feature_versions, find_feature
from recbole_llm.llm.endpoint import load_endpoint
from recbole_llm.registry import EXTERNAL_LIBRARY, KNOWLEDGE, reads_graph, recbole_methods
from recbole_llm.training import checkpoint
from recbole_llm.training.ranking import rank_cases
from recbole_llm.utils.files import file_sha256
from recbole_llm.utils.progress import Stopwatch
from tests.helpers import StopAt, make_run, runner, write_tiny
from tests.processes import start

# ---- the key ------------------------------------------------------------------------------------


def test_the_same_settings_have_the_same_key(tiny: Path) -> None:
    assert make_run("SRGNN").key == make_run("SRGNN").key


@pytest.mark.parametrize(
    "changes",
    [{"seed": 2}, {"learning_rate": 0.01}, {"epochs": 3}, {"mask_history": False}, {"engine": "recbole"}, {"step": 2}],
)
def test_what_can_change_a_number_changes_the_key(tiny: Path, changes: dict[str, Any]) -> None:
    assert make_run("SRGNN", **changes).key != make_run("SRGNN").key


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cpu"},
        {"eval_batch_size": 7},
        {"score_block_mib": 1},
        {"results_dir": "elsewhere"},
        {"checkpoint_dir": "elsewhere"},
        {"topk": [1]},
        {"metrics": ["Hit"]},
        {"max_cost": 3.0},
        {"load_col": {"inter": ["user_id", "item_id"]}},  # times are read all the same
    ],
)
def test_what_cannot_change_a_number_does_not(tiny: Path, changes: dict[str, Any]) -> None:
    assert make_run("SRGNN", **changes).key == make_run("SRGNN").key


def test_another_server_is_another_key_where_its_answers_are_read(tiny: Path) -> None:
    def key(address: str | None = None, **changes: Any) -> str:
        return make_run("LDMI", **{"llm": "vllm", "llm_model": "m", "llm_base_url": address} | changes).key

    own = load_endpoint("vllm", {"llm_model": "m"}).base_url
    assert key("http://a/v1") != key("http://b/v1") != key()
    assert key("http://a/v1", semantics="shuffled") != key("http://b/v1", semantics="shuffled")
    assert key("http://me:secret@a/v1/?q=1") == key("http://a/v1")
    assert key(own) == key()
    with pytest.raises(UserError, match="does not begin with http"):
        key("a/v1")
    assert key("http://a/v1", semantics="none") == key("http://b/v1", semantics="none")


@pytest.mark.parametrize(
    ("model", "name", "path"),
    [
        ("LDMI", "encoder", "models/mine"),
        ("DUIP", "lm", "models/mine"),
        ("DUIP", "lm", "models/mine/model.gguf"),
        ("S3Rec", "pre_model_path", "models/mine/weights.pth"),
    ],
)
def test_other_contents_of_a_local_model_are_another_key_wherever_it_lies(
    tiny: Path, model: str, name: str, path: str
) -> None:
    place = Path("models/mine")
    place.mkdir(parents=True)
    for file in ("model.safetensors", "model.gguf", "weights.pth"):
        (place / file).write_bytes(b"one")
    before = make_run(model, **{name: path}).key
    assert make_run(model, **{name: str(Path(path).absolute())}).key == before
    for file in ("model.safetensors", "model.gguf", "weights.pth"):
        (place / file).write_bytes(b"another")
    assert make_run(model, **{name: path}).key != before


def test_other_interactions_are_another_key(tiny: Path) -> None:
    before = make_run("SRGNN").key
    with (tiny / "tiny.inter").open("a") as stream:
        stream.write("u0\ti0\t1\t1\n")
    assert make_run("SRGNN").key != before


def test_other_item_text_is_another_key_for_models_that_read_it(tiny: Path) -> None:
    before = {model: make_run(model).key for model in ("SRGNN", "LLMDMsRec")}
    with (tiny / "tiny.item").open("a") as stream:
        stream.write("i999\tnew\tx\ty\n")
    assert make_run("SRGNN").key == before["SRGNN"]
    assert make_run("LLMDMsRec").key != before["LLMDMsRec"]


INTER = ["user_id", "item_id", "timestamp"]
GRAPH = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}


@pytest.mark.parametrize(
    ("model", "suffix", "options"),
    [
        ("FM", "user", {"load_col": {"inter": INTER, "user": ["user_id", "group"]}}),
        ("FM", "user", {"load_col": None}),
        ("BPR", "item", {"load_col": None}),
        ("BPR", "item", {"load_col": {"inter": INTER, "item": ["item_id"]}}),
        ("CKE", "kg", {"load_col": {"inter": INTER, **GRAPH}}),
        ("CKE", "link", {"load_col": {"inter": INTER, **GRAPH}}),
        ("CKE", "kg", {"load_col": None}),
        ("KSR", "kg", {"load_col": {"inter": INTER, **GRAPH}}),
        ("KSR", "ent_feature", {"additional_feat_suffix": ["ent_feature"]}),
        ("SASRec", "user_last_order.tsv", {"protocol": "session"}),
        ("SASRec", "user_last_order.tsv", {"protocol": "temporal_20"}),
    ],
)
def test_another_side_file_is_another_key_where_it_is_read(
    tiny: Path, model: str, suffix: str, options: dict[str, Any]
) -> None:
    (tiny / f"tiny.{suffix}").write_text("one")
    before = make_run(model, **options).key
    (tiny / f"tiny.{suffix}").write_text("other")
    assert make_run(model, **options).key != before


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_another_part_is_another_key(tiny: Path, part: str) -> None:
    names = ["train", "valid", "test"]
    for name in names:
        (tiny / f"tiny.{name}.inter").write_text("one")
    before = make_run("BPR", protocol="parts", benchmark_filename=names).key
    (tiny / f"tiny.{part}.inter").write_text("other")
    assert make_run("BPR", protocol="parts", benchmark_filename=names).key != before


@pytest.mark.parametrize(
    ("model", "suffix", "options"),
    [
        ("FM", "user", {}),
        ("BPR", "item", {}),
        ("CKE", "kg", {}),
        ("BPR", "kg", {"load_col": {"inter": INTER, **GRAPH}}),
        ("BPR", "link", {"load_col": None}),
        ("SASRec", "user_last_order.tsv", {"protocol": "loo"}),
    ],
)
def test_a_side_file_that_is_not_read_leaves_the_key(
    tiny: Path, model: str, suffix: str, options: dict[str, Any]
) -> None:
    before = make_run(model, **options).key
    (tiny / f"tiny.{suffix}").write_text("other")
    assert make_run(model, **options).key == before


@pytest.mark.parametrize("name", ["valid.json", "test_seed_0.json", "bundle.item"])
def test_other_published_cases_are_another_key(workspace: Path, name: str) -> None:
    folder = write_tiny(workspace / "dataset" / "bundle")
    published = folder.parent / "po4isr-bundle"
    published.mkdir()
    for file in ("valid.json", "test_seed_0.json", "test_seed_10.json"):
        (published / file).write_text("[]")
    before = {protocol: make_run("SASRec", "bundle", protocol=protocol).key for protocol in ("po4isr", "loo")}
    path = folder / name if name.endswith(".item") else published / name
    path.write_text("[1]")
    (published / "test_seed_10.json").write_text("[1]")
    assert make_run("SASRec", "bundle", protocol="po4isr").key != before["po4isr"]
    assert make_run("SASRec", "bundle", protocol="loo").key == before["loo"]


def test_a_published_draw_that_is_not_read_leaves_the_key(workspace: Path) -> None:
    published = write_tiny(workspace / "dataset" / "bundle").parent / "po4isr-bundle"
    published.mkdir()
    before = make_run("SASRec", "bundle", protocol="po4isr").key
    (published / "test_seed_10.json").write_text("[1]")
    assert make_run("SASRec", "bundle", protocol="po4isr").key == before


def test_an_ordinary_key_is_what_it_was(tiny: Path) -> None:
    """It depends on the settings and the ``.inter`` file's hash, and with features on ``.item`` and their versions."""
    run = make_run("SRGNN")
    inter, item = (file_sha256(tiny / f"tiny.{suffix}") for suffix in ("inter", "item"))
    assert run.key == run.settings.key(files={"inter": inter}, features={})
    run = make_run("LLMDMsRec")
    features = feature_versions(run.settings.method.features)
    assert run.key == run.settings.key(files={"inter": inter, "item": item}, features=features)


@pytest.mark.parametrize(("protocol", "changed"), [("loo", False), ("user_split", True)])
def test_a_refit_that_trains_other_rows_than_before_is_another_run(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, changed: bool
) -> None:
    now = make_run("Pop", protocol=protocol, refit=True).key
    monkeypatch.setattr("recbole_llm.experiments.run.SEVERAL_TARGETS", ())
    assert (make_run("Pop", protocol=protocol, refit=True).key != now) is changed


def test_another_version_of_a_feature_is_another_key(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {model: make_run(model).key for model in ("SRGNN", "LLMDMsRec")}
    monkeypatch.setattr(type(find_feature("intent")), "version", 99)
    assert make_run("SRGNN").key == before["SRGNN"]
    assert make_run("LLMDMsRec").key != before["LLMDMsRec"]


def print_key(model: str) -> None:
    sys.stdout.write(make_run(model).key)


def print_files(model: str) -> None:
    json.dump(make_run(model).files, sys.stdout)


def test_an_edited_class_from_outside_has_another_key(tiny: Path) -> None:
    """Asked for by a process each, as while a model is worked at."""
    folder = tiny.parents[1] / "own_code"
    folder.mkdir()

    def key(file: str, text: str) -> str:
        (folder / file).write_text(text)
        process = start(print_key, "own_code.model:Mine")
        found, messages = process.communicate()
        assert process.returncode == 0, messages
        return found

    base = "from recbole.model.sequential_recommender import SRGNN\nclass Base(SRGNN):\n  pass\n"
    (folder / "base.py").write_text(base)
    first = key("model.py", "from own_code.base import Base\nclass Mine(Base):\n  pass\n")
    assert key("other.py", "is_read = False\n") == first
    second = key("model.py", "from own_code.base import Base\nclass Mine(Base):\n  wide = True\n")
    assert second != first
    assert key("base.py", base + "  deep = True\n") not in (first, second)


def test_a_class_from_a_module_that_is_named_as_a_file_of_the_dataset_keeps_both(tiny: Path) -> None:
    model = "from recbole.model.sequential_recommender import SRGNN\nclass Mine(SRGNN):\n  pass\n"
    Path("inter.py").write_text(model)
    process = start(print_files, "inter:Mine")
    found, messages = process.communicate()
    assert process.returncode == 0, messages
    assert json.loads(found) == {**make_run("SRGNN").files, "code.inter": file_sha256(Path("inter.py"))}


def test_an_unknown_dataset_is_an_error_with_the_nearest_name(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"--dataset=tinny.*Did you mean tiny\?"):
        make_run("SRGNN", "tinny")


# ---- the record ---------------------------------------------------------------------------------


def test_the_record_says_what_was_run_on_what_and_how_long(tiny: Path) -> None:
    run = make_run("GRU4Rec")
    record = runner().run(run)
    assert (record.key, record.status, record.model, record.dataset, record.protocol) == (
        run.key, "ok", "GRU4Rec", "tiny", "loo",
    )  # fmt: skip
    assert (record.seed, record.semantics, record.features) == (1, "none", None)
    assert record.data is not None
    assert record.data.sha256 == file_sha256(tiny / "tiny.inter")
    assert record.data.test_cases == record.data.valid_cases == 80
    assert record.settings["epochs"] == 2
    assert record.origin["epochs"] == "command line"
    assert {"data", "build", "train", "validate", "evaluate", "total"} <= set(record.seconds)
    assert record.epochs == len(record.curve) == 2
    assert record.best_epoch in (1, 2)
    assert (record.parameters or 0) > 0
    assert record.versions["recbole"]
    assert record.hardware["cores"] >= 1
    assert record.memory_mib["host"] > 0


def test_the_record_does_not_hold_the_password_of_an_address(tiny: Path) -> None:
    run = make_run("LLMDMsRec", llm="vllm", llm_base_url="http://me:secret@host:8000/v1")
    record = run.blank_record()
    assert record.settings["llm_base_url"] == "http://***@host:8000/v1"
    assert "secret" not in record.model_dump_json()
    assert run.settings["llm_base_url"] == "http://me:secret@host:8000/v1"  # requests still use the password


def test_the_record_is_in_the_store_and_its_ranks_give_its_metrics(tiny: Path) -> None:
    record = runner().run(make_run("GRU4Rec"))
    store = ResultStore("results")
    assert store.find(record.key) == record
    path = store.ranks_path(record)
    assert path.name == record.ranks_file
    found = summarise(Ranks.load(path), ["Hit", "NDCG", "MRR", "Recall"], [5, 10, 20])
    assert found == {name: metric.value for name, metric in record.metrics.items()}


def test_a_record_with_features_says_where_they_came_from(featured: Path) -> None:
    run = make_run("LLMDMsRec", epochs=1)
    record = runner().run(run)
    assert record.features is not None
    assert (record.features.llm, record.features.encoder) == ("offline", "minilm-mean-128")
    assert record.semantics == record.source == "offline"
    assert record.stage_one == runner().candidate_run(run).key
    assert record.features.manifest_sha256 == file_sha256(Path(record.features.folder or "") / "manifest.json")


def test_a_finished_cell_is_not_run_again(tiny: Path) -> None:
    run = make_run("Pop")
    first = runner().run(run)
    path = ResultStore("results").path(first)
    changed = path.stat().st_mtime_ns
    assert runner().run(run) == first
    assert path.stat().st_mtime_ns == changed


def test_force_runs_a_finished_cell_again_with_equal_numbers(tiny: Path) -> None:
    run = make_run("GRU4Rec")
    first = runner().run(run)
    second = runner(force=True).run(run)
    assert second.seconds != first.seconds
    assert second.metrics == first.metrics


def test_force_runs_a_cell_once_in_a_command(tiny: Path) -> None:
    run, forced = make_run("Pop"), runner(force=True)
    assert forced.run(run) is not None
    assert forced.finished(run) is not None


def test_a_failed_record_does_not_count_as_finished(tiny: Path) -> None:
    run, runs = make_run("Pop"), runner()
    record = run.blank_record()
    record.status = "failed"
    runs.store.put(record)
    assert runs.finished(run) is None
    assert runs.run(run).status == "ok"


def test_the_reference_engine_keeps_recboles_own_metrics_beside_ours(tiny: Path) -> None:
    record = runner().run(make_run("GRU4Rec", engine="recbole", mask_history=False))
    assert record.recbole_metrics is not None
    for name, value in record.recbole_metrics.items():
        assert record.metric(name) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("engine", ["fast", "recbole"])
def test_a_model_that_ranks_nothing_is_refused(tiny: Path, engine: str) -> None:
    with pytest.raises(UserError, match="predicts labels, not rankings"):
        runner().run(make_run("XGBoost", engine=engine))


# ---- trained models -----------------------------------------------------------------------------


def test_a_trained_model_has_the_best_weights(tiny: Path) -> None:
    run, runs = make_run("GRU4Rec"), runner()
    record = runs.run(run)
    prepared = runs.trained(run)
    loader = prepared.eval_loader("test")
    scores = torch.cat([prepared.model.full_sort_predict(batch) for _, batch in loader])
    assert bool(torch.isfinite(scores).all())
    assert not prepared.model.training
    again = summarise(rank_cases(prepared.model, loader, True), ["NDCG"], [10])
    assert again["ndcg@10"] == record.metric("ndcg@10")


def test_a_lost_checkpoint_is_trained_again(tiny: Path) -> None:
    run, runs = make_run("GRU4Rec"), runner()
    record = runs.run(run)
    (run.folder / "best.pt").unlink()
    runs.trained(run)
    assert (run.folder / "best.pt").is_file()
    again = ResultStore("results").find(run.key)
    assert again is not None
    assert again.metrics == record.metrics


def weights(prepared: Prepared) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in prepared.model.state_dict().items()}


@pytest.mark.parametrize(("results", "force"), [("results", True), ("others", False)])
def test_a_trained_model_is_that_of_the_record_while_another_training_is_unfinished(
    tiny: Path, results: str, force: bool
) -> None:
    """The unfinished training runs with ``--force``, or writes to another results folder."""
    run = make_run("GRU4Rec", epochs=4)
    first = runner().run(run)
    assert (first.best_epoch or 0) > 1
    served = weights(runner().trained(run))
    with pytest.raises(KeyboardInterrupt):
        Runner(ResultStore(results), StopAt("epoch 2"), force=force).run(run)
    assert weights(runner().trained(run)) == served
    assert ResultStore("results").find(run.key) == first


def test_an_unfinished_training_by_recbole_s_loop_leaves_the_weights_of_the_finished_one(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("GRU4Rec", epochs=3, engine="recbole")
    runner().run(run)
    served = (run.folder / "best.pt").read_bytes()
    save = Trainer._save_checkpoint

    def save_and_stop(self: Trainer, *arguments: Any, **named: Any) -> None:
        save(self, *arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        runner(force=True).run(run)
    assert (run.folder / "best.pt").read_bytes() == served


def test_a_forced_training_that_is_stopped_spoils_no_interrupted_one(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights that the older ``last.pt`` refers to are gone, so training starts from the beginning."""
    settings: dict[str, Any] = {"epochs": 25, "learning_rate": 0.05}
    whole = runner("whole").run(make_run("GRU4Rec", checkpoint_dir="whole", **settings))
    run, best = make_run("GRU4Rec", **settings), whole.best_epoch or 0
    assert 1 < best < 25 - 2
    with monkeypatch.context() as patch:
        patch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            Runner(ResultStore("results"), StopAt(f"epoch {best + 2}")).run(run)
    assert (run.folder / "last.pt").is_file()
    with pytest.raises(KeyboardInterrupt):
        Runner(ResultStore("results"), StopAt("epoch 2"), force=True).run(run)
    assert runner().run(run).metrics == whole.metrics


def without_best_weights(folder: Path) -> None:
    (folder / "best_so_far.pt").unlink()


def of_an_older_version(folder: Path) -> None:
    """Make the checkpoint one with a single random state instead of one per process."""
    state = checkpoint.load(folder / "last.pt", "cpu")
    checkpoint.save(folder / "last.pt", {**state, "random": state["random"][0]["generators"]})


def of_one_item_more(folder: Path) -> None:
    """Make the checkpoint one that was trained when items of rows without a user still counted."""
    state = checkpoint.load(folder / "last.pt", "cpu")
    weights = state["model"]["state_dict"]
    weights["item_embedding.weight"] = torch.cat([weights["item_embedding.weight"], torch.zeros(1, 64)])
    checkpoint.save(folder / "last.pt", state)


def of_one_item_more_at_its_end(folder: Path) -> None:
    """The same, but stopped after the last epoch, so that only the best weights are stored."""
    of_one_item_more(folder)
    state = checkpoint.load(folder / "last.pt", "cpu")
    best = checkpoint.load(folder / "best_so_far.pt", "cpu")
    checkpoint.save(folder / "best_so_far.pt", {**best, **state.pop("model")})
    checkpoint.save(folder / "last.pt", {**state, "next_epoch": 4})


@pytest.mark.parametrize(
    "spoil", [without_best_weights, of_an_older_version, of_one_item_more, of_one_item_more_at_its_end]
)
def test_training_restarts_if_a_checkpoint_is_unusable(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    whole = runner("whole").run(make_run("GRU4Rec", checkpoint_dir="whole", epochs=4))
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    run = make_run("GRU4Rec", epochs=4)
    with pytest.raises(KeyboardInterrupt):
        Runner(ResultStore("results"), StopAt("epoch 3")).run(run)
    spoil(run.folder)
    assert runner().run(run).metrics == whole.metrics
    assert re.search(r"last\.pt .*; training begins anew", caplog.text)


# ---- the clock ----------------------------------------------------------------------------------


def test_an_inner_phase_does_not_count_for_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 100.0))
    monkeypatch.setattr("recbole_llm.utils.progress.time.monotonic", lambda: float(next(clock)))
    watch = Stopwatch()  # 0
    with watch("outer"), watch("inner"):  # 1, 2
        pass  # 3, 4
    assert watch.seconds == {"inner": 1.0, "outer": 2.0}
    assert watch.report() == {"inner": 1.0, "outer": 2.0, "total": 5.0}


def test_phases_of_one_name_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 100.0))
    monkeypatch.setattr("recbole_llm.utils.progress.time.monotonic", lambda: float(next(clock)))
    watch = Stopwatch()
    for _ in range(3):
        with watch("phase"):
            pass
    assert watch.seconds == {"phase": 3.0}


def test_a_phase_that_fails_is_timed_all_the_same() -> None:
    watch = Stopwatch()
    with pytest.raises(RuntimeError), watch("phase"):
        raise RuntimeError
    assert watch.seconds["phase"] >= 0


def test_the_models_that_read_a_graph_are_those_whose_dataset_does_in_recbole() -> None:
    models = [row for row in recbole_methods().values() if row.kind != EXTERNAL_LIBRARY]
    by_kind = {KNOWLEDGE: KnowledgeBasedDataset}
    of_its_own = {row.name: getattr(recbole.data.dataset, f"{row.name}Dataset", None) for row in models}
    kinds = {row.name: of_its_own[row.name] or by_kind.get(row.kind, Dataset) for row in models}
    reading = {name for name, kind in kinds.items() if issubclass(kind, KnowledgeBasedDataset)}
    assert len(reading) > 2
    assert {row.name for row in models if reads_graph(row)} == reading


def test_a_run_has_a_readable_title(tiny: Path) -> None:
    assert make_run("SRGNN", seed=3).title() == "SRGNN on tiny (loo, seed 3)"
    assert make_run("LLMDMsRec", semantics="shuffled").title() == "LLMDMsRec on tiny (loo, seed 1, shuffled)"


def test_cells_are_made_of_settings_alone(tiny: Path) -> None:
    run = make_run("SRGNN")
    assert Run.of(run.settings).key == run.key
    assert isinstance(Runner(ResultStore("results")).store, ResultStore)


def test_a_record_says_nothing_of_the_folders_of_its_machine(tiny: Path, tmp_path: Path) -> None:
    run = make_run("BPR", data_path=str(tiny.parent), results_dir=str(tmp_path / "mine"))
    assert run.settings["results_dir"] == str(tmp_path / "mine")
    assert str(tmp_path) not in run.blank_record().model_dump_json()


# ---- records of older versions ---------------------------------------------------------------------


def as_if_older(record: Record, **changes: Any) -> None:
    """Store a record as versions wrote it that did not check repeated rows, time units and titles."""
    for name in OF_READING:
        record.data.reading.pop(name, None)
    ResultStore("results").put(record.model_copy(update=changes))


@pytest.mark.parametrize("fault", ["rows given twice", "milliseconds"])
def test_a_record_of_rows_that_are_read_otherwise_today_is_made_again(
    tiny: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    header, *lines = (tiny / "tiny.inter").read_text().splitlines()
    if fault == "milliseconds":
        lines = [line + "000" for line in lines]
    else:
        lines += lines[:9]
    (tiny / "tiny.inter").write_text("\n".join([header, *lines]) + "\n")
    run = make_run("Pop")
    as_if_older(runner().run(run))
    assert runner().finished(run) is None
    assert "has a record from before repeated rows and the unit of times were looked at" in caplog.text
    assert runner().run(run).data.reading["rows_read"] == len(lines)
    assert runner().finished(run) is not None


@pytest.mark.parametrize(("counted", "sessions", "again"), [
    ("items", None, True), ("users", None, True), ("items", {"by": "day"}, True), ("users", {"by": "day"}, False),
])  # fmt: skip
def test_a_record_that_counted_what_stands_in_no_whole_row_is_made_again(
    tiny: Path, counted: str, sessions: dict[str, str] | None, again: bool
) -> None:
    with (tiny / "tiny.inter").open("a") as file:
        file.write("only\t\t1\t881250949\n\tonly\t1\t881250949\n")
    run = make_run("Pop", sessions=sessions, protocol="session" if sessions else "loo")
    record = runner().run(run)
    assert runner().finished(run) is not None
    record.data.statistics[counted] += 1
    as_if_older(record)
    assert (runner().finished(run) is None) == again


def test_a_record_of_rows_whose_empty_ids_were_ids_is_made_again(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (tiny / "tiny.inter").open("a") as file:
        file.write('""\ti1\t1\t881250949\n')
    run = make_run("Pop")
    record = runner().run(run)
    assert record.data.reading["rows_without_user_or_item"] == 1
    assert runner().finished(run) is not None
    record.data.reading["rows_without_user_or_item"] = 0
    as_if_older(record)
    assert runner().finished(run) is None
    assert "has a record from before ids that are quoted and empty were missing ids" in caplog.text


def test_a_record_of_plain_rows_counts_whoever_wrote_it(tiny: Path) -> None:
    run = make_run("Pop")
    as_if_older(runner().run(run))
    assert runner().finished(run) is not None


def test_a_record_of_items_without_titles_is_made_again(tiny: Path) -> None:
    run = make_run("SASRecText", epochs=1)
    record = runner().run(run)
    assert runner().finished(run) is not None
    record.features.coverage["itemtext"] = 0.0
    as_if_older(record)
    assert runner().finished(run) is None


@pytest.mark.parametrize(("metrics", "known"), [(["ILDCategories"], True), (["ItemCoverage"], False)])
def test_a_record_has_the_hash_of_titles_that_only_metrics_of_lists_read(
    tiny: Path, metrics: list[str], known: bool
) -> None:
    record = runner().run(make_run("Pop", list_metrics=metrics))
    assert record.data is not None
    assert record.data.files["inter"] == file_sha256(tiny / "tiny.inter")
    assert record.data.files.get("shown.item") == (file_sha256(tiny / "tiny.item") if known else None)
    assert record.key == make_run("Pop").key
