"""Stage I of LLM-DMsRec: candidate items from a pretrained model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.data.atomic import read_table, split_ids
from recbole_llm.errors import UserError
from recbole_llm.experiments.candidate_model import WHOLE, best_items
from recbole_llm.experiments.leak_report import examine_leaks
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.store import ResultStore
from recbole_llm.utils.progress import Stopwatch
from tests.features.asking import by_key, contents, only_folder, plant
from tests.helpers import blank_ids, make_run, prepare, runner


def test_there_is_a_line_for_every_row_that_is_predicted_at(featured: Path) -> None:
    dataset = prepare("LLMDMsRec", epochs=1).dataset
    table, split = dataset.table, dataset.split
    rows = np.concatenate([split.train_targets, split.valid.end, split.test.end])
    users = table.user[rows]
    wanted = set(zip(table.user_tokens[users].tolist(), (rows - table.offsets[users]).tolist(), strict=True))
    assert set(by_key(read_table(only_folder("offline") / "tiny.candidates"))) == wanted


@pytest.mark.parametrize("name", ["SRGNN", "GCSAN", "TAGNN", "GCEGNN"])
def test_candidates_are_the_models_best_items_in_order(featured: Path, name: str) -> None:
    maker = runner()
    stage_one = maker.candidate_run(make_run("LLMDMsRec", epochs=1, stage_one_model=name))
    trained = maker.trained(stage_one)
    dataset, model = trained.dataset, trained.model
    features = prepare("LLMDMsRec", epochs=1, stage_one_model=name, backbone=name).dataset.semantics
    offered = by_key(read_table(features.folder.file("candidates")))
    batch = trained.eval_loader("test").batch(np.arange(len(dataset.split.test)))
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
    scores[:, 0] = -torch.inf
    for user, end, line in zip(dataset.split.test.user, dataset.split.test.end, scores, strict=True):
        key = (str(dataset.table.user_tokens[user]), int(end - dataset.table.offsets[user]))
        names = offered[key][0].split()
        ids = [dataset.table.item_tokens.tolist().index(name) for name in names]
        found = line[ids]
        assert bool((found.diff() <= 1e-6).all())
        assert float(found.min()) >= float(line.topk(len(ids)).values.min()) - 1e-6


def test_the_sessions_own_items_stay_and_the_padding_never_comes(featured: Path) -> None:
    dataset = prepare("LLMDMsRec", epochs=1).dataset
    table = dataset.table
    for (user, position), (line, _) in by_key(read_table(only_folder("offline") / "tiny.candidates")).items():
        first = int(table.offsets[table.user_tokens.tolist().index(user)])
        own = {str(table.item_tokens[item]) for item in table.item[first : first + position]}
        assert own <= set(line.split())  # 48 items, 50 asked for: all of them are candidates
        assert "[PAD]" not in line.split()


def test_as_many_as_asked_for_and_each_once(featured: Path) -> None:
    folder = prepare("LLMDMsRec", epochs=1, n_candidates=7).dataset.semantics.folder
    lines = [line.split() for line in read_table(folder.file("candidates"))["items"]]
    assert all(len(line) == len(set(line)) == 7 for line in lines)


def test_the_manifest_says_how_often_the_target_is_among_them(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1, n_candidates=7)
    table, split = prepared.dataset.table, prepared.dataset.split
    folder = prepared.dataset.semantics.folder
    offered = by_key(read_table(folder.file("candidates")))
    hits = []
    for user, row in zip(split.test.user, split.test.end, strict=True):
        key = (str(table.user_tokens[user]), int(row - table.offsets[user]))
        hits.append(str(table.item_tokens[table.item[row]]) in offered[key][0].split())
    stated = json.loads((folder.path / "manifest.json").read_text())["features"]["candidates"]
    assert stated["target_among_candidates"]["test"] == round(float(np.mean(hits)), 4)
    assert 0 < np.mean(hits) < 1


@pytest.mark.parametrize(("from_the_end", "name"), [(1, "test"), (2, "validation")])
def test_another_item_to_predict_changes_no_candidates_before_it(featured: Path, from_the_end: int, name: str) -> None:
    """The changed item is only in the history of the user's later interactions."""
    user = plant(Path("dataset/tiny/tiny.inter"), from_the_end)
    old = only_folder("offline")
    dataset = prepare("LLMDMsRec", epochs=1).dataset
    new = dataset.semantics.folder.path
    assert new != old
    before, after = (by_key(read_table(path / "tiny.candidates")) for path in (old, new))
    number = dataset.table.user_tokens.tolist().index(user)
    last = int(dataset.table.offsets[number + 1] - dataset.table.offsets[number]) - 1
    changed = {key for key in before if before[key] != after[key]}
    assert before.keys() == after.keys()
    assert changed == ({(user, last)} if from_the_end == 2 else set())
    if from_the_end == 1:
        assert contents(new) == contents(old)


