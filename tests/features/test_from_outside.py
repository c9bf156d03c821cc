"""The user's own features and prompts: found beside their modules, or refused with one clear message.

tests/test_adding_a_method.py shows that they are asked for, read and used.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from recbole_llm.errors import UserError
from recbole_llm.experiments.generate import feature_builders
from recbole_llm.experiments.grid import expand
from recbole_llm.features.lookup import find_feature
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.sources import DryRun
from recbole_llm.methods.eimf.features import Exemplars
from tests.helpers import make_run, prepare, runner

PROMPT = {
    "version": 3,
    "answer": "recbole_llm.methods.eimf.features:OpenInterests",
    "max_tokens": 9,
    "system": "Answer.",
    "user": "Of {data}",
}
FEATURE = (
    "class Mine:\n  name='{name}'\n  version=1\n  prompts=settings_keys=files=()\n  def build(self, context): ...\n"
)


def write_prompt(folder: Path, module: str, **changes: object) -> None:
    """Write a module with a prompt beside it; module names must differ between tests."""
    (folder / f"{module}.py").touch()
    (folder / "prompts").mkdir()
    (folder / "prompts" / "own.yaml").write_text(yaml.safe_dump({**PROMPT, **changes}), encoding="utf-8")


def test_a_prompt_is_found_beside_its_module(workspace: Path) -> None:
    write_prompt(workspace, "prompt_found")
    prompt = load_prompt("prompt_found:own")
    assert (prompt.id, prompt.version, prompt.max_tokens) == ("prompt_found:own", 3, 9)
    assert prompt.messages([1])[-1]["content"] == "Of [1]"
    assert prompt.answer_class.__name__ == "OpenInterests"


def test_its_answer_may_be_a_class_of_its_own(workspace: Path) -> None:
    write_prompt(workspace, "prompt_own_answer", answer="prompt_own_answer:Word")
    (workspace / "prompt_own_answer.py").write_text("import pydantic\nclass Word(pydantic.BaseModel):\n  word: str\n")
    assert load_prompt("prompt_own_answer:own").schema["required"] == ["word"]


def test_a_prompt_that_was_edited_makes_another_run_in_the_same_process(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's process lives through many edits; it showed the record of the first text again and again."""
    write_prompt(Path(), "prompt_edited")
    monkeypatch.setattr(Exemplars, "prompts", ("prompt_edited:own",))
    (before,) = expand("EIMF", "tiny", semantics="offline")
    text = yaml.safe_dump({**PROMPT, "version": 4})
    Path("prompts/own.yaml").write_text(text, encoding="utf-8")
    (after,) = expand("EIMF", "tiny", semantics="offline")
    assert after.key != before.key


def test_a_feature_that_was_defined_again_is_the_new_one(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (1, 2):
        session: dict[str, type] = {}
        exec(FEATURE.format(name="again").replace("version=1", f"version={version}"), session)
        monkeypatch.setattr(sys.modules["__main__"], "Again", session["Mine"], raising=False)
        assert find_feature("__main__:Again").version == version


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "two"}, r"own\.yaml: a prompt has version, .*; version is a whole number, got 'two'"),
        ({"system": None}, "system is text, got None"),
        ({"max_token": 5}, r"a prompt has no 'max_token'. Did you mean max_tokens\?"),
        ({"user": "Of what?"}, r"user holds \{data\} once"),
        ({"examples": [{"question": 1}]}, "examples is a list of pairs"),
    ],
)
def test_a_file_that_is_no_prompt_says_what_is_wrong(
    workspace: Path, request: pytest.FixtureRequest, changes: dict[str, object], message: str
) -> None:
    module = f"prompt_wrong_{abs(hash(request.node.name))}"
    write_prompt(workspace, module, **changes)
    with pytest.raises(UserError, match=message):
        load_prompt(f"{module}:own")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("recbole_llm.methods.eimf.features:OpenIntrests", "Did you mean OpenInterests"),
        ("OpenInterests", "is not module:Class"),
        ("pathlib:Path", "is no pydantic model"),
    ],
)
def test_an_answer_that_is_none_is_named(
    workspace: Path, request: pytest.FixtureRequest, answer: str, message: str
) -> None:
    module = f"prompt_answer_{abs(hash(request.node.name))}"
    write_prompt(workspace, module, answer=answer)
    with pytest.raises(UserError, match=message):
        _ = load_prompt(f"{module}:own").answer_class


