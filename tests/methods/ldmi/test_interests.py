"""Asking for interests: which users are asked about, what prompts show, and how the answers are used."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm.data.atomic import Column, read_table
from recbole_llm.errors import UserError
from recbole_llm.experiments.generate import collect
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.features.feature import training_lists, visible_ends
from recbole_llm.features.sources import BatchCollector
from recbole_llm.methods.eimf.features import INTERESTS
from recbole_llm.methods.ldmi.features import INTEREST_COLUMNS, SYNUSER_COLUMNS
from recbole_llm.training.loaders import training_loader
from tests.features.asking import add_lines, plant
from tests.helpers import make_run, prepare, runner, write_tiny
from tests.stub_server import Call, Reply, StubServer


@pytest.fixture
def small(workspace: Path) -> Path:
    """A workspace with the small dataset, without any answers yet."""
    return write_tiny(workspace / "dataset" / "tiny")


def by_genre(call: Call) -> Reply:
    """Answer LDMI's or EIMF's prompt with one interest per first word of the titles."""
    if isinstance(call.data, list):
        return Reply(text=json.dumps({str(n): f"likes {t.split()[0]}" for n, t in enumerate(call.data, start=1)}))
    groups: dict[str, list[int]] = {}
    for number, title in call.data.items():
        groups.setdefault(title.split()[0], []).append(int(number))
    return Reply(text=json.dumps({"interests": [{"name": name, "items": own} for name, own in groups.items()]}))


def made(model: str, server: StubServer, **settings: Any) -> Prepared:
    return prepare(model, **{"epochs": 1, "llm": "vllm", "llm_base_url": server.base_url} | settings)


def manifest(prepared: Prepared) -> dict[str, Any]:
    found: dict[str, Any] = prepared.dataset.semantics.folder.manifest["features"]
    return found


def titles_of(prepared: Prepared) -> np.ndarray:
    folder = prepared.dataset.semantics.folder
    ids = prepared.dataset.semantics.item_text_ids("title_text").numpy()
    return np.array(folder.texts.texts, dtype=object)[np.maximum(ids, 0)]


def shown(server: StubServer) -> set[tuple[str, ...]]:
    lists = (call.data if isinstance(call.data, list) else call.data.values() for call in server.calls)
    return {tuple(titles) for titles in lists}


def answering_step(prepared: Prepared) -> float:
    batch = next(iter(training_loader(prepared)[0]))
    return float(prepared.model.calculate_loss(batch).detach())


# ---- LDMI ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["loo", "user_split"])
def test_histories_are_asked_about_as_far_as_they_may_be_shown(small: Path, protocol: str) -> None:
    with StubServer(by_genre) as server:
        prepared = made("LDMI", server, protocol=protocol, covering_budget=0.0)
        asked = shown(server)
    table, titles = prepared.dataset.table, titles_of(prepared)
    ends = visible_ends(table, prepared.dataset.split)
    expected = {tuple(titles[table.item[table.offsets[u] : ends[u]]]) for u in range(1, table.n_users + 1)}
    frame = read_table(prepared.dataset.semantics.folder.file("synuser"))
    assert frame["synuser_id"].nunique() == 1  # a budget of zero still gives one synthesised user
    of_crowd = asked - expected
    assert expected - {()} <= asked
    assert len(of_crowd) <= 1
    assert manifest(prepared)["interest"]["coverage"] == 1.0


@pytest.mark.parametrize(("protocol", "place"), [("loo", 1), ("loo", 2), ("user_split", 1)])
@pytest.mark.parametrize("model", ["LDMI", "EIMF"])
def test_another_target_asks_the_same_questions(small: Path, model: str, protocol: str, place: int) -> None:
    """Changing one user's test (or validation) item changes no prompt of any user."""
    with StubServer(by_genre) as server:
        before = made(model, server, protocol=protocol)
        first = shown(server)
    split, table = before.dataset.split, before.dataset.table
    held_out = {str(table.user_tokens[user]) for cases in (split.valid, split.test) for user in cases.user}
    plant(small / "tiny.inter", place, held_out)
    with StubServer(by_genre) as server:
        after = made(model, server, protocol=protocol)
        assert not np.array_equal(after.dataset.table.item, table.item)
        assert not server.calls or shown(server) <= first  # cached questions are not sent again


def test_answers_stand_at_the_positions_that_they_are_about(small: Path) -> None:
    with StubServer(by_genre) as server:
        prepared = made("LDMI", server, interest_window=5)
    table, titles, folder = prepared.dataset.table, titles_of(prepared), prepared.dataset.semantics.folder
    texts = folder.texts.texts
    users = {token: number for number, token in enumerate(table.user_tokens.tolist())}
    frame = read_table(folder.file("interest"))
    numbers: dict[tuple[str, str], set[str]] = {}
    for user, position, interest, text in frame.itertuples(index=False):
        item = table.item[table.offsets[users[user]] + int(position)]
        assert texts[int(text)] == titles[item].split()[0]
        numbers.setdefault((user, text), set()).add(interest)
    assert all(len(found) == 1 for found in numbers.values())  # equal names in two windows are one interest


