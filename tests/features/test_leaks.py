"""Planted leaks are found, and there are no false alarms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.data.atomic import Column, read_table
from recbole_llm.data.split import rows_digest
from recbole_llm.errors import UserError
from recbole_llm.experiments.doctor import Finding
from recbole_llm.experiments.leak_report import examine_leaks
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.features.folder import ASKED_COLUMNS, SemanticFolder, asked_suffix
from recbole_llm.features.prompts import load_prompt
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer, ChatRequest
from recbole_llm.methods.llmdmsrec.features import INTENT_COLUMNS
from tests.features.asking import SEMANTICS, ask, by_key, contents, only_folder
from tests.helpers import prepare
from tests.methods.isrf.test_reasoning import SMALL as SMALL_ISRF
from tests.methods.isrf.test_reasoning import reply as reasoning
from tests.methods.ldmi.test_interests import by_genre, made
from tests.stub_server import StubServer, intents_from_candidates

USERTEXT = (Column("user_id", "token"), Column("preference_text", "token"))
SYNUSER = (Column("synuser_id", "token"), Column("position", "token"), Column("item_id", "token"))
INTEREST = (Column("user_id", "token"), Column("position", "token"), Column("interest_id", "token"))


def bad() -> list[Finding]:
    """The findings of the leak check that report a problem."""
    return [finding for finding in examine_leaks("tiny", None, "dataset") if not finding.good]


def opened(prepared: Prepared) -> SemanticFolder:
    """The feature folder, for tests to plant leaks in."""
    folder: SemanticFolder = prepared.dataset.semantics.folder
    return folder


def title_of(prepared: Prepared, row: int) -> str:
    """Title of a row's item."""
    folder = opened(prepared)
    items = read_table(folder.file("itemtext")).set_index("item_id")["title_text"].astype(int)
    table = prepared.dataset.table
    return str(folder.texts.texts[items[table.item_tokens[table.item[row]]]])


def last_row(prepared: Prepared, user: int) -> int:
    return int(prepared.dataset.table.offsets[user + 1]) - 1


def test_honest_features_have_none(featured: Path) -> None:
    assert bad() == []


