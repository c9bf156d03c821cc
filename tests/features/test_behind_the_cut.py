"""Under a global time split, nothing after the cut reaches a prompt, a feature, a graph or a trained weight."""

from __future__ import annotations

import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.data.atomic import read_table
from recbole_llm.evaluation.ranks import item_popularity
from recbole_llm.experiments.leak_report import examine_leaks
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.methods.llmdmsrec.features import INTENT_COLUMNS
from tests.features.asking import ask, by_key, contents
from tests.features.test_leaks import INTEREST, SYNUSER, USERTEXT, bad, last_row, opened, plant_prompts, title_of
from tests.helpers import make_run, prepare, runner, write_tiny
from tests.methods.ldmi.test_interests import by_genre, made
from tests.stub_server import StubServer, intents_from_candidates

CUT = {"protocol": "gts", "valid_from": 0.7, "test_from": 0.85}
INTER = Path("dataset/tiny/tiny.inter")


@pytest.fixture
def timed(workspace: Path) -> Path:
    """A small dataset whose users start at different times.

    Its rows are in time order, so item ids, which follow first appearance, do not depend on later rows.
    """
    folder = write_tiny(workspace / "dataset" / "tiny", n_users=40)
    header, *lines = INTER.read_text().splitlines()
    cells = sorted((line.split("\t") for line in lines), key=lambda row: (row[0], int(row[3])))
    generator, found = np.random.default_rng(4), []
    for number, (_, own) in enumerate(groupby(cells, key=lambda row: row[0])):
        rows = list(own)
        times = np.sort(generator.integers(1_400_000_000 + 200_000 * number, 1_410_000_000, size=len(rows)))
        found += [[*row[:3], str(now)] for row, now in zip(rows, times.tolist(), strict=True)]
    found += [["late", f"i{item}", "5", str(1_409_999_000 + item)] for item in (3, 17, 8, 21)]
    found.sort(key=lambda row: int(row[3]))
    INTER.write_text("\n".join([header, *("\t".join(row) for row in found)]) + "\n")
    return folder


def move(which: str) -> int:
    """Rotate the items of all rows after a cut by three places; returns how many rows have changed."""
    cuts = prepare("Pop", **CUT).dataset.split.cuts
    header, *lines = INTER.read_text().splitlines()
    cells = [line.split("\t") for line in lines]
    later = [row for row in cells if int(row[3]) >= getattr(cuts, which)]
    items = [row[1] for row in later]
    changed = 0
    for row, item in zip(later, items[3:] + items[:3], strict=True):
        changed += row[1] != item
        row[1] = item
    INTER.write_text("\n".join([header, *("\t".join(row) for row in cells)]) + "\n")
    return changed


def features_of(prepared: Prepared) -> dict[str, bytes]:
    """The files of a run's features, including vectors."""
    found = contents(opened(prepared).path)
    assert len(found) > 2
    return found


METHODS = ["LLMDMsRec", "EIMF", "LDMI", "SASRecText"]


@pytest.mark.parametrize(("model", "targets"), [(model, "last") for model in METHODS] + [("LLMDMsRec", "all")])
def test_no_feature_knows_what_is_behind_the_cut(timed: Path, model: str, targets: str) -> None:
    options = {**CUT, "targets": targets, "epochs": 1}
    before = features_of(prepare(model, **options))
    assert move("test") > 40
    assert features_of(prepare(model, **options)) == before
    assert len(list((timed / "semantics").glob("gts-offline-*"))) == 2


def asked(model: str, **options: Any) -> set[bytes]:
    """The bodies of all requests sent for a model's features."""
    answer = intents_from_candidates if model == "LLMDMsRec" else by_genre
    with StubServer(answer) as server:
        (ask if model == "LLMDMsRec" else lambda s, **o: made(model, s, **o))(server, **{**CUT, **options})
        return {call.raw for call in server.calls}


@pytest.mark.parametrize("model", ["LLMDMsRec", "EIMF", "LDMI"])
def test_no_prompt_knows_what_is_behind_the_cut(timed: Path, model: str) -> None:
    before = asked(model)
    assert len(before) > 3
    move("test")
    shutil.rmtree(timed / "semantics")
    assert asked(model) == before


