"""Versioned prompts: YAML files with their texts, decoding parameters and answer schemas."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recbole_llm.semantics import answers
from recbole_llm.settings import read_yaml

FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: the file's name.
        version: raise it with any change; features made by another version are stale.
        system, user: texts; ``{data}`` in ``user`` is replaced by the data as JSON.
        examples: worked question-and-answer pairs, shown before the question.
        answer: name of the answer's class in ``semantics.answers``.
        max_tokens: of the answer.
        sha256: of everything above.
    """

    id: str
    version: int
    system: str
    user: str
    examples: tuple[tuple[Any, Any], ...]
    answer: str
    max_tokens: int
    sha256: str

    @property
    def answer_class(self) -> type[BaseModel]:
        """The pydantic class that answers must satisfy."""
        found: type[BaseModel] = getattr(answers, self.answer)
        return found

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer; made once, a hundred thousand requests share it."""
        return self.answer_class.model_json_schema()

    @cached_property
    def _opening(self) -> tuple[dict[str, str], ...]:
        """The messages before the question."""
        chat = [{"role": "system", "content": self.system}]
        for question, answer in self.examples:
            chat.append({"role": "user", "content": self._question(question)})
            chat.append({"role": "assistant", "content": json.dumps(answer, ensure_ascii=False)})
        return tuple(chat)

    def facts(self) -> dict[str, Any]:
        """The prompt as the manifest keeps it, whole."""
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
        """The chat messages that ask about ``data`` (passed as JSON: titles cannot end a string or a list)."""
        return [*self._opening, {"role": "user", "content": self._question(data)}]

    def _question(self, data: Any) -> str:
        return self.user.replace("{data}", json.dumps(data, ensure_ascii=False))


@cache
def load_prompt(name: str) -> Prompt:
    """Read a prompt by the name of its file."""
    raw = read_yaml(FOLDER / f"{name}.yaml")
    text = json.dumps(raw, sort_keys=True, ensure_ascii=False)
    return Prompt(
        id=name,
        version=int(raw["version"]),
        system=str(raw["system"]).strip(),
        user=str(raw["user"]).strip(),
        examples=tuple((example["data"], example["answer"]) for example in raw.get("examples", [])),
        answer=str(raw["answer"]),
        max_tokens=int(raw["max_tokens"]),
        sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
    )
