"""ISRF's reasoning (arXiv 2603.13934, sections 4.1 and 4.2): likes, dislikes, and the conclusion from both.

Three questions per item (``.itemprofile``) and three per user (``.usertext``), each with the answers to the ones before
it. Questions about a user show the features of the user's items, so items are asked about first. Prompts show training
items only, newest first; those of the released code show the last 20 items of the whole sequence, test item included
(``legacy_leaks: true``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from recbole_llm.data.atomic import Column, read_table
from recbole_llm.features.answers import Paragraph
from recbole_llm.features.feature import ITEMS_ALONE, TRAINING, Context
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import ask
from recbole_llm.llm.chat import ChatAnswer, ChatRequest, Script
from recbole_llm.utils.text import clean, share_of

ITEM_COLUMNS = (
    Column("item_id", "token"),
    Column("positive_text", "token"),
    Column("negative_text", "token"),
    Column("profile_text", "token"),
)
USER_COLUMNS = (
    Column("user_id", "token"),
    Column("positive_text", "token"),
    Column("negative_text", "token"),
    Column("preference_text", "token"),
)
LONGEST = 1500  # characters of an answer that are kept
OFFLINE_ITEMS = 3
Texts = tuple[str, str, str]


def _step(
    prompt: str, data: Any, field: str, counts: Counter[str]
) -> Generator[ChatRequest, ChatAnswer | None, str | None]:
    """Ask one question of a chain; returns the text of one field of the answer."""
    return (yield from ask(load_prompt(prompt), data, lambda answer: clean(getattr(answer, field), LONGEST), counts))


class _Reasoning:
    """What both features share: answers from an LLM or from the rule, and writing them to a file."""

    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]]

    def _write(
        self,
        context: Context,
        suffix: str,
        columns: tuple[Column, ...],
        keys: list[int],
        token_of: Callable[[int], str],
        rule: Callable[[int], Texts],
        script: Callable[[int, Counter[str]], Script],
        title: str,
    ) -> dict[str, Any]:
        answered = filled = 0

        def lines() -> Iterator[tuple[str, ...]]:
            nonlocal answered, filled
            if context.endpoint is None:
                found: Iterator[tuple[int, Texts | None]] = ((key, rule(key)) for key in context.progress(keys, title))
            else:
                found = context.answer_all(keys, script, title)
            for key, texts in found:
                answered += texts is not None
                if texts is None and context.fills:
                    texts = rule(key)
                    filled += 1
                if texts is not None:
                    yield token_of(key), *(str(context.folder.texts.add(text)) for text in texts)

        context.folder.write(suffix, columns, lines())
        facts = {"filled": filled} if filled else {}
        return {"coverage": share_of(answered, len(keys)), **facts}


class ItemReasoning(_Reasoning):
    """``.itemprofile``: who likes an item, who does not, and its features."""

    name: ClassVar[str] = "item_reasoning"
    prompts: ClassVar[tuple[str, ...]] = ("isrf_item_positive", "isrf_item_negative", "isrf_item_feature")
    settings_keys: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ("itemprofile",)
    visible: ClassVar[str] = ITEMS_ALONE

    def build(self, context: Context) -> dict[str, Any]:
        """Ask three questions per item, or apply the rule."""
        items = context.items

        def metadata(item: int, *names: str) -> dict[str, str]:
            return {name: getattr(items, name)[item] or "None" for name in names}

        def script(item: int, counts: Counter[str]) -> Script:
            basic = {"title": items.title[item], **metadata(item, "description", "brand", "categories")}
            likes = yield from _step(self.prompts[0], basic, "summarization", counts)
            if likes is None:
                return None
            dislikes = yield from _step(self.prompts[1], {**basic, "summarization": likes}, "summarization", counts)
            if dislikes is None:
                return None
            both = {**basic, "pos_summarization": likes, "neg_summarization": dislikes}
            feature = yield from _step(self.prompts[2], both, "feature", counts)
            return None if feature is None else (likes, dislikes, feature)

        def rule(item: int) -> Texts:
            kind = ", ".join(part for part in (items.categories[item], items.brand[item]) if part) or items.title[item]
            return f"people who look for {kind}", f"people who avoid {kind}", _described(items, item)

        tokens = context.table.item_tokens
        keys = list(range(1, len(tokens)))
        return self._write(
            context, "itemprofile", ITEM_COLUMNS, keys, lambda k: str(tokens[k]), rule, script, "reasoning about items"
        )


def _described(items: Any, item: int) -> str:
    parts = (items.title[item], items.categories[item], items.brand[item])
    return ". ".join(part for part in parts if part)


class UserReasoning(_Reasoning):
    """``.usertext``: what a user likes and dislikes, and the user's core interests."""

    name: ClassVar[str] = "user_reasoning"
    prompts: ClassVar[tuple[str, ...]] = ("isrf_user_positive", "isrf_user_negative", "isrf_user_preference")
    settings_keys: ClassVar[tuple[str, ...]] = ("profile_items", "legacy_leaks")
    files: ClassVar[tuple[str, ...]] = ("usertext",)
    needs: ClassVar[tuple[str, ...]] = ("item_reasoning",)
    visible: ClassVar[str] = TRAINING

    def build(self, context: Context) -> dict[str, Any]:
        """Ask three questions per user, or apply the rule."""
        items, features = context.items, _item_features(context)
        count = int(context.settings["profile_items"])
        legacy = bool(context.settings["legacy_leaks"])

        def newest_first(user: int) -> list[int]:
            begin, end = np.asarray(context.table.offsets[user : user + 2])
            rows = np.arange(begin, end) if legacy else context.training_rows(user)
            return np.asarray(context.table.item[rows[-count:]])[::-1].tolist()

        def script(user: int, counts: Counter[str]) -> Script:
            chosen = [
                {
                    "title": items.title[item],
                    "brand": items.brand[item] or "None",
                    "categories": items.categories[item] or "None",
                    "feature": features[item] or "None",
                }
                for item in newest_first(user)
            ]
            likes = yield from _step(self.prompts[0], chosen, "summarization", counts)
            if likes is None:
                return None
            data: dict[str, Any] = {"preference": likes, "items": chosen}
            dislikes = yield from _step(self.prompts[1], data, "summarization", counts)
            if dislikes is None:
                return None
            data = {"preference": likes, "dislikes": dislikes, "items": chosen}
            core = yield from _step(self.prompts[2], data, "summarization", counts)
            return None if core is None else (likes, dislikes, core)

        words = _category_words(items)
        common = [word for word, _ in Counter(w for one in words[1:] for w in one).most_common(8)]

        def rule(user: int) -> Texts:
            chosen = newest_first(user)
            # Among equal counts the most recent kind comes first, since the list starts with the newest item.
            liked = [word for word, _ in Counter(w for item in chosen for w in words[item]).most_common(4)]
            avoided = [word for word in common if word not in {w for item in chosen for w in words[item]}][:4]
            titles = "; ".join(items.title[item] for item in chosen[:OFFLINE_ITEMS])
            likes = f"likes {', '.join(liked)}" if liked else f"likes {titles}"
            dislikes = f"avoids {', '.join(avoided)}" if avoided else "avoids nothing in particular"
            return likes, dislikes, f"{likes}. Lately: {titles}"

        tokens = context.table.user_tokens
        keys = [user for user in range(1, len(tokens)) if newest_first(user)]
        return self._write(
            context, "usertext", USER_COLUMNS, keys, lambda k: str(tokens[k]), rule, script, "reasoning about users"
        )