# ---- folds --------------------------------------------------------------------------------------


@pytest.fixture
def folded(featured: Path) -> Prepared:
    """The model with candidates from three folds."""
    return prepare("LLMDMsRec", epochs=1, n_candidates=7, candidate_folds=3)


def lists_of(prepared: Prepared) -> dict[int, list[str]]:
    """Candidates, keyed by the row that they predict."""
    table = prepared.dataset.table
    users = {token: number for number, token in enumerate(table.user_tokens.tolist())}
    lines = by_key(read_table(prepared.dataset.semantics.folder.file("candidates")))
    return {int(table.offsets[users[user]]) + position: line.split() for (user, position), (line, _) in lines.items()}


def test_training_candidates_come_from_models_that_have_not_seen_the_user(folded: Prepared) -> None:
    table, split = folded.dataset.table, folded.dataset.split
    maker, found = runner(), lists_of(folded)
    stage_one = maker.candidate_model(make_run("LLMDMsRec", epochs=1, candidate_folds=3), Stopwatch())
    assert stage_one.untrained() == 0
    held_out = np.unique(np.concatenate([split.valid.end, split.test.end]))
    names = np.asarray(table.item_tokens)
    seen = set()
    for fold, (fold_runner, run) in stage_one._models.items():
        trained = fold_runner.trained(run)
        users = set(table.user[trained.dataset.split.train_rows].tolist())
        if fold == WHOLE:
            rows = held_out
        else:
            rows = np.array([row for row in split.train_targets if int(table.user[row]) not in users])
            assert not users & set(table.user[rows].tolist())
            seen |= set(rows.tolist())
        for row, items in zip(rows, best_items(trained, rows, 7, maker.bars), strict=True):
            assert found[int(row)] == names[items].tolist()
    assert seen == set(split.train_targets.tolist())


def test_held_out_candidates_are_those_of_one_model(folded: Prepared) -> None:
    plain = prepare("LLMDMsRec", epochs=1, n_candidates=7)
    one, several = lists_of(plain), lists_of(folded)
    split = folded.dataset.split
    # Other batches change rounding, which may swap the last candidate with the next item.
    same = {row: set(one[row]) == set(several[row]) for row in one}
    assert np.mean([same[row] for row in [*split.valid.end.tolist(), *split.test.end.tolist()]]) > 0.98
    assert np.mean([same[row] for row in split.train_targets.tolist()]) < 0.9
    assert plain.dataset.semantics.folder.path != folded.dataset.semantics.folder.path


def test_models_of_folds_are_no_results(folded: Prepared) -> None:
    assert {record.settings.get("left_out") for record in ResultStore("results")} == {None}
    assert len(list(ResultStore("saved/folds"))) == 3
    whole = runner().candidate_run(make_run("LLMDMsRec", epochs=1))
    assert folded.dataset.semantics.folder.manifest["features"]["candidates"]["stage_one"] == whole.key


def test_one_fold_is_what_it_was_before_there_were_folds(featured: Path) -> None:
    before = only_folder("offline")
    assert prepare("LLMDMsRec", epochs=1, candidate_folds=1).dataset.semantics.folder.path.name == before.name
    assert not Path("saved/folds").exists()


def test_no_fold_at_all_is_refused(featured: Path) -> None:
    with pytest.raises(UserError, match="candidate_folds is at least 1; got 0"):
        prepare("LLMDMsRec", epochs=1, candidate_folds=0)


def test_folds_want_a_model_that_can_rank_for_strangers(featured: Path) -> None:
    with pytest.raises(UserError, match="candidate_folds=2: BPR knows a user only by an id"):
        prepare("LLMDMsRec", epochs=1, stage_one_model="BPR", candidate_folds=2)


def test_stage_one_is_trained_when_it_is_first_asked(tiny: Path) -> None:
    maker = runner()
    run = maker.candidate_run(make_run("LLMDMsRec", epochs=1))
    stage_one = maker.candidate_model(make_run("LLMDMsRec", epochs=1), Stopwatch())
    assert stage_one.key == run.key
    assert not run.folder.exists()
    stage_one.top_items(np.array([5]), 3)
    assert (run.folder / "best.pt").is_file()


def test_ids_with_blanks_are_ids(tiny: Path) -> None:
    blank_ids(tiny)
    features = prepare("LLMDMsRec", epochs=1, n_candidates=7).dataset.semantics
    lines = [split_ids(line) for line in read_table(features.folder.file("candidates"))["items"]]
    assert {len(line) for line in lines} == {7}
    assert {item for line in lines for item in line} <= {f"item%20 {item}" for item in range(48)}
    assert not [finding for finding in examine_leaks("tiny", None, "dataset") if not finding.good]
