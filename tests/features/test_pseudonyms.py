"""Invented titles reach everything that an LLM or an encoder reads, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.data.atomic import read_table
from recbole_llm.errors import UserError
from recbole_llm.features.items import ItemTexts
from recbole_llm.features.pseudonyms import pseudonym, pseudonymous
from tests.features.asking import SEMANTICS, answer_of_any_prompt
from tests.helpers import GENRES, make_run, runner, settings_of
from tests.stub_server import StubServer

TEXTS = ItemTexts(
    title=["", "Toy Story (1995)", "Toy  story (1995)", "Godfather, The (1972)"],
    categories=["", "Animation Children's", "Animation", "Crime Drama"],
    brand=["", "Pixar", "Pixar", ""],
    description=["", "A cowboy doll.", "", ""],
    named=1.0,
    source="metadata",
)


def test_titles_and_brands_are_invented_and_descriptions_go() -> None:
    found = pseudonymous(TEXTS, "pseudonym", 2020)
    assert found.title[0] == ""
    assert found.title[1] == found.title[2] != found.title[3]  # blanks and case do not matter
    assert found.brand[1] == found.brand[2] not in ("", "Pixar")
    assert found.brand[3] == ""
    assert found.categories == TEXTS.categories
    assert found.description == ["", "", "", ""]
    said = " ".join([*found.title, *found.brand]).casefold()
    assert not any(word in said for word in ("toy", "story", "godfather", "1995", "pixar"))


def test_the_words_of_categories_may_be_invented_too_each_the_same_everywhere() -> None:
    found = pseudonymous(TEXTS, "pseudonym_all", 2020).categories
    animation = found[2]
    assert found[1].split()[0] == animation != "Animation"
    assert [len(text.split()) for text in found] == [0, 2, 1, 2]


def test_another_key_gives_other_names_and_the_real_titles_stay() -> None:
    assert pseudonymous(TEXTS, "pseudonym", 1).title[1] != pseudonymous(TEXTS, "pseudonym", 2).title[1]
    assert pseudonymous(TEXTS, "real", 1) is TEXTS


@given(st.sets(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=2, max_size=40))
def test_different_titles_have_different_names_that_hold_letters_alone(titles: set[str]) -> None:
    names = {title: pseudonym(title, "title", (3, 3, 2), 7) for title in titles}
    forms = {title.casefold() for title in titles}
    assert len(set(names.values())) <= len(titles)
    assert all(name.replace(" ", "").isalpha() and name.isascii() for name in names.values())
    if all(title.isascii() for title in titles):
        assert len(set(names.values())) == len(forms)


@pytest.mark.parametrize("model", ["EIMF", "LDMI", "ISRF", "LLMDMsRec"])
def test_no_question_and_no_text_holds_a_real_title(few_users: Path, model: str) -> None:
    with StubServer(answer_of_any_prompt) as server:
        run = make_run(model, epochs=1, llm="vllm", llm_base_url=server.base_url, titles="pseudonym")
        runner().make_features(run)
        asked = [call.body["messages"][-1]["content"] for call in server.calls]
    assert asked
    assert not any(" No. " in question or "Co, 5" in question or "Brand" in question for question in asked)
    texts = read_table(next(SEMANTICS.glob("loo-vllm-*")) / "tiny.text")["text"].tolist()
    assert not any("No. " in text or text.startswith("Brand") for text in texts)
    assert model == "ISRF" or not any(any(genre in question for genre in GENRES) for question in asked)


def test_invented_titles_are_another_folder_and_ask_their_own_questions(few_users: Path) -> None:
    with StubServer(answer_of_any_prompt) as server:
        runs = [
            make_run("LDMI", epochs=1, llm="vllm", llm_base_url=server.base_url, **each)
            for each in ({}, {"titles": "pseudonym"}, {"titles": "pseudonym", "titles_seed": 5})
        ]
        counts = []
        for run in runs:
            runner().make_features(run)
            counts.append(len(server.calls))
        assert counts[0] * 2 == counts[1]
        assert counts[0] * 3 == counts[2]
        assert set(server.times_asked().values()) == {1}
    manifests = [json.loads(path.read_text()) for path in SEMANTICS.glob("loo-vllm-*/manifest.json")]
    assert len({run.key for run in runs}) == 3
    assert sorted(str(each["identity"].get("titles")) for each in manifests) == [
        "None",
        "['pseudonym', 2020]",
        "['pseudonym', 5]",
    ]


def test_the_encoder_reads_invented_titles_and_the_row_says_so(tiny: Path) -> None:
    record = runner().run(make_run("SASRecText", epochs=1, titles="pseudonym"))
    assert record.label == "SASRecText (text, pseudonyms)"
    assert record.source == "text, pseudonyms"
    texts = read_table(next(SEMANTICS.glob("*/tiny.text")))["text"].tolist()
    assert texts
    assert not any("No. " in text for text in texts)


@pytest.mark.parametrize("given", [{}, {"titles_seed": 7}, {"titles": "real", "titles_seed": 7}])
def test_real_titles_leave_a_run_what_it_was(tiny: Path, given: dict[str, object]) -> None:
    assert make_run("EIMF", **given).key == make_run("EIMF").key


def test_what_reads_no_titles_is_the_same_run(tiny: Path) -> None:
    assert make_run("SASRec", titles="pseudonym").key == make_run("SASRec").key
    assert make_run("EIMF", semantics="none", titles="pseudonym").key == make_run("EIMF", semantics="none").key


def test_texts_that_tell_the_real_titles_are_refused(tiny: Path) -> None:
    Path("p.jsonl").write_text('{"title": "x", "text": "y"}\n')
    with pytest.raises(UserError, match="--titles=pseudonym: what --profiles brings"):
        settings_of("EIMF", titles="pseudonym", profiles="p.jsonl")
