"""Stage I of LLM-DMsRec: what a pretrained model would show next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.bench.cell import Stopwatch
from recbole_llm.bench.stage_one import TrainedStageOne
from recbole_llm.data.atomic import read_table
from tests.helpers import cell_of, prepare, runner
from tests.semantics.workshop import by_key, contents, only_folder, plant


def test_there_is_a_line_for_every_row_that_is_predicted_at(featured: Path) -> None:
    dataset = prepare("LLMDMsRec", epochs=1).dataset
    table, split = dataset.table, dataset.split
    rows = np.concatenate([split.train_targets, split.valid.end, split.test.end])
    users = table.user[rows]
    wanted = set(zip(table.user_tokens[users].tolist(), (rows - table.offsets[users]).tolist(), strict=True))
    assert set(by_key(read_table(only_folder("offline") / "tiny.candidates"))) == wanted


def test_candidates_are_the_models_best_items_in_order(featured: Path) -> None:
    cells = runner()
    stage_one = cells.stage_one_cell(cell_of("LLMDMsRec", epochs=1))
    trained = cells.trained(stage_one)
    dataset, model = trained.dataset, trained.model
    offered = by_key(read_table(only_folder("offline") / "tiny.candidates"))
    batch = cells._eval_loader(trained, "test").batch(np.arange(len(dataset.split.test)))
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
    for (user, position), (line,) in by_key(read_table(only_folder("offline") / "tiny.candidates")).items():
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
    """The changed item is in the history of nothing but what comes after it."""
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


def test_stage_one_is_trained_when_it_is_first_asked(tiny: Path) -> None:
    cells = runner()
    cell = cells.stage_one_cell(cell_of("LLMDMsRec", epochs=1))
    stage_one = TrainedStageOne(cells, cell, Stopwatch())
    assert stage_one.key == cell.key
    assert not cell.folder.exists()
    stage_one.top_items(np.array([5]), 3)
    assert (cell.folder / "best.pt").is_file()