def test_a_new_user_costs_one_question(small: Path) -> None:
    with StubServer(by_genre) as server:
        made("LDMI", server, covering_budget=0.0)
        before = len(server.calls)
        add_lines(small / "tiny.inter", [f"newcomer\ti{item}\t5\t{1_500_000_000 + item}" for item in (1, 5, 9, 2, 6)])
        prepared = made("LDMI", server, covering_budget=0.0)
        (call,) = server.calls[before:]
    table, titles = prepared.dataset.table, titles_of(prepared)
    (user,) = np.flatnonzero(table.user_tokens == "newcomer")
    own = table.item[table.offsets[user] : table.offsets[user + 1]]
    assert list(call.data.values()) == titles[own[:-2]].tolist()  # all but the validation and the test item
    folders = list((small / "semantics").glob("loo-vllm-*"))
    assert len(folders) == 2  # new data get a new folder, but share the answers
    assert prepared.dataset.semantics.facts()["coverage"]["interest"] == 1.0


def test_long_histories_are_asked_about_in_parts(small: Path) -> None:
    with StubServer(by_genre) as server:
        prepared = made("LDMI", server, interest_window=5, synthesised_items=5)
        assert max(len(call.data) for call in server.calls) == 5
    assert manifest(prepared)["interest"]["coverage"] == 1.0


@pytest.mark.parametrize("fill", ["none", "offline"])
@pytest.mark.parametrize("model", ["LDMI", "EIMF"])
def test_without_a_usable_answer_there_is_no_row(small: Path, model: str, fill: str) -> None:
    words = r"gave no usable answer to any of .*\. No model is trained on that"
    with StubServer(lambda call: Reply(text="no idea")) as server, pytest.raises(UserError, match=words):
        made(model, server, fill=fill)


def emptied(prepared: Prepared, server: StubServer, model: str, tables: dict[str, Sequence[Column]]) -> Prepared:
    """Prepare the model again after emptying some tables of its features."""
    folder = prepared.dataset.semantics.folder
    for suffix, columns in tables.items():
        folder.write(suffix, columns, [])
    folder.commit()
    return made(model, server)


def test_without_interests_the_model_is_its_backbone(small: Path) -> None:
    with StubServer(by_genre) as server:
        tables = {"interest": INTEREST_COLUMNS, "synuser": SYNUSER_COLUMNS}
        prepared = emptied(made("LDMI", server), server, "LDMI", tables)
    assert (prepared.model.labels == -1).all()
    assert np.isfinite(answering_step(prepared))


def every_other(call: Call) -> Reply:
    """Answer about half of the lists."""
    return by_genre(call) if zlib.crc32(json.dumps(call.data).encode()) % 2 else Reply(text="no idea")


@pytest.mark.parametrize("model", ["LDMI", "EIMF"])
def test_gaps_are_filled_by_the_rule_where_asked(small: Path, model: str) -> None:
    with StubServer(every_other) as server:
        prepared = made(model, server, fill="offline")
    for name in {"LDMI": ("interest", "synuser"), "EIMF": ("exemplar",)}[model]:
        entry = manifest(prepared)[name]
        assert entry["coverage"] == 1.0
        assert 0 < entry["filled"] == entry["asked"] - entry["counts"]["valid"]


def test_one_batch_asks_about_real_and_synthesised_users(small: Path) -> None:
    """Synthesised users depend on no answer, so a second batch, a day later, would be needless."""
    with StubServer(by_genre) as server:
        run = make_run("LDMI", epochs=1, llm="vllm", llm_base_url=server.base_url)
        asking = BatchCollector()
        assert [builder.folder.manifest["features"].keys() for builder in collect([run], runner(), asking)] == [
            {"itemtext"}
        ]
        asked = {request.messages[-1]["content"] for request in asking.pending.values()}
        made("LDMI", server)
        assert {call.question for call in server.calls} == asked


# ---- EIMF ---------------------------------------------------------------------------------------


def test_only_exemplars_are_asked_about_with_their_training_items(small: Path) -> None:
    with StubServer(by_genre) as server:
        prepared = made("EIMF", server, exemplar_items=4)
        asked = shown(server)
    table, titles, folder = prepared.dataset.table, titles_of(prepared), prepared.dataset.semantics.folder
    users, offsets, items = training_lists(table, prepared.dataset.split)
    place = {str(table.user_tokens[user]): number for number, user in enumerate(users)}
    exemplars = read_table(folder.file("exemplar"))
    expected = set()
    for exemplar, line in exemplars.itertuples(index=False):
        number = place[exemplar]
        own = titles[items[offsets[number] : offsets[number + 1]][-4:]]
        expected.add(tuple(own))
        said = {folder.texts.texts[int(text)] for text in line.split()}
        assert said == {f"likes {title.split()[0]}" for title in own}
    assert asked == expected
    assert 0 < len(exemplars) < len(users)


def test_interests_named_again_count_once_and_titles_are_counted(small: Path) -> None:
    def rambling(call: Call) -> Reply:
        return Reply(text=json.dumps({"interests": ["Drama", "drama", "Comedy", call.data[0], "DRAMA"]}))

    with StubServer(rambling) as server:
        prepared = made("EIMF", server)
        asked = len(server.calls)
    facts, folder = manifest(prepared)["exemplar"], prepared.dataset.semantics.folder
    assert (facts["counts"]["duplicate"], facts["counts"]["title"]) == (2 * asked, asked)
    for _, line in read_table(folder.file("exemplar")).itertuples(index=False):
        assert [folder.texts.texts[int(text)] for text in line.split()][:2] == ["Drama", "Comedy"]


def test_without_interests_eimf_is_its_backbone(small: Path) -> None:
    with StubServer(by_genre) as server:
        prepared = emptied(made("EIMF", server), server, "EIMF", {"exemplar": INTERESTS})
    batch = next(iter(training_loader(prepared)[0]))
    model = prepared.model.eval()
    assert float(model.calculate_loss(batch)) == float(model.ibim.losses(batch)[0])