def test_an_example_whose_answer_would_not_be_accepted_is_refused_before_anything_is_asked(workspace: Path) -> None:
    good, bad = ({"data": 1, "answer": {"interests": words}} for words in (["red"], []))
    write_prompt(workspace, "prompt_example", examples=[good, bad])
    with pytest.raises(
        UserError, match=r"prompt_example:own: the answer of example 2 is no .*OpenInterests \(interests"
    ):
        load_prompt("prompt_example:own").messages([1])


def test_an_example_may_be_a_list_without_its_object_as_an_answer_may(workspace: Path) -> None:
    write_prompt(workspace, "prompt_list", examples=[{"data": 1, "answer": ["red"]}])
    assert '["red"]' in str(load_prompt("prompt_list:own").messages([1]))


def test_a_prompt_that_is_not_there_is_named_with_its_path(workspace: Path) -> None:
    (workspace / "prompt_missing.py").touch()
    with pytest.raises(UserError, match=r"prompts/own\.yaml: No such file"):
        load_prompt("prompt_missing:own")


def test_a_feature_is_found_by_its_path(workspace: Path) -> None:
    (workspace / "feature_found.py").write_text(FEATURE.format(name="mine"))
    assert find_feature("feature_found:Mine").name == "mine"
    assert find_feature("intent").name == "intent"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("intents", "", r"there is no semantic feature 'intents'. Did you mean intent or interest\?"),
        ("feature_taken:Mine", FEATURE.format(name="intent"), "the name 'intent' is taken"),
        ("feature_silent:Mine", "class Mine:\n  name = 'mine'\n", "does not say its version, prompts, "),
        ("feature_keys:Mine", FEATURE.format(name="mine") + "  settings_keys=('n_words')\n", r"such as \('n_words',\)"),
        ("feature_needs:Mine", FEATURE.format(name="mine") + "  needs='intent'\n", "needs is a list"),
        ("feature_sees:Mine", FEATURE.format(name="mine") + "  visible='train'\n", r"'train'. Did you mean training\?"),
        ("feature_missing:Mien", FEATURE.format(name="mine"), r"has no class 'Mien'. Did you mean Mine\?"),
    ],
)
def test_a_feature_that_cannot_be_used_says_why(workspace: Path, name: str, text: str, message: str) -> None:
    (workspace / f"{name.partition(':')[0]}.py").write_text(text)
    with pytest.raises(UserError, match=message):
        find_feature(name)


def test_a_feature_that_does_not_write_a_file_of_its_list_is_named(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exemplars, "files", (*Exemplars.files, "mood"))
    with pytest.raises(UserError, match="the feature exemplar: build wrote no mood, which `files` lists"):
        prepare("EIMF", epochs=1)


def test_a_file_of_an_earlier_version_is_not_taken_for_one_that_build_wrote(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("EIMF", epochs=1)
    monkeypatch.setattr(Exemplars, "version", Exemplars.version + 1)
    monkeypatch.setattr(Exemplars, "build", lambda self, context: {"coverage": 1.0})
    with pytest.raises(UserError, match="the feature exemplar: build wrote no usercluster, exemplar, which"):
        prepare("EIMF", epochs=1)


def test_a_feature_that_returns_no_facts_is_named(few_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Exemplars.build
    monkeypatch.setattr(Exemplars, "build", lambda self, context: build(self, context) and None)
    with pytest.raises(UserError, match=r"the feature exemplar: build returns a dict of facts, .* not None"):
        prepare("EIMF", epochs=1)


def test_a_prompt_that_a_feature_asks_and_does_not_list_is_refused_before_it_is_asked(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exemplars, "prompts", ())
    (builder,) = feature_builders([make_run("EIMF", epochs=1, llm="vllm")], runner(), DryRun())
    with pytest.raises(UserError, match="the prompt eimf_interests is asked by a feature that does not list it"):
        builder.make()


def test_a_feature_that_depends_on_a_mistyped_setting_is_refused(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exemplars, "settings_keys", ("cluster_prefrence",))
    with pytest.raises(UserError, match=r"the feature exemplar: settings_keys .* Did you mean cluster_preference or"):
        prepare("EIMF", epochs=1)
