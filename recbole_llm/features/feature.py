"""What a feature's builder works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import Split, whole_histories
from recbole_llm.features.folder import SemanticFolder
from recbole_llm.features.items import ItemTexts
from recbole_llm.features.sources import AnswerSource, Ledger, MakeScript, Progress
from recbole_llm.features.vectors import GivenVectors
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.settings.layers import Settings


class Prerequisite(Protocol):
    """The trained model that a feature stands on, trained when first asked.

    Attributes:
        key: tells it from others.
        folds: one entry for each model that speaks for training rows of users it has not seen (``train_rows``:
            digest of the rows it was trained on); empty where one model speaks for all.
    """

    key: str
    folds: list[dict[str, Any]]

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
        stage_one: the prerequisite model, where the method has one.
        encode: makes the text vectors in the order of ``folder.texts``.
        vectors_of: vectors of some texts by another pooling (``cls``).
        asking: how answers are got.
        ledger: what is asked and answered, ``None`` for the offline rule.
        given: vectors made elsewhere, by what they are of.
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

    @property
    def endpoint(self) -> Endpoint | None:
        """Where to ask, ``None`` for the offline rule."""
        return self.ledger.endpoint if self.ledger is not None else None

    def history(self, row: int) -> np.ndarray:
        """Item ids before a row of the interactions, as long as the model sees: never the row itself.

        Under a global time split they end at the cut that the row lies behind.
        """
        begin, end = int(self.table.offsets[self.table.user[row]]), self.split.shown_until(row)
        first = max(begin, end - int(self.settings["MAX_ITEM_LIST_LENGTH"]))
        return np.asarray(self.table.item[first:end])

    def target_rows(self) -> np.ndarray:
        """Rows that anything is predicted at, ascending: training targets, validation, test.

        Those are left out of which no history may be shown.
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
        """Whether gaps among the answers are to be filled by the offline rule (``--fill=offline``)."""
        return self.endpoint is not None and self.settings["fill"] == "offline"

    def answer_all(self, keys: Iterable[Any], script: MakeScript, title: str) -> Iterator[tuple[Any, Any]]:
        """Results of a script for each key, in order, ``None`` where there is no usable answer.

        How the answers are got is the command's affair (``self.asking``): asked for, collected for a batch,
        or, in a dry run, stood in for by the prompt's example. A builder has nothing to do for that.
        """
        assert self.ledger is not None
        return self.asking.results(self.ledger, list(keys), script, title)


class Feature(Protocol):
    """A builder of one or more files.

    Attributes:
        name: what registry rows call it.
        version: raise it with any change of the files it writes.
        prompts: files of ``semantics/prompts/`` that it asks with.
        settings_keys: settings that its files depend on.
        files: suffixes of the files it writes.

    Optional attributes, with what is assumed where a feature lacks them:

    - ``needs: tuple[str, ...]``, names of features whose files it reads (``()``): it is stale when they are.
    - ``visible: str``, what of a user its answers may stand on (``"none"``): ``"none"``, items alone;
      ``"prefix"``, what stands before the row of ``position``; ``"training"``, the user's training segment.
      ``doctor --leaks`` holds the files against it.
    - ``clusters_vectors: bool``, whether whom it asks about follows from sentence vectors (``False``): another encoder
      then has other answers too.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    prompts: ClassVar[tuple[str, ...]]
    settings_keys: ClassVar[tuple[str, ...]]
    files: ClassVar[tuple[str, ...]]

    def build(self, context: Context) -> dict[str, Any]:
        """Write the files; returns facts for the manifest, ``coverage`` among them."""


# What of a user a feature's answers may stand on: nothing, what precedes the asked row, all that may be shown.
ITEMS_ALONE, PREFIX, TRAINING = VISIBLE = ("none", "prefix", "training")


def visible_ends(table: Interactions, split: Split) -> np.ndarray:
    """``(n_users + 2,)`` int64: a user's rows ``offsets[u]:ends[u]`` may be shown, whatever they are used for.

    A user who is evaluated shows what stands before the first validation or test target; a user who only trains
    shows all training rows. So one answer a user serves training, validation and test alike, and no target of
    validation or test has ever been in a prompt. Under a global time split everyone shows training rows alone.
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
    """The training items of each user who has any, in order.

    Returns:
        Users ``(m,)`` ascending, offsets ``(m + 1,)`` and items ``(n_train,)`` in compressed rows.
    """
    rows = whole_histories(table, split.train_rows)
    users, counts = np.unique(np.asarray(table.user)[rows], return_counts=True)
    return users, np.concatenate([[0], np.cumsum(counts)]), np.asarray(table.item)[rows]