def test_honest_answers_and_prompts_have_none(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        ask(server)
    findings = examine_leaks("tiny", None, "dataset")
    assert [finding for finding in findings if not finding.good] == []
    assert any("prompts" in finding.text for finding in findings)


def test_targets_among_the_answers_are_found(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1, n_candidates=8)  # 8 of 48 items, so most targets are not offered
    assert bad() == []
    folder, table = opened(prepared), prepared.dataset.table
    users = {token: number for number, token in enumerate(table.user_tokens.tolist())}
    lines = []
    for (user, position), (explicit, latent) in by_key(read_table(folder.file("intent"))).items():
        target = folder.texts.add(title_of(prepared, int(table.offsets[users[user]]) + position))
        lines.append((user, position, explicit.split(), [*latent.split(), target]))
    facts = folder.manifest["features"]["intent"]
    folder.write("intent", INTENT_COLUMNS, lines)
    folder.commit("intent", facts)
    (found,) = bad()
    assert "intent" in found.text


@pytest.mark.parametrize("folds", [1, 3])
def test_it_is_said_who_made_the_candidates(featured: Path, folds: int) -> None:
    name = prepare("LLMDMsRec", epochs=1, n_candidates=7, candidate_folds=folds).dataset.semantics.folder.path.name
    wanted = {1: "one model made all", 3: "3 models made those of training rows, each of users it had not seen"}
    texts = [each.text for each in examine_leaks("tiny", None, "dataset") if each.good and name in each.text]
    assert any(wanted[folds] in text for text in texts)
    assert bad() == []


def test_a_model_that_had_seen_its_users_is_found(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1, n_candidates=7, candidate_folds=3)
    folder = opened(prepared)
    facts = folder.manifest["features"]["candidates"]
    honest = [fold["train_rows"] for fold in facts["folds"]]
    for number, digest in enumerate(honest):
        facts["folds"][number]["train_rows"] = rows_digest(prepared.dataset.split.train_rows)
        folder.commit("candidates", facts)
        (found,) = bad()
        assert f"model {number + 1} of 3 had seen the users" in found.text
        facts["folds"][number]["train_rows"] = digest
    facts["folds"].pop()
    folder.commit("candidates", facts)
    assert "model 3 of 3" in bad()[0].text


def test_the_share_of_targets_is_counted_from_the_files(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1, n_candidates=7)
    table, split = prepared.dataset.table, prepared.dataset.split
    users = {token: number for number, token in enumerate(table.user_tokens.tolist())}
    hits = []
    for (user, position), (line, _) in by_key(read_table(opened(prepared).file("candidates"))).items():
        row = int(table.offsets[users[user]]) + position
        if row in set(split.train_targets.tolist()):
            hits.append(str(table.item_tokens[table.item[row]]) in line.split())
    share = f"{100 * sum(hits) / len(hits):.1f} % of {len(hits):,} training rows"
    assert any(share in finding.text for finding in examine_leaks("tiny", None, "dataset"))


def test_a_user_text_that_tells_the_test_item_is_found(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1)
    folder, table = opened(prepared), prepared.dataset.table
    for leaks in (False, True):
        rows = []
        for user in range(1, table.n_users + 1):
            row = last_row(prepared, user) if leaks else int(table.offsets[user])
            rows.append((table.user_tokens[user], folder.texts.add(f"Likes {title_of(prepared, row)} most.")))
        folder.write("usertext", USERTEXT, rows)
        folder.commit("usertext", {"sees": "training"})
        assert ["usertext" in finding.text for finding in bad()] == [True] * leaks


def test_interactions_held_out_are_found_in_a_table_of_training(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1)
    folder, table = opened(prepared), prepared.dataset.table
    position = last_row(prepared, 1) - int(table.offsets[1])
    for last in (position - 2, position):
        rows = [(table.user_tokens[1], place, 0) for place in range(last)]
        folder.write("interest", INTEREST, rows)
        folder.commit("interest", {"sees": "training"})
        assert ["1 of them held out" in finding.text for finding in bad()] == [True] * (last == position)


def test_an_item_that_only_held_out_rows_have_is_found_in_a_synthesised_user(tiny: Path) -> None:
    with (tiny / "tiny.inter").open("a", encoding="utf-8") as stream:
        stream.write("u0\tnew\t5\t1900000000\n")
    prepared = prepare("SASRecText", epochs=1)
    folder, table = opened(prepared), prepared.dataset.table
    first = table.item_tokens[table.item[table.offsets[1]]]
    for items in ([first], [first, "new"]):
        folder.write("synuser", SYNUSER, [("0", place, item) for place, item in enumerate(items)])
        folder.commit("synuser", {"sees": "training"})
        assert ["first: item new" in finding.text for finding in bad()] == [True] * (len(items) - 1)


def plant_prompts(prepared: Prepared, feature: str, prompt_id: str, data_of: Callable[[list[str]], Any]) -> None:
    """Add prompts that show whole histories to the cache, and list them as sources of a feature."""
    folder, prompt = opened(prepared), load_prompt(prompt_id)
    model, offsets = folder.identity["llm"]["model"], prepared.dataset.table.offsets
    keys = []
    with ResponseCache(SEMANTICS / "responses.sqlite") as cache:
        for user in range(1, prepared.dataset.table.n_users + 1):
            titles = [title_of(prepared, row) for row in range(int(offsets[user]), last_row(prepared, user) + 1)]
            messages = tuple(prompt.messages(data_of(titles)))
            request = ChatRequest(f"{prompt.id}@{prompt.version}", messages, None, 10, model)
            keys.append(request.key)
            cache.put(request, ChatAnswer("{}", "stop", 1, 1))
    facts = folder.manifest["features"][feature]
    folder.write(asked_suffix(feature), ASKED_COLUMNS, [(key,) for key in keys])
    folder.commit(feature, facts)


@pytest.mark.parametrize("order", [1, -1])
def test_a_prompt_that_shows_the_test_item_is_found(few_users: Path, order: int) -> None:
    with StubServer(intents_from_candidates) as server:
        prepared = ask(server)
    plant_prompts(prepared, "intent", "llmdmsrec_intent", lambda titles: {"session": titles[::order], "candidates": []})
    (found,) = bad()
    assert "a prompt holds the history of user u" in found.text


def test_a_history_by_numbers_is_one_too(few_users: Path) -> None:
    with StubServer(by_genre) as server:
        prepared = made("LDMI", server)
    assert bad() == []
    plant_prompts(
        prepared, "interest", "ldmi_interests", lambda titles: {str(n): t for n, t in enumerate(titles, start=1)}
    )
    (found,) = bad()
    assert "interest: " in found.text
    assert "a prompt holds the history of user u" in found.text


def test_a_prompt_about_an_exemplar_that_shows_its_test_item_is_found(few_users: Path) -> None:
    with StubServer(by_genre) as server:
        prepared = made("EIMF", server)
    assert bad() == []
    plant_prompts(prepared, "exemplar", "eimf_interests", lambda titles: titles)
    (found,) = bad()
    assert "exemplar: " in found.text
    assert "a prompt holds the history of user u" in found.text


@pytest.mark.parametrize("step", ["isrf_user_positive", "isrf_user_preference"])
def test_a_list_of_items_newest_first_is_a_history_too(few_users: Path, step: str) -> None:
    with StubServer(reasoning) as server:
        prepared = made("ISRF", server, **SMALL_ISRF)
    assert bad() == []

    def data_of(titles: list[str]) -> Any:
        items = [{"title": title, "brand": "None", "categories": "None"} for title in titles[::-1]]
        return items if step.endswith("positive") else {"items": items, "likes": "", "dislikes": ""}

    plant_prompts(prepared, "user_reasoning", step, data_of)
    (found,) = bad()
    assert "user_reasoning: " in found.text
    assert "a prompt holds the history of user u" in found.text


SHAPES: dict[str, Callable[[list[str]], list[str]]] = {
    "validation item skipped": lambda titles: [*titles[:-2], titles[-1]],
    "held-out item first": lambda titles: [titles[-1], *titles[:-2]],
    "a visible item dropped": lambda titles: [*titles[:-3], *titles[-2:]],
    "sorted": sorted,
}
DATA: dict[str, tuple[str, str, Callable[[list[str]], Any]]] = {
    "EIMF": ("exemplar", "eimf_interests", lambda titles: titles),
    "LDMI": ("interest", "ldmi_interests", lambda titles: {str(n): title for n, title in enumerate(titles, start=1)}),
    "ISRF": ("user_reasoning", "isrf_user_positive", lambda titles: [{"title": title} for title in titles[::-1]]),
    "LLMDMsRec": ("intent", "llmdmsrec_intent", lambda titles: {"session": titles, "candidates": titles}),
}


@pytest.mark.parametrize("model", DATA)
def test_a_held_out_item_is_found_wherever_a_prompt_shows_it(few_users: Path, model: str) -> None:
    answer = {"ISRF": reasoning, "LLMDMsRec": intents_from_candidates}.get(model, by_genre)
    with StubServer(answer) as server:
        prepared = (
            ask(server) if model == "LLMDMsRec" else made(model, server, **(SMALL_ISRF if model == "ISRF" else {}))
        )
    assert bad() == []
    feature, prompt, data_of = DATA[model]
    for name, shape in SHAPES.items():
        plant_prompts(prepared, feature, prompt, lambda titles, shape=shape: data_of(shape(titles)))  # type: ignore[misc]
        assert ["with a held-out item" in finding.text for finding in bad()] == [True], name


def test_prompts_of_another_protocol_are_no_leak_of_this_one(few_users: Path) -> None:
    with StubServer(by_genre) as server:
        made("LDMI", server, protocol="loo")
        folder = opened(made("LDMI", server, protocol="session"))
    assert bad() == []
    folder.manifest["files"].pop(asked_suffix("interest"))
    folder.save_manifest()
    # Without the list of its own prompts, the folder is checked against all prompts.
    assert [folder.path.name in finding.text for finding in bad()] == [True]


def test_folders_whose_prompts_were_not_noted_are_held_against_all(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        prepared = ask(server)
    plant_prompts(prepared, "intent", "llmdmsrec_intent", lambda titles: {"session": titles, "candidates": []})
    folder = opened(prepared)
    folder.manifest["files"].pop(asked_suffix("intent"))
    folder.save_manifest()
    (found,) = bad()
    assert "a prompt holds the history of user u" in found.text


def test_a_lost_note_of_the_prompts_is_made_again(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        folder = opened(ask(server)).path
        before = contents(folder)
        (folder / "tiny.intent.asked").unlink()
        assert "tiny.intent.asked is gone" in bad()[0].text
        ask(server)
    assert contents(folder) == before
    with ResponseCache(SEMANTICS / "responses.sqlite") as cache:
        assert set(read_table(folder / "tiny.intent.asked")["request_key"]) == {row["key"] for row in cache.rows()}


def test_a_changed_file_is_found(featured: Path) -> None:
    path = only_folder("offline") / "tiny.intent"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    found, count = bad()
    assert "not checked: " in found.text
    assert "tiny.intent is not the file" in found.text
    assert count.text == "1 folder of features: 0 checked, 1 not"


def test_a_dataset_without_files_is_an_error(tiny: Path) -> None:
    with pytest.raises(UserError, match="holds no semantic files yet"):
        examine_leaks("tiny", None, "dataset")
