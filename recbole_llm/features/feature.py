"""The interface of a feature's builder, and what it works with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np

from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import Split, whole_histories
from recbole_llm.errors import UserError
from recbole_llm.features.folder import SemanticFolder
from recbole_llm.features.items import ItemTexts
from recbole_llm.features.sources import AnswerSource, Ledger, MakeScript, Progress
from recbole_llm.features.vectors import GivenVectors
from recbole_llm.llm.chat import Script
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.settings.layers import Settings


class Prerequisite(Protocol):
    """The trained model that a feature depends on; it is trained on first use.

    Attributes:
        key: identifies it.
        folds: one entry for each model that ranks for training rows of users it has not seen (``train_rows``:
            digest of the rows it was trained on); empty if one model ranks for all rows.
    """

    key: str
    folds: list[dict[str, Any]]

    def top_items(self, rows: np.ndarray, k: int) -> np.ndarray:
        """``(len(rows), k)`` item ids, best first, for the history before each row."""


@dataclass
class Context:
    """Everything a builder may look at.

    Attributes:
        settings: the run's settings.
        table, split: the interactions, and how they are divided into training, validation and test.
        items: the items' texts.
        folder: where files are written.
        stage_one: the prerequisite model, where the method has one.
        encode: makes the text vectors in the order of ``folder.texts``.
        vectors_of: makes the vectors of some texts by a pooling (``mean``, ``cls``).
        asking: how answers are obtained.
        ledger: what is asked and answered, ``None`` for the offline rule.
        given: vectors made elsewhere, by ``item_id`` or ``user_id``.
        prompts: the prompts (``id@version``) that the feature lists.
    """

    settings: Settings
    table: Interactions
    split: Split
    items: ItemTexts
    folder: SemanticFolder
    stage_one: Prerequisite | None
    progress: Progress
    encode: Callable[[], np.ndarray]
    vectors_of: Callable[[Sequence[str], str], np.ndarray]
    asking: AnswerSource = field(default_factory=AnswerSource)
    ledger: Ledger | None = None
    given: Mapping[str, GivenVectors] = field(default_factory=dict)
    prompts: Collection[str] = ()

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint to ask, ``None`` for the offline rule."""
        return self.ledger.endpoint if self.ledger is not None else None

    def history(self, row: int) -> np.ndarray:
        """The last ``MAX_ITEM_LIST_LENGTH`` item ids before a row of the interactions, never the row itself.

        Under a global time split they end at the last cut before the row.
        """
        begin, end = int(self.table.offsets[self.table.user[row]]), self.split.shown_until(row)
        first = max(begin, end - int(self.settings["MAX_ITEM_LIST_LENGTH"]))
        return np.asarray(self.table.item[first:end])

    def target_rows(self) -> np.ndarray:
        """Rows to predict, ascending: training targets, validation and test.

        Rows without any history that may be shown are left out.
        """
        split, offsets = self.split, np.asarray(self.table.offsets)
        rows = np.unique(np.concatenate([split.train_targets, split.valid.end, split.test.end]))
        return rows[split.all_shown_until(rows) > offsets[self.table.user[rows]]]

    def training_rows(self, user: int) -> np.ndarray:
        """Rows of a user's training segment: what a prompt about the whole user may show."""
        begin, end = np.asarray(self.table.offsets[user : user + 2])
        own = self.split.train_rows[slice(*np.searchsorted(self.split.train_rows, [begin, end]))]
        return np.arange(begin, own[-1] + 1 if len(own) else begin)

    @property
    def fills(self) -> bool:
        """Whether the offline rule fills gaps among the answers (``--fill=offline``)."""
        return self.endpoint is not None and self.settings["fill"] == "offline"

    def answer_all(self, keys: Iterable[Any], script: MakeScript, title: str) -> Iterator[tuple[Any, Any]]:
        """Each key with the result of its script, in order; ``None`` if there is no usable answer.

        ``self.asking`` decides how answers are obtained: asked for, collected for a batch or, in a dry run,
        replaced by the prompt's example. A builder need not care.

        Raises:
            UserError: a script asks a prompt that the feature does not list.
        """
        assert self.ledger is not None
        return self.asking.results(self.ledger, list(keys), partial(self._listed, script), title)

    def _listed(self, make: MakeScript, key: Any, counts: Counter[str]) -> Script:
        """A key's script, which may ask listed prompts only: a change of any other would make no feature stale."""
        script, answer = make(key, counts), None
        while True:
            try:
                request = script.send(answer)
            except StopIteration as end:
                return end.value
            if request.prompt not in self.prompts:
                name = request.prompt.rpartition("@")[0]
                raise UserError(f"the prompt {name} is asked by a feature that does not list it: add it to `prompts`.")
            answer = yield request


class Feature(Protocol):
    """A builder of one or more files.

    Attributes:
        name: what registry rows call it.
        version: raise it with any change of the files it writes.
        prompts: names of the prompts that it asks (:func:`~recbole_llm.features.prompts.load_prompt`).
        settings_keys: settings that its files depend on.
        files: suffixes of the files it writes.

    Optional attributes, with their defaults in brackets:

    - ``needs: tuple[str, ...]`` (``()``), names of features whose files it reads: it is stale when they are.
    - ``visible: str`` (``"none"``), which of a user's interactions its answers may use: ``"none"``, items only;
      ``"prefix"``, those before the row of ``position``; ``"training"``, the user's training segment.
      ``doctor --leaks`` checks the files against it.
    - ``clusters_vectors: bool`` (``False``), whether clusters of sentence vectors decide about whom it asks: then
      another encoder also means other answers.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    prompts: ClassVar[tuple[str, ...]]
    settings_keys: ClassVar[tuple[str, ...]]
    files: ClassVar[tuple[str, ...]]

    def build(self, context: Context) -> dict[str, Any]:
        """Write the files; returns facts for the manifest, including ``coverage``."""


# Which of a user's interactions a feature's answers may use: none, those before the row asked about, all that may be
# shown.
ITEMS_ALONE, PREFIX, TRAINING = VISIBLE = ("none", "prefix", "training")


def visible_ends(table: Interactions, split: Split) -> np.ndarray:
    """``(n_users + 2,)`` int64: the rows ``offsets[u]:ends[u]`` of a user may be shown in any prompt.

    For an evaluated user these are the rows before the first validation or test target, for any other user all
    training rows. So one answer per user serves training, validation and test, and no prompt contains a validation
    or test target. Under a global time split only training rows are shown.
    """
    offsets = np.asarray(table.offsets)
    ends = offsets.copy()
    np.maximum.at(ends, np.asarray(table.user)[split.train_rows], split.train_rows + 1)
    if split.cuts is not None:
        return ends
    first_target = np.full(len(offsets), len(table), dtype=np.int64)
    for cases in (split.valid, split.test):
        np.minimum.at(first_target, cases.user, cases.end)
    evaluated = first_target < len(table)
    ends[evaluated] = first_target[evaluated]
    return ends


def training_lists(table: Interactions, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The training items of each user who has any, in their order.

    Returns:
        Users ``(m,)`` ascending, offsets ``(m + 1,)`` and items ``(n_train,)`` in compressed rows.
    """
    rows = whole_histories(table, split.train_rows)
    users, counts = np.unique(np.asarray(table.user)[rows], return_counts=True)
    return users, np.concatenate([[0], np.cumsum(counts)]), np.asarray(table.item)[rows]