def _item_features(context: Context) -> list[str]:
    """The step-3 feature of each item; empty where there is none."""
    frame = read_table(context.folder.file("itemprofile"), ["item_id", "profile_text"])
    found = dict(zip(frame["item_id"].astype(str), frame["profile_text"].astype(np.int64), strict=True))
    texts = context.folder.texts.texts
    return [texts[found[str(token)]] if str(token) in found else "" for token in context.table.item_tokens]


def _category_words(items: Any) -> list[list[str]]:
    """Each item's categories as a list, or its brand where it has none."""
    found = []
    for categories, brand in zip(items.categories, items.brand, strict=True):
        parts = categories.replace(">", ",").replace("|", ",")
        words = [w.strip() for w in parts.split(",")] if "," in parts else parts.split()
        found.append([word for word in words if word] or ([brand] if brand else []))
    return found


class SummaryAnswer(BaseModel):
    """ISRF: who might like or dislike an item, or what a user likes or dislikes, and why."""

    model_config = ConfigDict(extra="ignore")

    summarization: Paragraph = Field(description="the conclusion alone")
    reasoning: str = Field(default="", max_length=8000, description="what it rests on")


class FeatureAnswer(BaseModel):
    """ISRF: the features of an item that its likers and dislikers point to, and why."""

    model_config = ConfigDict(extra="ignore")

    feature: Paragraph = Field(description="the features alone")
    reasoning: str = Field(default="", max_length=8000, description="what they rest on")
