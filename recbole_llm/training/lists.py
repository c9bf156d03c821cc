"""Count the recommended lists block by block on the device: which items they hold, how diverse and fair they are.

No list is kept beyond its block. Ties at the edge of a list are broken by a fixed random order of the items, never by
their ids. Places that no item can fill (everything else is masked) stay empty; RecBole fills them with masked items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from recbole_llm.evaluation.lists import TAIL_RATIO, ListCounts
from recbole_llm.evaluation.ranks import head_items

_CHUNK_BYTES = 64 << 20  # size of one tensor of cases, places and categories (or dimensions)


@dataclass(frozen=True)
class Shown:
    """The lists of a block of ``B`` cases.

    Attributes:
        items: ``(B, W)`` item ids, best first; 0 where no item is left to fill the place.
        scores: ``(B, n)`` float, ``-inf`` for what was not ranked.
        columns: ``(B, n)`` item ids of the scores' columns; ``None`` if these are all items.
        rows, targets: ``(t,)`` the case of each target, and its item id.
        history: returns two ``(h,)`` tensors: the case of each item of the visible histories, ascending, and its id.
    """

    items: torch.Tensor
    scores: torch.Tensor
    columns: torch.Tensor | None
    rows: torch.Tensor
    targets: torch.Tensor
    history: Callable[[], tuple[torch.Tensor, torch.Tensor]]


class Measure(Protocol):
    """One or more metrics that are averaged over lists."""

    def add(self, shown: Shown) -> None:
        """Add the lists of a block."""

    def means(self) -> dict[str, np.ndarray]:
        """The values of each metric at the cut-offs; ``nan`` where no list has one."""


@dataclass(frozen=True)
class ItemCategories:
    """Categories of items.

    Attributes:
        names: of the ``G`` categories.
        table: ``(n_items, c)`` int64 category numbers of each item id, padded with ``G``.
    """

    names: list[str]
    table: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> ItemCategories:
        """Categories from one text per item id, split at commas, or into words if no text has a comma."""
        comma = any("," in text for text in texts)
        split = [text.split(",") if comma else text.split() for text in texts]
        lists = [list(dict.fromkeys(name.strip() for name in names if name.strip())) for names in split]
        known = {name: number for number, name in enumerate(sorted({name for names in lists for name in names}))}
        table = np.full((len(lists), max(1, *map(len, lists))), len(known), dtype=np.int64)
        for item, names in enumerate(lists):
            table[item, : len(names)] = [known[name] for name in names]
        return cls(list(known), table)


class TopLists:
    """Counts the items in the first places of all lists.

    Args:
        topk: cut-offs.
        train_counts: ``(n_items,)`` training interactions of each item id, 0 for the padding.
        tail_ratio: share of the trained items that form the tail; above 1, the largest count of a tail item.
        metrics: names of the wanted metrics in lower case; metrics that follow from the counts may be left out.
        categories: of the items, for ``ildcategories`` and ``miscalibration``.
        vectors: ``(n_items, d)`` item vectors, zero for items without one, for ``ildvectors``.
    """

    def __init__(
        self,
        topk: Iterable[int],
        train_counts: np.ndarray,
        tail_ratio: float | None = None,
        metrics: Iterable[str] = (),
        categories: ItemCategories | None = None,
        vectors: np.ndarray | None = None,
    ) -> None:
        self.topk = sorted(set(topk))
        self.train_counts = np.asarray(train_counts)
        self.tail_ratio = tail_ratio if tail_ratio and tail_ratio > 0 else TAIL_RATIO
        wanted = set(metrics)
        self._measures: list[Measure] = []
        if "serendipity" in wanted:
            self._measures.append(Serendipity(self.topk, self.train_counts))
        if "exposureratio" in wanted:
            self._measures.append(ExposureRatio(self.topk, head_items(self.train_counts)))
        if wanted & {"ildcategories", "miscalibration"}:
            assert categories is not None
            self._measures.append(CategoryLists(self.topk, categories, wanted))
        if "ildvectors" in wanted:
            assert vectors is not None
            self._measures.append(VectorDiversity(self.topk, vectors))
        self._counts: torch.Tensor | None = None
        self._orders: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def add(
        self,
        scores: torch.Tensor,
        candidates: torch.Tensor | None = None,
        targets: tuple[torch.Tensor, torch.Tensor] | None = None,
        history: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> None:
        """Count the lists of a block.

        Args:
            scores: ``(B, n)`` float, ``-inf`` for items that are not ranked.
            candidates: ``(B, n)`` item ids of the columns; ``None`` if these are all items.
            targets: two ``(t,)`` tensors, the case and the item id of each target.
            history: as in :class:`Shown`.
        """
        width = min(self.topk[-1] + 1, scores.shape[1])
        values, places = scores.topk(width, dim=1)
        tied = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        for k in self.topk:
            if k < width:
                tied |= (values[:, k - 1] == values[:, k]) & torch.isfinite(values[:, k])
        if bool(tied.any()):
            lines = tied.nonzero().squeeze(1)
            if candidates is None:
                order = self._order(scores.shape[1], scores.device).expand(len(lines), -1)
            else:  # by item: the target's column is the same in every case
                order = self._order(len(self.train_counts), scores.device)[candidates[lines]].argsort(dim=1)
            again = scores[lines].gather(1, order).topk(width, dim=1)
            values[lines], places[lines] = again.values, order.gather(1, again.indices)
        items = places if candidates is None else candidates.gather(1, places)
        items = items.masked_fill(values == -torch.inf, 0)
        if self._counts is None:
            shape = (len(self.topk), len(self.train_counts))
            self._counts = torch.zeros(shape, dtype=torch.int64, device=scores.device)
        for number, k in enumerate(self.topk):
            chosen = items[:, :k]
            self._counts[number] += torch.bincount(chosen[chosen > 0], minlength=self._counts.shape[1])
        if self._measures:
            none = torch.zeros(0, dtype=torch.int64, device=scores.device)
            rows, wanted = targets if targets is not None else (none, none)
            seen = history if history is not None else lambda: (none, none)
            shown = Shown(items[:, : self.topk[-1]], scores, candidates, rows, wanted, seen)
            for measure in self._measures:
                measure.add(shown)

    def _order(self, length: int, device: torch.device) -> torch.Tensor:
        if length not in self._orders:
            self._orders[length] = _random_order(length).to(device)
        return self._orders[length]

    def totals(self) -> ListCounts:
        """The counts so far."""
        shape = (len(self.topk), len(self.train_counts))
        counts = np.zeros(shape, dtype=np.int64) if self._counts is None else self._counts.cpu().numpy()
        means = {name: values for measure in self._measures for name, values in measure.means().items()}
        return ListCounts(self.topk, counts, self.train_counts, self.tail_ratio, means)


def _random_order(length: int) -> torch.Tensor:
    """A random permutation that is always the same for a length."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(length))


