"""ISRF's prompt chains against a real server: what each step shows, and how the answers are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.data.atomic import read_table
from recbole_llm.experiments import generate
from recbole_llm.features.sources import AnswerSource
from recbole_llm.methods.isrf.features import UserReasoning
from tests.features.asking import add_lines, file_states, only_folder
from tests.helpers import make_run, prepare, runner, write_tiny
from tests.stub_server import Call, Reply, StubServer

SMALL: dict[str, Any] = {
    "lm_scratch": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 120},
    "n_negatives": 5,
    "similar_users": 5,
}


def step_of(call: Call) -> str:
    """Which of the six prompts a call uses."""
    data = call.data
    if isinstance(data, list):
        return "user 1"
    if "items" in data:
        return "user 3" if "dislikes" in data else "user 2"
    return "item 3" if "pos_summarization" in data else "item 2" if "summarization" in data else "item 1"


def reply(call: Call) -> Reply:
    step, data = step_of(call), call.data
    name = data["title"] if step.startswith("item") else "user"
    field = "feature" if step == "item 3" else "summarization"
    return Reply(text=json.dumps({field: f"{step} of {name}", "reasoning": "because"}))


@pytest.fixture
def asked(few_users: Path) -> tuple[Any, list[Call]]:
    with StubServer(reply) as server:
        prepared = prepare("ISRF", llm="vllm", llm_base_url=server.base_url, **SMALL)
        return prepared, list(server.calls)


def test_every_item_and_user_is_asked_three_times_and_each_step_shows_the_one_before(
    asked: tuple[Any, list[Call]],
) -> None:
    prepared, calls = asked
    table = prepared.dataset.table
    by_step: dict[str, list[Call]] = {}
    for call in calls:
        by_step.setdefault(step_of(call), []).append(call)
    assert {len(by_step[f"item {n}"]) for n in (1, 2, 3)} == {table.n_items}
    assert 0 < len(by_step["user 1"]) <= table.n_users  # users with equal histories share one question
    for call in by_step["item 2"]:
        assert call.data["summarization"] == f"item 1 of {call.data['title']}"
    for call in by_step["item 3"]:
        assert call.data["neg_summarization"] == f"item 2 of {call.data['title']}"
    for call in by_step["user 1"]:
        assert all(item["feature"] == f"item 3 of {item['title']}" for item in call.data)
    assert all(call.data["preference"] == "user 1 of user" for call in by_step["user 2"])


def test_prompts_about_users_show_training_items_newest_first(asked: tuple[Any, list[Call]]) -> None:
    prepared, calls = asked
    table, features = prepared.dataset.table, prepared.dataset.semantics
    titles = features.texts(features.item_text_ids("title_text"))
    train: dict[int, list[str]] = {}
    for row in prepared.dataset.split.train_rows:
        train.setdefault(int(table.user[row]), []).append(titles[table.item[row]])
    wanted = {tuple(own[::-1][:20]) for own in train.values()}
    shown = {tuple(item["title"] for item in call.data) for call in calls if step_of(call) == "user 1"}
    assert shown == wanted


def test_the_model_reads_the_last_answers_and_the_variants_the_others(asked: tuple[Any, list[Call]]) -> None:
    features = asked[0].dataset.semantics
    assert (only_folder() / "tiny.itemprofile").is_file()
    for column, step in (("profile_text", 3), ("positive_text", 1), ("negative_text", 2)):
        texts = features.texts(features.item_text_ids(column, suffix="itemprofile"))[1:]
        assert all(text.startswith(f"item {step} of ") for text in texts)
    for column, step in (("preference_text", 3), ("positive_text", 1), ("negative_text", 2)):
        assert set(features.texts(features.user_text_ids(column))[1:]) == {f"user {step} of user"}


@pytest.mark.parametrize(("fill", "covered"), [("none", False), ("offline", True)])
def test_an_item_without_an_answer_has_no_text_unless_it_is_filled(few_users: Path, fill: str, covered: bool) -> None:
    def refuse_one(call: Call) -> Reply:
        if step_of(call) == "item 2" and call.data["title"].startswith("Brush No. 1"):
            return Reply(text="I cannot say.")
        return reply(call)

    with StubServer(refuse_one) as server:
        prepared = prepare("ISRF", llm="vllm", llm_base_url=server.base_url, fill=fill, **SMALL)
    features = prepared.dataset.semantics
    titles = features.texts(features.item_text_ids("title_text"))
    ids = features.item_text_ids("profile_text", suffix="itemprofile")
    refused = [n for n, title in enumerate(titles) if title.startswith("Brush No. 1")]
    assert refused
    assert all((int(ids[number]) >= 0) == covered for number in refused)
    assert int((ids[1:] < 0).sum()) == (0 if covered else len(refused))
    assert features.facts()["coverage"]["item_reasoning"] < 1
    assert features.facts()["filled"] == ({"item_reasoning": len(refused)} if covered else {})  # the row says `mixed`


def test_a_new_item_costs_its_own_chain_and_those_who_chose_it(workspace: Path) -> None:
    folder = write_tiny(workspace / "dataset" / "tiny", n_users=14)
    with StubServer(reply) as server:
        prepare("ISRF", llm="vllm", llm_base_url=server.base_url, **SMALL)
        before = len(server.calls)
        add_lines(folder / "tiny.item", ["novelty\tNovelty No. 1\tPerfume Beauty\tBrand0"])
        # Added in the middle of one history, so only this user's training items include it.
        first = (folder / "tiny.inter").read_text(encoding="utf-8").splitlines()[1].split("\t")
        add_lines(folder / "tiny.inter", [f"{first[0]}\tnovelty\t5\t1300000000"])
        prepare("ISRF", llm="vllm", llm_base_url=server.base_url, **SMALL)
        new = server.calls[before:]
    steps = sorted(step_of(call) for call in new)
    assert steps == ["item 1", "item 2", "item 3", "user 1", "user 2", "user 3"]
    assert all(call.data["title"] == "Novelty No. 1" for call in new if step_of(call).startswith("item"))


def test_users_of_a_trial_are_asked_again_when_the_items_are_whole(few_users: Path) -> None:
    with StubServer(reply) as server:
        run = make_run("ISRF", llm="vllm", llm_base_url=server.base_url, **SMALL)
        generate.make([run], runner(), AnswerSource(limit=16))  # all users, some of the items
        features = json.loads((only_folder() / "manifest.json").read_text())["features"]
        assert features["item_reasoning"]["stopped"].startswith("--limit=16 of ")
        assert not features["user_reasoning"]["stopped"]
        (builder,) = generate.feature_builders([run], runner(), AnswerSource())
        assert builder.missing() == ["item_reasoning", "user_reasoning"]
        before = len(server.calls)
        generate.make([run], runner(), AnswerSource())
        shown = [call.data for call in server.calls[before:] if step_of(call) == "user 1"]
    assert shown
    assert not any(item["feature"] == "None" for items in shown for item in items)
    used = read_table(only_folder() / "tiny.usertext")
    assert len(used) == json.loads((only_folder() / "manifest.json").read_text())["files"]["usertext"]["rows"]


def test_a_killed_run_does_not_take_users_of_a_trial_for_whole(few_users: Path) -> None:
    with StubServer(reply) as server:
        run = make_run("ISRF", llm="vllm", llm_base_url=server.base_url, **SMALL)
        generate.make([run], runner(), AnswerSource(limit=16))
        (builder,) = generate.feature_builders([run], runner(), AnswerSource())
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(UserReasoning, "build", interrupted)
            builder.make()
        (builder,) = generate.feature_builders([run], runner(), AnswerSource())
        assert builder.missing() == ["user_reasoning"]


def interrupted(*_: Any) -> None:
    """Raise Ctrl-C."""
    raise KeyboardInterrupt


def test_users_are_not_made_again_for_items_that_came_out_the_same(few_users: Path) -> None:
    with StubServer(reply) as server:
        run = make_run("ISRF", llm="vllm", llm_base_url=server.base_url, **SMALL)
        generate.make([run], runner(), AnswerSource())
        (only_folder() / "tiny.itemprofile").unlink()
        before = file_states(only_folder())["tiny.usertext"]
        generate.make([run], runner(), AnswerSource())
    assert file_states(only_folder())["tiny.usertext"] == before