def test_one_answer_serves_all_targets_that_show_one_history(timed: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        prepared = ask(server, **CUT, targets="all")
    assert len({call.raw for call in server.calls}) == len(server.calls)
    split, offsets = prepared.dataset.split, np.asarray(prepared.dataset.table.offsets)
    shown = split.test.shown > offsets[split.test.user]
    assert len(np.unique(split.test.shown[shown])) < shown.sum()
    lines = by_key(read_table(opened(prepared).file("intent")))
    table = prepared.dataset.table
    for user, row in zip(split.test.user[shown], split.test.end[shown], strict=True):
        assert (str(table.user_tokens[user]), int(row - offsets[user])) in lines


def test_a_case_without_anything_to_show_has_no_answer(timed: Path) -> None:
    prepared = prepare("LLMDMsRec", **CUT, epochs=1)
    split, table = prepared.dataset.split, prepared.dataset.table
    lines = by_key(read_table(opened(prepared).file("intent")))
    hidden = split.test.shown == split.test.start
    assert hidden.any()
    for user, row in zip(split.test.user[hidden], split.test.end[hidden], strict=True):
        assert (str(table.user_tokens[user]), int(row - table.offsets[user])) not in lines


TRAINED = ["Pop", "EASE", "BPR", "LightGCN", "SASRec", "GCEGNN", "LLMDMsRec", "EIMF"]


@pytest.mark.parametrize("model", TRAINED)
def test_no_weight_knows_what_is_behind_the_cut(timed: Path, model: str) -> None:
    """The weights depend on graphs, popularity, negatives and the choice of the epoch."""

    def weights() -> dict[str, Any]:
        run = make_run(model, **CUT, epochs=2)
        runner().run(run)
        found: dict[str, Any] = torch.load(run.folder / "best.pt", weights_only=True)
        return found

    before = weights()
    move("test")
    after = weights()
    assert before["epoch"] == after["epoch"]
    for part in ("state_dict", "other_parameter"):
        first, second = before.get(part) or {}, after.get(part) or {}
        assert first.keys() == second.keys()
        for name in first:
            if isinstance(first[name], torch.Tensor):
                assert torch.equal(first[name], second[name])
            else:
                assert str(first[name]) == str(second[name])


def test_no_popularity_knows_what_is_behind_a_cut(timed: Path) -> None:
    def popularity() -> tuple[list[Any], ...]:
        dataset = prepare("Pop", **CUT).dataset
        found = item_popularity(dataset.table.item[dataset.split.train_rows], dataset.item_num)
        return tuple(part.tolist() for part in found)

    before = popularity()
    move("valid")
    assert popularity() == before


# ---- doctor --leaks ---------------------------------------------------------------------------------


@pytest.fixture
def planted(timed: Path) -> Prepared:
    """LLM-DMsRec's features under a global time split, for tests to plant leaks in."""
    return prepare("LLMDMsRec", epochs=1, n_candidates=8, **CUT)


@pytest.mark.parametrize(("model", "targets"), [("LLMDMsRec", "last"), ("LLMDMsRec", "all"), ("EIMF", "random")])
def test_honest_features_have_no_leaks(timed: Path, model: str, targets: str) -> None:
    prepare(model, epochs=1, targets=targets, **CUT)
    findings = examine_leaks("tiny", None, "dataset")
    assert [finding.text for finding in findings if not finding.good] == []
    assert any("split as the manifest says" in finding.text for finding in findings)  # custom cuts are recovered


def test_targets_among_the_answers_are_found(planted: Prepared) -> None:
    folder, table = opened(planted), planted.dataset.table
    users = {token: number for number, token in enumerate(table.user_tokens.tolist())}
    lines = []
    for (user, position), (explicit, latent) in by_key(read_table(folder.file("intent"))).items():
        target = folder.texts.add(title_of(planted, int(table.offsets[users[user]]) + position))
        lines.append((user, position, explicit.split(), [*latent.split(), target]))
    facts = folder.manifest["features"]["intent"]
    folder.write("intent", INTENT_COLUMNS, lines)
    folder.commit("intent", facts)
    (found,) = bad()
    assert "intent" in found.text


def test_what_comes_between_the_cut_and_the_target_is_found_in_answers(planted: Prepared) -> None:
    folder, table, split = opened(planted), planted.dataset.table, planted.dataset.split
    users = {token: number for number, token in enumerate(table.user_tokens.tolist())}
    lines = []
    for (user, position), (explicit, latent) in by_key(read_table(folder.file("intent"))).items():
        row = int(table.offsets[users[user]]) + position
        more = [folder.texts.add(title_of(planted, split.shown_until(row)))] if split.shown_until(row) < row else []
        lines.append((user, position, explicit.split(), [*latent.split(), *more]))
    facts = folder.manifest["features"]["intent"]
    folder.write("intent", INTENT_COLUMNS, lines)
    folder.commit("intent", facts)
    (found,) = bad()
    assert "intent" in found.text


@pytest.mark.parametrize("place", ["the test item", "the first item behind the cut"])
def test_a_user_text_that_tells_what_is_behind_the_cut_is_found(planted: Prepared, place: str) -> None:
    folder, table, split = opened(planted), planted.dataset.table, planted.dataset.split
    begin = dict(zip(split.test.user.tolist(), split.test.shown.tolist(), strict=True))
    trained = set(table.user[split.train_rows].tolist())
    for leaks in (False, True):
        rows = []
        for user in trained & set(begin):
            later = last_row(planted, user) if place == "the test item" else begin[user]
            row = later if leaks else int(table.offsets[user])
            rows.append((table.user_tokens[user], folder.texts.add(f"Likes {title_of(planted, row)} most.")))
        folder.write("usertext", USERTEXT, rows)
        folder.commit("usertext", {"sees": "training"})
        assert ["usertext" in finding.text for finding in bad()] == [True] * leaks


def test_interactions_behind_the_first_cut_are_found_in_a_table_of_training(planted: Prepared) -> None:
    folder, table, split = opened(planted), planted.dataset.table, planted.dataset.split
    user = int(next(u for u in split.valid.user if u in set(table.user[split.train_rows].tolist())))
    trained = int((table.user[split.train_rows] == user).sum())
    for length in (trained, trained + 1):  # the extra row is in the validation period
        rows = [(table.user_tokens[user], place, 0) for place in range(length)]
        folder.write("interest", INTEREST, rows)
        folder.commit("interest", {"sees": "training"})
        assert ["1 of them held out" in finding.text for finding in bad()] == [True] * (length > trained)


def test_an_item_that_comes_behind_the_cut_is_found_in_a_synthesised_user(timed: Path) -> None:
    with INTER.open("a", encoding="utf-8") as stream:
        stream.write("u0\tnew\t5\t1900000000\n")
    prepared = prepare("SASRecText", epochs=1, **CUT)
    folder, table = opened(prepared), prepared.dataset.table
    first = table.item_tokens[table.item[prepared.dataset.split.train_rows[0]]]
    for items in ([first], [first, "new"]):
        folder.write("synuser", SYNUSER, [("0", place, item) for place, item in enumerate(items)])
        folder.commit("synuser", {"sees": "training"})
        assert ["first: item new" in finding.text for finding in bad()] == [True] * (len(items) - 1)


def test_a_prompt_that_shows_what_is_behind_the_cut_is_found(timed: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        prepared = ask(server, **CUT)
    assert bad() == []
    plant_prompts(prepared, "intent", "llmdmsrec_intent", lambda titles: {"session": titles, "candidates": []})
    (found,) = bad()
    assert "a prompt holds the history of user u" in found.text


def test_a_prompt_of_the_first_items_of_a_cold_user_is_found(timed: Path) -> None:
    """No item of a cold user may be shown, whereas other splits show every user's first items."""
    with StubServer(intents_from_candidates) as server:
        prepared = ask(server, **CUT)
    assert bad() == []
    folder = opened(prepared)
    late = prepared.dataset.table.user_tokens.tolist().index("late")
    plant_prompts(
        prepared,
        "intent",
        "llmdmsrec_intent",
        lambda titles: {
            "session": [title_of(prepared, int(prepared.dataset.table.offsets[late]) + n) for n in range(3)],
            "candidates": [],
        },
    )
    (found,) = bad()
    assert folder.path.name in found.text
    assert "history of user late" in found.text