class _Mean:
    """A mean over lists at each cut-off; lists without a value are left out."""

    def __init__(self, length: int) -> None:
        self._sums, self._counts = np.zeros(length), np.zeros(length)

    def add(self, place: int, values: torch.Tensor, known: torch.Tensor) -> None:
        self._sums[place] += float(values[known].double().sum())
        self._counts[place] += int(known.sum())

    def value(self) -> np.ndarray:
        return np.divide(self._sums, self._counts, out=np.full_like(self._sums, np.nan), where=self._counts > 0)


class Serendipity:
    """Share of a list's places with a target that a list by popularity would not have shown.

    ``|{relevant items of the list} - {first K items by popularity}| / K`` (Murakami, Mori and Orihara 2008; Ge,
    Delgado-Battenfeld and Jannach, RecSys 2010, with popularity as the primitive recommender). Popularity counts
    training interactions. Both lists leave out the same masked items.
    """

    def __init__(self, topk: Sequence[int], train_counts: np.ndarray) -> None:
        self._topk, self._mean = topk, _Mean(len(topk))
        order = np.lexsort((_random_order(len(train_counts)).numpy(), -train_counts.astype(np.int64)))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        self._place = torch.from_numpy(place)

    def add(self, shown: Shown) -> None:
        """Add the lists of a block."""
        self._place = self._place.to(shown.items.device)
        found = shown.items[shown.rows] == shown.targets[:, None]
        hit = found.any(dim=1)
        position, lines, items = found[hit].int().argmax(dim=1), shown.rows[hit], shown.targets[hit]
        places = self._place[None] if shown.columns is None else self._place[shown.columns[lines]]
        above = (shown.scores[lines] > -torch.inf) & (places < self._place[items][:, None])
        expected = above.sum(dim=1)  # the target's place in the case's list by popularity
        every = torch.ones(len(shown.items), dtype=torch.bool, device=shown.items.device)
        for number, k in enumerate(self._topk):
            good = ((position < k) & (expected >= k)).to(torch.float64)
            per_case = torch.zeros(len(shown.items), dtype=torch.float64, device=good.device).index_add(0, lines, good)
            self._mean.add(number, per_case / k, every)

    def means(self) -> dict[str, np.ndarray]:
        """The share at each cut-off."""
        return {"serendipity": self._mean.value()}


