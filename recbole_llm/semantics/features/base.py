"""What a feature's builder works with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import Split
from recbole_llm.semantics.items import ItemTexts
from recbole_llm.semantics.llm.cache import ChatAnswer, ResponseCache
from recbole_llm.semantics.llm.client import Client, Script, Usage, replay
from recbole_llm.semantics.llm.endpoint import Endpoint
from recbole_llm.semantics.store import SemanticFolder
from recbole_llm.settings import Settings

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


class StageOne(Protocol):
    """The trained model that a feature stands on, trained when first asked."""

    key: str

    def top_items(self, rows: np.ndarray, k: int) -> np.ndarray:
        """``(len(rows), k)`` item ids, best first, for the histories before some rows."""


@dataclass
class Context:
    """Everything a builder may look at.

    Attributes:
        settings: of the run.
        table, split: interactions and what of them trains and tests.
        items: the items' texts.
        folder: where files are written.
        endpoint: where to ask, ``None`` for the offline rule.
        cache: the response cache, ``None`` offline.
        stage_one: the prerequisite model, where the method has one.
        encode: text vectors in the order of ``folder.texts``, made on demand.
        vectors_of: vectors of some texts by another pooling (``cls``).
    """

    settings: Settings
    table: Interactions
    split: Split
    items: ItemTexts
    folder: SemanticFolder
    endpoint: Endpoint | None
    cache: ResponseCache | None
    stage_one: StageOne | None
    progress: Progress
    encode: Callable[[], np.ndarray]
    vectors_of: Callable[[Sequence[str], str], np.ndarray]
    usage: Usage = field(default_factory=Usage)

    def history(self, row: int) -> np.ndarray:
        """Item ids before a row of the interactions, as long as the model sees: never the row itself."""
        begin = int(self.table.offsets[self.table.user[row]])
        first = max(begin, row - int(self.settings["MAX_ITEM_LIST_LENGTH"]))
        return np.asarray(self.table.item[first:row])

    def target_rows(self) -> np.ndarray:
        """Rows that anything is predicted at, ascending: training targets, validation, test."""
        split = self.split
        return np.unique(np.concatenate([split.train_targets, split.valid.end, split.test.end]))

    def answer_all(
        self, keys: Iterable[Any], script: Callable[[Any, Counter[str]], Script], title: str
    ) -> Iterator[tuple[Any, Any]]:
        """Results of a script for each key, in order; asks for what the cache lacks.

        First all scripts run against the endpoint, each answer going straight into the cache; then they
        are replayed from it one by one. So memory stays flat, and a second run starts at the second step.
        """
        assert self.endpoint is not None and self.cache is not None
        keys = list(keys)
        client = Client(
            self.endpoint,
            self.cache,
            max_cost=self.settings.get("max_cost"),
            max_requests=self.settings.get("max_requests"),
        )
        bar = iter(self.progress(range(len(keys)), title))
        client.run((script(key, Counter()) for key in keys), done=lambda: next(bar, None))
        for name in ("requests", "cached", "failed", "attempts"):
            setattr(self.usage, name, getattr(self.usage, name) + getattr(client.usage, name))
        self.usage.stopped = self.usage.stopped or client.usage.stopped
        counts: Counter[str] = Counter()
        used: dict[str, ChatAnswer] = {}
        for key in keys:
            yield key, replay(script(key, counts), self.cache, self.endpoint, used)
        self.counts = dict(counts)
        # What the answers cost, whichever run paid for them: a resumed run would look cheaper than it was.
        tokens_in = sum(answer.tokens_in for answer in used.values())
        tokens_out = sum(answer.tokens_out for answer in used.values())
        self.usage.tokens_in += tokens_in
        self.usage.tokens_out += tokens_out
        self.usage.price += self.endpoint.price(tokens_in, tokens_out)

    counts: dict[str, int] = field(default_factory=dict)


class Feature(Protocol):
    """A builder of one or more files."""

    name: ClassVar[str]
    version: ClassVar[int]
    prompts: ClassVar[tuple[str, ...]]
    settings_keys: ClassVar[tuple[str, ...]]
    files: ClassVar[tuple[str, ...]]

    def build(self, context: Context) -> dict[str, Any]:
        """Write the files; returns facts for the manifest, ``coverage`` among them."""
