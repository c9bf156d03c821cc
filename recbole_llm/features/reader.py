"""Semantic features as models read them: tensors aligned with the interactions of this run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recbole_llm.data.atomic import read_table
from recbole_llm.data.interactions import Interactions
from recbole_llm.errors import UserError
from recbole_llm.features.folder import SemanticFolder
from recbole_llm.features.vectors import GivenVectors
from recbole_llm.layers.text_projection import zca
from recbole_llm.settings.schema import ITEM, USER
from recbole_llm.utils.arrays import joined_ranges

logger = logging.getLogger(__name__)

BLOCK = 2**13  # items whose texts' vectors are gathered at a time


@dataclass(frozen=True)
class Bags:
    """A list of text ids for each interaction (key: user and position), in compressed rows.

    Attributes:
        offsets: ``(n + 1,)`` int64.
        ids: text ids.
    """

    offsets: torch.Tensor
    ids: torch.Tensor


class SemanticFeatures:
    """What a model gets as ``dataset.semantics``.

    Keys of the files (user, position) are mapped to rows of the interactions through the dataset's own
    tokens, after filtering. Keys that filtering removed are counted; no user and no item is added.

    Args:
        folder: the files.
        table: the interactions.
        encode: gives the vectors of the folder's texts.
        semantics: ``llm``, ``offline``, ``shuffled`` or ``random``.
        facts: facts for the record.
        seed: seed of the controls (``shuffled``, ``random``).
        given: vectors made elsewhere, by ``item_id`` or ``user_id``.
        whitening: ``none`` or ``zca``, for all vectors.
        digest: hash of the files and texts; an interrupted training must go on with the same ones.
    """

    def __init__(
        self,
        folder: SemanticFolder,
        table: Interactions,
        encode: Callable[[], np.ndarray],
        semantics: str,
        facts: dict[str, Any],
        seed: int,
        given: Mapping[str, GivenVectors] | None = None,
        whitening: str = "none",
        digest: str = "",
    ) -> None:
        self.folder, self.table, self.semantics = folder, table, semantics
        self._encode, self._facts, self._seed = encode, facts, seed
        self._given, self._whitening = given or {}, whitening
        self.digest = digest
        self._users = {token: number for number, token in enumerate(table.user_tokens.tolist()) if number}

    def facts(self) -> dict[str, Any]:
        """For the record: source, cost, coverage."""
        return self._facts

    def text_vectors(self) -> torch.Tensor:
        """``(n_texts, d)`` float32 in the order of the text ids.

        With ``semantics: random`` the vectors are Gaussian directions with the norms of the real ones.
        """
        return self._treated(torch.from_numpy(np.array(self._encode())))

    def _treated(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors, whitened if asked for, and with ``semantics: random`` turned into random directions."""
        if self._whitening == "zca":
            vectors = zca(vectors)
        if self.semantics == "random":
            generator = torch.Generator().manual_seed(self._seed)
            noise = torch.randn(vectors.shape, generator=generator)
            vectors = torch.nn.functional.normalize(noise, dim=1) * vectors.norm(dim=1, keepdim=True)
        return vectors

    def _given_vectors(self, key: str, tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Given vectors of a dataset's ids, zero if an id has none, and a mask of the ids that have one.

        With ``semantics: shuffled`` the ids that have a vector exchange their vectors.
        """
        found, known = self._given[key].aligned(tokens.tolist())
        table, rows = torch.from_numpy(found), torch.from_numpy(np.flatnonzero(known))
        vectors = self._treated(table[rows])
        if self.semantics == "shuffled":
            vectors = vectors[torch.from_numpy(_shuffle_within(np.arange(len(rows)), None, self._seed))]
        table[rows] = vectors
        return table, torch.from_numpy(known)

    def item_vectors(self, columns: Sequence[str], suffix: str = "itemtext") -> tuple[torch.Tensor, torch.Tensor]:
        """``(n_items + 1, d)`` item vectors, zero if an item has none, and ``(n_items + 1,)`` bool, which have one.

        These are the given vectors if there are any, otherwise the mean vector of an item's texts in some columns.
        With ``semantics: shuffled`` items exchange them; with ``random`` they have random directions.

        Args:
            columns: the text columns, such as ``title_text``.
            suffix: the file with these columns.

        Raises:
            UserError: no item has a text in the columns, or profiles are asked for and none are given.
        """
        if ITEM in self._given:
            return self._given_vectors(ITEM, self.table.item_tokens)
        found = {column: self.item_text_ids(column, suffix, exchange=True) for column in columns}
        filled = {column for column, ids in found.items() if bool((ids >= 0).any())}
        if "profile_text" in set(columns) - filled:
            raise UserError("text_columns: no item has a profile_text; --profiles=FILE gives them.")
        if not filled:
            raise UserError(f"text_columns={columns}: no item has a text there, and a model of no text learns nothing.")
        vectors = self.text_vectors()
        ids = torch.stack([found[column] for column in columns], dim=1)
        present = ids >= 0
        total = torch.empty(len(ids), vectors.shape[1])
        for sums, which, real in zip(total.split(BLOCK), ids.split(BLOCK), present.split(BLOCK), strict=True):
            torch.sum(vectors[which.clamp(min=0)] * real[:, :, None], dim=1, out=sums)
        return total.div_(present.sum(dim=1, keepdim=True).clamp(min=1)), present.any(dim=1)

    def user_vectors(self, column: str | None = None) -> tuple[torch.Tensor, torch.Tensor] | None:
        """``(n_users + 1, d)`` user vectors, zero if a user has none, and ``(n_users + 1,)`` bool, which have one.

        These are the given vectors if there are any, otherwise those of a column of ``.usertext``; ``None`` if no
        column is named.
        """
        if USER in self._given:
            return self._given_vectors(USER, self.table.user_tokens)
        if column is None:
            return None
        ids = self.user_text_ids(column)
        known = ids >= 0
        return self.text_vectors()[ids.clamp(min=0)] * known[:, None], known

    def _exchanged(self, values: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
        """Values, with ``semantics: shuffled`` exchanged inside each group; without groups, among all."""
        return _shuffle_within(values, groups, self._seed) if self.semantics == "shuffled" else values

    def _controlled(self, values: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
        """:meth:`_exchanged`, and with ``semantics: random`` drawn from the values of the group instead."""
        if self.semantics == "random":
            return _draw_within(values, groups, self._seed)
        return self._exchanged(values, groups)

    def user_offsets(self) -> torch.Tensor:
        """``(n_users + 2,)`` int64: first row of each user, and the end."""
        return torch.from_numpy(np.array(self.table.offsets))

    def rows_of(self, users: list[str], positions: np.ndarray) -> np.ndarray:
        """Rows of the interactions for keys of a file; -1 for keys that this dataset does not have."""
        ids = np.array([self._users.get(user, 0) for user in users], dtype=np.int64)
        offsets = np.asarray(self.table.offsets)
        rows = offsets[ids] + positions
        known = (ids > 0) & (positions >= 0) & (rows < offsets[ids + 1])
        return np.where(known, rows, -1)

    def bags(self, suffix: str, columns: list[str]) -> dict[str, Bags]:
        """The text-id lists of some columns of a (user, position) file.

        With ``semantics: shuffled`` the answers are permuted among keys with the same position, all columns of an
        answer together: the answers stay the same, but belong to other users.
        """
        frame = read_table(self.folder.file(suffix), ["user_id", "position", *columns])
        positions = frame["position"].astype(np.int64).to_numpy()
        rows = self.rows_of(frame["user_id"].astype(str).tolist(), positions)
        kept = np.flatnonzero(rows >= 0)
        answers = self._exchanged(kept, positions[kept])
        found = {}
        for column in columns:
            lists = _parse_lists(frame[column].fillna("").tolist())
            found[column] = _to_bags(rows[kept], answers, lists, len(self.table))
        return found

    # ---- features by item, user, interaction and synthesised user ------------------------------------

    def item_text_ids(self, column: str, suffix: str = "itemtext", exchange: bool = False) -> torch.Tensor:
        """``(n_items + 1,)`` int64 text id of each item in one column of ``.itemtext``; -1 where there is none.

        Args:
            column: such as ``title_text``.
            suffix: another file with one line per item.
            exchange: with ``semantics: shuffled`` items exchange their texts, in all columns alike; for methods
                that read texts and no other feature.
        """
        return self._ids(suffix, "item_id", column, self.table.item_tokens, exchange)

    def item_codes(self) -> torch.Tensor:
        """``(n_items + 1,)`` int64 text cluster of each item; -1 for padding.

        With ``semantics: shuffled`` items exchange their clusters; with ``random`` each item draws one of these.
        """
        codes = self._ids("codes", "item_id", "code", self.table.item_tokens, exchange=False)
        codes[1:] = torch.from_numpy(self._controlled(codes[1:].numpy()))
        return codes

    def user_text_ids(self, column: str) -> torch.Tensor:
        """``(n_users + 1,)`` int64 text id of each user in one column of ``.usertext``; -1 where there is none.

        With ``semantics: shuffled`` the users exchange their texts.
        """
        return self._ids("usertext", "user_id", column, self.table.user_tokens, exchange=True)

    def _ids(self, suffix: str, key: str, column: str, tokens: np.ndarray, exchange: bool) -> torch.Tensor:
        frame = read_table(self.folder.file(suffix), [key, column])
        cells = dict(zip(frame[key].astype(str), frame[column].fillna(""), strict=True))
        ids = np.array([int(cells.get(token, "") or -1) for token in tokens.tolist()], dtype=np.int64)
        if exchange:
            ids[1:] = self._exchanged(ids[1:])
        return torch.from_numpy(ids)

    def texts(self, ids: torch.Tensor) -> list[str]:
        """The texts of some ids; empty for -1."""
        return [self.folder.texts.texts[number] if number >= 0 else "" for number in ids.tolist()]

    def shown_texts(self, column: str) -> list[str]:
        """The text of each item in one column of ``.itemtext``, for models that read text itself; empty for padding.

        With ``semantics: shuffled`` items exchange their texts; with ``random`` each item draws an item and has its
        text, in all columns that of the same item.
        """
        ids = self.item_text_ids(column)
        ids[1:] = torch.from_numpy(self._controlled(ids[1:].numpy()))
        return self.texts(ids)

    def user_interests(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Interest texts of each user's cluster (EIMF), in compressed rows by user id: offsets and text ids.

        With ``semantics: shuffled`` the exemplars exchange their answers.
        """
        exemplars = read_table(self.folder.file("exemplar"), ["exemplar_id", "interest_text"])
        offsets, flat = _parse_lists(exemplars["interest_text"].fillna("").tolist())
        answer = self._exchanged(np.arange(len(exemplars)))
        line_of = dict(zip(exemplars["exemplar_id"].astype(str), answer.tolist(), strict=True))
        clusters = read_table(self.folder.file("usercluster"), ["user_id", "exemplar_id"])
        lists: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * (self.table.n_users + 1)
        for user, exemplar in zip(clusters["user_id"].astype(str), clusters["exemplar_id"].astype(str), strict=True):
            number, line = self._users.get(user, 0), line_of.get(exemplar)
            if number and line is not None:
                lists[number] = flat[offsets[line] : offsets[line + 1]]
        counts = np.array([len(one) for one in lists], dtype=np.int64)
        ends = np.concatenate([[0], np.cumsum(counts)])
        return torch.from_numpy(ends), torch.from_numpy(np.concatenate(lists))

    def row_labels(self, suffix: str, column: str) -> torch.Tensor:
        """``(n,)`` int64 values of a column of a (user, position) file by interaction; -1 where there is none.

        With ``semantics: shuffled`` a user's interactions exchange their values; with ``random`` each draws one
        of the user's.
        """
        frame = read_table(self.folder.file(suffix), ["user_id", "position", column])
        positions = frame["position"].astype(np.int64).to_numpy()
        rows = self.rows_of(frame["user_id"].astype(str).tolist(), positions)
        values = frame[column].fillna("-1").astype(np.int64).to_numpy()
        kept = np.flatnonzero(rows >= 0)
        answers = self._controlled(kept, np.asarray(self.table.user)[rows[kept]])
        labels = np.full(len(self.table), -1, dtype=np.int64)
        labels[rows[kept]] = values[answers]
        return torch.from_numpy(labels)

    def synthesised_users(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Items ``(p, t)`` (0 padded) and interests ``(p, t)`` (-1 padded) of LDMI's synthesised users.

        With ``semantics: shuffled`` the items of one synthesised user exchange their interests; with ``random``
        each draws one of them.
        """
        frame = read_table(self.folder.file("synuser"), ["synuser_id", "position", "item_id", "interest_id"])
        index = {token: number for number, token in enumerate(self.table.item_tokens.tolist())}
        _, owner = np.unique(frame["synuser_id"].astype(np.int64).to_numpy(), return_inverse=True)
        item = np.array([index.get(token, 0) for token in frame["item_id"].astype(str)], dtype=np.int64)
        interest = frame["interest_id"].astype(np.int64).to_numpy()
        interest = self._controlled(interest, owner)
        order = np.lexsort((frame["position"].astype(np.int64).to_numpy(), owner))
        order = order[item[order] > 0]
        counts = np.bincount(owner[order], minlength=int(owner.max(initial=-1)) + 1)
        items = np.zeros((len(counts), int(counts.max(initial=1))), dtype=np.int64)
        labels = np.full(items.shape, -1, dtype=np.int64)
        place = joined_ranges(0, counts)
        items[owner[order], place] = item[order]
        labels[owner[order], place] = interest[order]
        return torch.from_numpy(items), torch.from_numpy(labels)


def _shuffle_within(keys: np.ndarray, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """A permutation of ``keys`` inside each group, or of all of them."""
    generator = np.random.default_rng(seed)
    groups = np.zeros(len(keys), dtype=np.int64) if groups is None else groups
    place = np.lexsort((np.arange(len(keys)), groups))
    mixed = np.lexsort((generator.random(len(keys)), groups))
    shuffled = np.empty_like(keys)
    shuffled[place] = keys[mixed]
    return shuffled


def _draw_within(keys: np.ndarray, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """For each key one of the ``keys`` of its group, or of all, drawn with replacement."""
    generator = np.random.default_rng(seed)
    groups = np.zeros(len(keys), dtype=np.int64) if groups is None else groups
    order = np.argsort(groups, kind="stable")
    _, first, place, size = np.unique(groups[order], return_index=True, return_inverse=True, return_counts=True)
    drawn = np.empty_like(keys)
    drawn[order] = keys[order[first[place] + (generator.random(len(keys)) * size[place]).astype(np.int64)]]
    return drawn


def _parse_lists(cells: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Blank-separated numbers to compressed rows."""
    counts = np.array([cell.count(" ") + 1 if cell else 0 for cell in cells], dtype=np.int64)
    flat = np.fromstring(" ".join(cell for cell in cells if cell), dtype=np.int64, sep=" ")
    return np.concatenate([[0], np.cumsum(counts)]), flat


def _to_bags(rows: np.ndarray, answers: np.ndarray, lists: tuple[np.ndarray, np.ndarray], size: int) -> Bags:
    """The lists of some answers, arranged by row of the interactions."""
    offsets, flat = lists
    length = np.zeros(size, dtype=np.int64)
    counts = np.diff(offsets)[answers]
    length[rows] = counts
    ends = np.concatenate([[0], np.cumsum(length)])
    ids = np.empty(int(ends[-1]), dtype=np.int64)
    ids[joined_ranges(ends[rows], counts)] = flat[joined_ranges(offsets[answers], counts)]
    return Bags(torch.from_numpy(ends), torch.from_numpy(ids))