class ExposureRatio:
    """Exposure of a tail item relative to a head item: 1 if both are shown equally.

    The exposure of a place is ``1 / log2(1 + rank)``, and a group's exposure is the sum over its places divided by the
    number of its items. The ratio is 1 under demographic parity of exposure (Singh and Joachims, "Fairness of Exposure
    in Rankings", KDD 2018). The head is the fifth of the items with the most training interactions, the tail the rest.
    """

    def __init__(self, topk: Sequence[int], head: np.ndarray) -> None:
        self._topk, self._head = topk, torch.from_numpy(head)
        self._sizes = int(head.sum()), len(head) - 1 - int(head.sum())
        self._shown = np.zeros((2, max(topk)), dtype=np.int64)  # integers, so that sums do not depend on the blocks

    def add(self, shown: Shown) -> None:
        """Add the lists of a block."""
        self._head = self._head.to(shown.items.device)
        in_head = self._head[shown.items]
        for group, mask in enumerate((in_head, ~in_head & (shown.items > 0))):
            self._shown[group, : mask.shape[1]] += mask.sum(dim=0).cpu().numpy()

    def means(self) -> dict[str, np.ndarray]:
        """The ratio at each cut-off."""
        exposure = np.cumsum(self._shown / np.log2(np.arange(2, self._shown.shape[1] + 2)), axis=1)
        places = np.asarray(self._topk) - 1
        head, tail = (sums[places] / max(1, size) for sums, size in zip(exposure, self._sizes, strict=True))
        return {"exposureratio": np.divide(tail, head, out=np.full_like(head, np.nan), where=head > 0)}


