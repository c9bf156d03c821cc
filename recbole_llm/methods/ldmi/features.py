"""``.interest`` and ``.synuser``: histories of users and of synthesised users divided into interests (LDMI)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from recbole_llm.data.atomic import Column
from recbole_llm.features.answers import AnswerError, Phrase, at_most
from recbole_llm.features.feature import TRAINING, Context, training_lists, visible_ends
from recbole_llm.features.offline import Grouping, Interest
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import ask
from recbole_llm.llm.chat import Script
from recbole_llm.methods.ldmi.cliques import clique_items, disjoint, max_coverage, nearest_users, user_item_matrix
from recbole_llm.utils.text import match_form, share_of

PROMPT = "ldmi_interests"
INTEREST_COLUMNS = (
    Column("user_id", "token"),
    Column("position", "token"),
    Column("interest_id", "token"),
    Column("interest_text", "token"),
)


class Interests:
    """An interest for each interaction that a prompt may show; long histories are divided window by window.

    Interests with the same name in several windows of a user are one interest.
    """

    name: ClassVar[str] = "interest"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = (PROMPT,)
    settings_keys: ClassVar[tuple[str, ...]] = ("interest_window",)
    files: ClassVar[tuple[str, ...]] = ("interest",)
    visible: ClassVar[str] = TRAINING

    def build(self, context: Context) -> dict[str, Any]:
        """Write one line for each interaction that has an interest."""
        facts: dict[str, Any] = {}
        ends = visible_ends(context.table, context.split)
        written = context.folder.write("interest", INTEREST_COLUMNS, _interest_rows(context, ends, facts))
        visible = int((ends - np.asarray(context.table.offsets)).sum())
        return {"coverage": share_of(written, visible), "visible": visible, **facts}


def windows(begin: int, end: int, longest: int) -> list[tuple[int, int]]:
    """``begin:end`` cut into parts of nearly equal length, none longer than ``longest``.

    A cut halfway between two rows goes to the even one, counted from the first row of the table. So a user's parts,
    and the questions about them, may differ by one item if the table holds other users before this one.
    """
    cuts = np.linspace(begin, end, -(-(end - begin) // longest) + 1).round().astype(int).tolist()
    return list(pairwise(cuts))


def _interest_rows(context: Context, ends: np.ndarray, facts: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    table, texts = context.table, context.folder.texts
    offsets, items = np.asarray(table.offsets), np.asarray(table.item)
    longest = max(1, int(context.settings["interest_window"]))
    parts = (
        ((user, first, last), items[first:last])
        for user in range(1, table.n_users + 1)
        for first, last in windows(int(offsets[user]), int(ends[user]), longest)
    )
    numbers: dict[str, int] = {}
    owner = 0
    for (user, first, _), interests in partitions(context, parts, "interests of histories", facts):
        if user != owner:
            numbers, owner = {}, user
        for interest in interests:
            number = numbers.setdefault(match_form(interest.name), len(numbers))
            text = texts.add(interest.name)
            for place in interest.places:
                yield table.user_tokens[user], first + place - int(offsets[user]), number, text


# ---- the division of a list of items ---------------------------------------------------------------


class InterestGroup(BaseModel):
    """LDMI: one interest."""

    model_config = ConfigDict(extra="ignore")

    name: Phrase
    items: list[int] = Field(description="numbers of the items", json_schema_extra=at_most(100))


class InterestGroups(BaseModel):
    """LDMI: a history divided into interests."""

    model_config = ConfigDict(extra="ignore")

    interests: list[InterestGroup] = Field(min_length=1, json_schema_extra=at_most(30))


Lists = Iterable[tuple[Any, np.ndarray]]


def partitions(
    context: Context, lists: Lists, title: str, facts: dict[str, Any]
) -> Iterator[tuple[Any, list[Interest]]]:
    """Each key with the interests of its list of items, in order; none for a list without a usable answer.

    Args:
        context: has the endpoint to ask; without one the offline rule divides the lists.
        lists: pairs of a key and item ids; keys are distinct.
        title: of the progress bar.
        facts: receives the number of lists ``asked`` about and, if any, of those ``filled`` by the rule.
    """
    if context.endpoint is None:
        groups = Grouping(context)
        for key, items in context.progress(list(lists), title):
            yield key, groups.interests(items)
        return
    yield from _asked(context, dict(lists), title, facts)


def _asked(
    context: Context, lists: dict[Any, np.ndarray], title: str, facts: dict[str, Any]
) -> Iterator[tuple[Any, list[Interest]]]:
    prompt = load_prompt(PROMPT)

    def script(key: Any, counts: Counter[str]) -> Script:
        items = lists[key]
        data = {str(number): context.items.title[item] for number, item in enumerate(items.tolist(), start=1)}

        def parse(answer: Any) -> list[Interest]:
            return read_groups(answer, len(items), counts)

        return (yield from ask(prompt, data, parse, counts))

    facts["asked"] = len(lists)
    groups = Grouping(context) if context.fills else None
    for key, found in context.answer_all(lists, script, title):
        if found is None and groups is not None:
            found = groups.interests(lists[key])
            facts["filled"] = facts.get("filled", 0) + 1
        yield key, found or []


def read_groups(answer: InterestGroups, size: int, counts: Counter[str]) -> list[Interest]:
    """The interests of an answer about ``size`` numbered items.

    An item listed twice stays in its first group, numbers that no item has are left out, and items in no group belong
    to no interest. All three are counted.

    Raises:
        AnswerError: no group holds an item.
    """
    taken: set[int] = set()
    found = []
    for group in answer.interests:
        places = []
        for number in group.items:
            if not 1 <= number <= size:
                counts["no_such_item"] += 1
            elif number in taken:
                counts["listed_twice"] += 1
            else:
                taken.add(number)
                places.append(number - 1)
        if places:
            found.append(Interest(group.name, sorted(places)))
    counts["omitted"] += size - len(taken)
    if not found:
        raise AnswerError(f"interests: put the items 1 to {size} into groups, by their numbers")
    return found


SYNUSER_COLUMNS = (
    Column("synuser_id", "token"),
    Column("position", "token"),
    Column("item_id", "token"),
    Column("interest_id", "token"),
)


class SynthesisedUsers:
    """Cliques of users, each as one user; a few are chosen that cover most of what all users do.

    A clique is a user and the ``clique_size - 1`` nearest others by their training items. With ``covering: cliques``
    cliques are chosen greedily until their items cover ``covering_share`` of what all cliques hold, in training
    interactions (``covering_weight: frequency``) or in items (``one``); at most ``covering_budget`` times the number
    of users are chosen. With ``covering: items``, the other reading of the paper, cliques are disjoint, all of them
    are used, and coverage chooses the items inside each.
    """

    name: ClassVar[str] = "synuser"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = (PROMPT,)
    settings_keys: ClassVar[tuple[str, ...]] = (
        "clique_size",
        "clique_weighting",
        "synthesised_items",
        "covering",
        "covering_weight",
        "covering_share",
        "covering_budget",
    )
    files: ClassVar[tuple[str, ...]] = ("synuser",)
    needs: ClassVar[tuple[str, ...]] = ()  # else it would wait for earlier features, not share a batch with them
    visible: ClassVar[str] = TRAINING

    def build(self, context: Context) -> dict[str, Any]:
        """Write one line for each item of a synthesised user that has an interest."""
        facts: dict[str, Any] = {}
        lists = synthesised_lists(context, facts)
        written = context.folder.write("synuser", SYNUSER_COLUMNS, _synuser_rows(context, lists, facts))
        return {"coverage": share_of(written, sum(map(len, lists))), "synthesised": len(lists), **facts}


def synthesised_lists(context: Context, facts: dict[str, Any]) -> list[np.ndarray]:
    """Items of each synthesised user, oldest first; the shares that they cover are added to ``facts``."""
    settings = context.settings
    users, offsets, items = training_lists(context.table, context.split)
    matrix = user_item_matrix(offsets, items, context.table.n_items, str(settings["clique_weighting"]))
    near = nearest_users(matrix, int(settings["clique_size"]) - 1, context.progress)
    cliques = np.concatenate([np.arange(len(users))[:, None], near], axis=1)
    if settings["covering"] == "items":
        cliques = disjoint(cliques)
    ends, flat = clique_items(cliques, offsets, items, int(settings["synthesised_items"]))
    chosen = list(range(len(cliques)))
    frequency = np.bincount(items, minlength=context.table.n_items + 1).astype(np.float64)
    if settings["covering"] == "cliques":
        weights = frequency if settings["covering_weight"] == "frequency" else (frequency > 0).astype(np.float64)
        budget = max(1, int(len(users) * float(settings["covering_budget"])))
        chosen = max_coverage(ends, flat, weights, budget, float(settings["covering_share"]))
    lists = [flat[ends[number] : ends[number + 1]] for number in chosen]
    held = np.unique(np.concatenate(lists))
    facts["items_covered"] = round(len(held) / max(1, int((frequency > 0).sum())), 4)
    facts["interactions_covered"] = round(float(frequency[held].sum() / frequency.sum()), 4)
    return lists


def _synuser_rows(context: Context, lists: list[np.ndarray], facts: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    tokens = context.table.item_tokens
    found = partitions(context, enumerate(lists), "interests of synthesised users", facts)
    for number, interests in found:
        for label, interest in enumerate(interests):
            for place in interest.places:
                yield number, place, tokens[lists[number][place]], label
