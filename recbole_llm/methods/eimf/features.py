"""``.usercluster`` and ``.exemplar``: users clustered by the texts of their items, and exemplars' interests (EIMF)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from recbole_llm.data.atomic import Column
from recbole_llm.features.answers import Phrase, at_most
from recbole_llm.features.feature import TRAINING, Context, training_lists
from recbole_llm.features.offline import Grouping
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import ask
from recbole_llm.llm.chat import Script
from recbole_llm.methods.eimf import affinity
from recbole_llm.utils.text import share_of

PROMPT = "eimf_interests"
BLOCK = 2**14  # training items whose vectors are gathered at a time, or those of one user if there are more
CLUSTERS = (Column("user_id", "token"), Column("exemplar_id", "token"))
_NUMBERED = re.compile(r"(?:interests?)?[ _#-]*\d+", re.I)  # keys of interests in the released form
INTERESTS = (Column("exemplar_id", "token"), Column("interest_text", "token_seq"))


class Exemplars:
    """Affinity Propagation over users, and the interests of each exemplar in the LLM's own words.

    A user's vector is the mean of the text vectors of the titles of all training items. Users without training
    items belong to no cluster.
    """

    name: ClassVar[str] = "exemplar"
    version: ClassVar[int] = 2
    prompts: ClassVar[tuple[str, ...]] = (PROMPT,)
    settings_keys: ClassVar[tuple[str, ...]] = (
        "cluster_pooling",
        "cluster_preference",
        "exact_users",
        "exemplar_items",
    )
    files: ClassVar[tuple[str, ...]] = ("usercluster", "exemplar")
    visible: ClassVar[str] = TRAINING
    clusters_vectors: ClassVar[bool] = True

    def build(self, context: Context) -> dict[str, Any]:
        """Cluster the users, ask about exemplars only, and write both files."""
        users, offsets, items = training_lists(context.table, context.split)
        vectors = user_vectors(context, offsets, items)
        preference = affinity.preference_of(vectors, float(context.settings["cluster_preference"]))
        label = affinity.exemplars(vectors, preference, int(context.settings["exact_users"]), context.progress)
        names = context.table.user_tokens[users]
        context.folder.write("usercluster", CLUSTERS, zip(names, names[label], strict=True))
        longest = int(context.settings["exemplar_items"])
        histories = {
            int(row): items[max(offsets[row], offsets[row + 1] - longest) : offsets[row + 1]]
            for row in np.unique(label)
        }
        facts: dict[str, Any] = {}
        lines = _offline(context, histories) if context.endpoint is None else _asked(context, histories, facts)
        answered: list[int] = []

        def rows() -> Iterator[tuple[Any, ...]]:
            for row, texts in lines:
                answered.append(row)
                yield names[row], [context.folder.texts.add(text) for text in texts]

        context.folder.write("exemplar", INTERESTS, rows())
        return {
            "coverage": share_of(int(np.isin(label, answered).sum()), len(label)),
            "exemplars": len(histories),
            "preference": round(preference, 6),
            "net_similarity": round(affinity.net_similarity(vectors, label, preference), 4),
            **facts,
        }


def user_vectors(context: Context, offsets: np.ndarray, items: np.ndarray) -> np.ndarray:
    """``(m, d)`` float32 mean text vector of the titles of each user's items.

    Vectors are gathered for whole users, block by block.

    Args:
        context: gives the titles and their vectors, pooled as ``cluster_pooling`` says.
        offsets, items: items of each user in compressed rows, at least one each.
    """
    table = context.vectors_of(context.items.title[1:], str(context.settings["cluster_pooling"]))
    found = np.empty((len(offsets) - 1, table.shape[1]), dtype=np.float32)
    begin = 0
    while begin < len(found):
        end = max(begin + 1, int(np.searchsorted(offsets, offsets[begin] + BLOCK, side="right")) - 1)
        bounds = offsets[begin : end + 1]
        own = table[items[bounds[0] : bounds[-1]] - 1]
        found[begin:end] = np.add.reduceat(own, bounds[:-1] - bounds[0]) / np.diff(bounds)[:, None]
        begin = end
    return found


def _offline(context: Context, histories: dict[int, np.ndarray]) -> Iterator[tuple[int, list[str]]]:
    """Interests by rule: a phrase for each group of similar items, largest groups first."""
    grouping = Grouping(context)
    for row, items in context.progress(list(histories.items()), "interests of exemplars"):
        groups = sorted(grouping.interests(items), key=lambda interest: -len(interest.places))
        yield row, list(dict.fromkeys(_phrase(context, group.name, items[group.places]) for group in groups))


def _phrase(context: Context, name: str, items: np.ndarray) -> str:
    last = context.items.title[int(items[-1])]
    return name if name == last else f"{name}, such as {last}"


def _asked(
    context: Context, histories: dict[int, np.ndarray], facts: dict[str, Any]
) -> Iterator[tuple[int, list[str]]]:
    prompt = load_prompt(PROMPT)

    def script(row: int, counts: Counter[str]) -> Script:
        titles = [context.items.title[item] for item in histories[row]]
        return (yield from ask(prompt, titles, lambda answer: _texts(answer, titles, counts), counts))

    facts["asked"] = len(histories)
    gaps = {}
    for row, texts in context.answer_all(histories, script, "interests of exemplars"):
        if texts is not None:
            yield row, texts
        elif context.fills:
            gaps[row] = histories[row]
    if gaps:
        facts["filled"] = len(gaps)
        yield from _offline(context, gaps)


def _texts(answer: Any, titles: list[str], counts: Counter[str]) -> list[str]:
    """Distinct interests of an answer; repeats are dropped, bare item titles are kept, and both are counted."""
    assert isinstance(answer, OpenInterests)
    found = {interest.casefold(): interest for interest in reversed(answer.interests)}
    counts["duplicate"] += len(answer.interests) - len(found)
    counts["title"] += len(found.keys() & {title.casefold() for title in titles})
    return list(dict.fromkeys(found[interest.casefold()] for interest in answer.interests))


class OpenInterests(BaseModel):
    """EIMF: interests in the model's own words; ``{"1": "...", "2": "..."}``, the released form, is read too."""

    model_config = ConfigDict(extra="ignore")

    interests: list[Phrase] = Field(min_length=1, json_schema_extra=at_most(20))

    @model_validator(mode="before")
    @classmethod
    def _numbered(cls, value: Any) -> Any:
        if isinstance(value, dict):
            found = value.get("interests", value)
            if isinstance(found, dict) and found and all(_NUMBERED.fullmatch(str(key)) for key in found):
                return {"interests": list(found.values())}
        return value