class CategoryLists:
    """Diversity of a list's categories, and how far they are from those of the user's history.

    ``ildcategories``: mean Jaccard distance between the categories of two items, over all pairs of a list (intra-list
    distance: Ziegler et al., WWW 2005; Vargas and Castells, RecSys 2011; here without a discount by rank). Items
    without a category form no pairs.

    ``miscalibration``: ``KL(p || (1 - a) q + a p)`` with ``a = 0.01`` (Steck, "Calibrated Recommendations", RecSys
    2018). ``p`` is the distribution of categories in the visible history, ``q`` the one in the list. An item with ``n``
    categories gives ``1 / n`` to each, and all items have the same weight. Cases whose history or list has no category
    are left out.
    """

    def __init__(self, topk: Sequence[int], categories: ItemCategories, wanted: Iterable[str]) -> None:
        self._topk, self._alpha, self._size = topk, 0.01, len(categories.names)
        self._table = torch.from_numpy(categories.table)
        self._found = {name: _Mean(len(topk)) for name in ("ildcategories", "miscalibration") if name in set(wanted)}

    def add(self, shown: Shown) -> None:
        """Add the lists of a block, a few cases at a time."""
        self._table = self._table.to(shown.items.device)
        piece = max(1, _CHUNK_BYTES // (4 * shown.items.shape[1] * (self._size + 1)))
        rows, history = shown.history() if "miscalibration" in self._found else (shown.rows[:0], shown.targets[:0])
        for begin in range(0, len(shown.items), piece):
            items = shown.items[begin : begin + piece]
            low, high = torch.searchsorted(rows, torch.tensor([begin, begin + len(items)], device=rows.device)).tolist()
            member = torch.zeros(*items.shape, self._size + 1, device=items.device)
            member = member.scatter_(2, self._table[items], 1.0)[..., : self._size]
            if "ildcategories" in self._found:
                self._add_diversity(member)
            if "miscalibration" in self._found:
                self._add_calibration(member, rows[low:high] - begin, history[low:high])

    def _add_diversity(self, member: torch.Tensor) -> None:
        size = member.sum(dim=2)
        shared = member @ member.transpose(1, 2)
        distance = 1 - shared / (size[:, :, None] + size[:, None] - shared).clamp(min=1)
        distance = distance * ((size > 0)[:, :, None] & (size > 0)[:, None])
        for number, k in enumerate(self._topk):
            known = (size[:, :k] > 0).sum(dim=1)
            pairs = known * (known - 1)
            mean = distance[:, :k, :k].sum(dim=(1, 2)) / pairs.clamp(min=1)
            self._found["ildcategories"].add(number, mean, pairs > 0)

    def _add_calibration(self, member: torch.Tensor, rows: torch.Tensor, history: torch.Tensor) -> None:
        own = self._table[history]
        share = (own < self._size).float()
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
        p = torch.zeros(len(member) * (self._size + 1), device=member.device)
        p = p.index_add(0, (rows[:, None] * (self._size + 1) + own).flatten(), share.flatten())
        p = p.view(len(member), -1)[:, : self._size]
        total = p.sum(dim=1, keepdim=True)
        p = p / total.clamp(min=1)
        size = member.sum(dim=2, keepdim=True)
        shares = member / size.clamp(min=1)
        for number, k in enumerate(self._topk):
            known = (size[:, :k, 0] > 0).sum(dim=1)
            q = shares[:, :k].sum(dim=1) / known.clamp(min=1)[:, None]
            mixed = (1 - self._alpha) * q + self._alpha * p
            divergence = torch.where(p > 0, p * torch.log(p / mixed), 0.0).sum(dim=1)
            self._found["miscalibration"].add(number, divergence, (known > 0) & (total[:, 0] > 0))

    def means(self) -> dict[str, np.ndarray]:
        """The means over lists at each cut-off."""
        return {name: mean.value() for name, mean in self._found.items()}


class VectorDiversity:
    """Mean cosine distance between the vectors of two items, over all pairs of a list; else as ``ildcategories``."""

    def __init__(self, topk: Sequence[int], vectors: np.ndarray) -> None:
        self._topk, self._mean = topk, _Mean(len(topk))
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, length, out=np.zeros_like(vectors, dtype=np.float32), where=length > 0)
        self._unit = torch.from_numpy(unit.astype(np.float32, copy=False))

    def add(self, shown: Shown) -> None:
        """Add a block, a few cases at a time; the norm of the sum of a list's vectors gives the sum over its pairs."""
        self._unit = self._unit.to(shown.items.device)
        piece = max(1, _CHUNK_BYTES // (4 * shown.items.shape[1] * self._unit.shape[1]))
        for items in shown.items.split(piece):
            vectors = self._unit[items]
            known = (vectors != 0).any(dim=2).long().cumsum(dim=1)
            together = vectors.cumsum(dim=1).square().sum(dim=2)
            for number, k in enumerate(self._topk):
                last = min(k, items.shape[1]) - 1
                count = known[:, last]
                pairs = count * (count - 1)
                self._mean.add(number, 1 - (together[:, last] - count) / pairs.clamp(min=1), pairs > 0)

    def means(self) -> dict[str, np.ndarray]:
        """The mean over lists at each cut-off."""
        return {"ildvectors": self._mean.value()}
