"""Versioned prompts: YAML files with their texts, token limit and answer class.

A prompt is named by its file in the ``prompts/`` folder of a method, or by ``module:name``, which is
``prompts/name.yaml`` beside a module from outside. A method's answer classes are defined in its ``features`` module.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.features.answers import AnswerError, read_answer
from recbole_llm.utils.plugins import load_class, module_folder
from recbole_llm.utils.text import storable
from recbole_llm.utils.yaml import PACKAGE, read_yaml

METHODS = "recbole_llm.methods"
KEYS = {"version": int, "system": str, "user": str, "answer": str, "max_tokens": int}


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: its name, as :func:`load_prompt` takes it.
        home: package of the method that it belongs to; empty for a prompt from outside.
        version: raise it with any change; features made with another version are stale.
        system, user: texts; ``{data}`` in ``user`` is replaced by the data as JSON.
        examples: worked question-and-answer pairs, shown before the question.
        answer: name of the answer's class in the method's ``features`` module, or ``module:Class``.
        max_tokens: token limit of the answer.
        sha256: hash of the file's contents.
    """

    id: str
    home: str
    version: int
    system: str
    user: str
    examples: tuple[tuple[Any, Any], ...]
    answer: str
    max_tokens: int
    sha256: str

    @property
    def name(self) -> str:
        """``id@version``, by which its answers are kept."""
        return f"{self.id}@{self.version}"

    @property
    def answer_class(self) -> type[BaseModel]:
        """The pydantic class that answers must satisfy.

        Raises:
            UserError: there is no such class.
        """
        if not self.home and ":" not in self.answer:
            raise UserError(f"the prompt {self.id}, answer: {self.answer} is not module:Class.")
        target = self.answer if ":" in self.answer else f"{self.home}.features:{self.answer}"
        found = load_class(target, f"the prompt {self.id}, answer: {self.answer}")
        if not issubclass(found, BaseModel):
            raise UserError(f"the prompt {self.id}, answer: {self.answer} is no pydantic model.")
        return found

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer, made once and shared by all requests."""
        return self.answer_class.model_json_schema()

    @cached_property
    def _opening(self) -> tuple[dict[str, str], ...]:
        """The messages before the question.

        Raises:
            UserError: an example's answer would not be accepted as an answer.
        """
        chat = [{"role": "system", "content": self.system}]
        for number, (question, answer) in enumerate(self.examples, start=1):
            try:
                read_answer(json.dumps(answer), self.answer_class)
            except AnswerError as error:
                raise UserError(
                    f"the prompt {self.id}: the answer of example {number} is no {self.answer} ({error})."
                ) from error
            chat.append({"role": "user", "content": self._question(question)})
            chat.append({"role": "assistant", "content": json.dumps(answer, ensure_ascii=False)})
        return tuple(chat)

    def facts(self) -> dict[str, Any]:
        """The whole prompt, for the manifest."""
        return {
            "version": self.version,
            "sha256": self.sha256,
            "system": self.system,
            "user": self.user,
            "examples": [{"data": data, "answer": answer} for data, answer in self.examples],
            "answer": self.schema,
            "max_tokens": self.max_tokens,
        }

    def messages(self, data: Any) -> list[dict[str, str]]:
        """The chat messages that ask about ``data`` (passed as JSON, so titles cannot end a string or a list)."""
        return [*self._opening, {"role": "user", "content": self._question(data)}]

    def _question(self, data: Any) -> str:
        # The data may come from an answer, whose JSON may hold half an emoji.
        return self.user.replace("{data}", storable(json.dumps(data, ensure_ascii=False)))


@cache
def load_prompt(name: str) -> Prompt:
    """Read a prompt by its name.

    Raises:
        UserError: there is no such file, or it is not a prompt.
    """
    module, outside, stem = name.rpartition(":")
    if outside:
        home, path = "", module_folder(module, f"the prompt {name}") / "prompts" / f"{stem}.yaml"
    else:
        home, path = _built_in(stem)
    raw = read_yaml(path)
    _check(raw, path)
    text = json.dumps(raw, sort_keys=True, ensure_ascii=False)
    return Prompt(
        id=name,
        home=home,
        version=raw["version"],
        system=raw["system"].strip(),
        user=raw["user"].strip(),
        examples=tuple((example["data"], example["answer"]) for example in raw.get("examples", [])),
        answer=raw["answer"],
        max_tokens=raw["max_tokens"],
        sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
    )


def _built_in(stem: str) -> tuple[str, Path]:
    """The package of the method that has a prompt of that name, and the prompt's file."""
    folder = PACKAGE / "methods"
    path = next(folder.glob(f"*/prompts/{stem}.yaml"), None)
    if path is None:
        known = [file.stem for file in folder.glob("*/prompts/*.yaml")]
        raise UserError(f"there is no prompt {stem!r}.{did_you_mean(stem, known)} module:name names one of your own.")
    return f"{METHODS}.{path.parents[1].name}", path


def _check(raw: dict[str, Any], path: Path) -> None:
    for key, kind in KEYS.items():
        if not isinstance(raw.get(key), kind):
            what = {int: "a whole number", str: "text"}[kind]
            raise UserError(f"{path}: a prompt has {', '.join(KEYS)}; {key} is {what}, got {raw.get(key)!r}.")
    for key in raw:
        if key not in (*KEYS, "examples"):
            raise UserError(f"{path}: a prompt has no {key!r}.{did_you_mean(key, (*KEYS, 'examples'))}")
    if raw["user"].count("{data}") != 1:
        raise UserError(f"{path}: user holds {{data}} once, where the data go as JSON.")
    examples = raw.get("examples", [])
    if not isinstance(examples, list) or any(not isinstance(e, dict) or {*e} != {"data", "answer"} for e in examples):
        raise UserError(f"{path}: examples is a list of pairs, `data` and `answer`.")
