"""The rank of each target, by counting: no sort, no top-k list, no score matrix kept.

For a target with score ``s`` two counts describe its rank completely: the items with a higher score and
the other items with the same score. Ranks are uniform over the ``tied + 1`` places after the ``higher``
ones, so that metrics can be given as expectations over the order of ties. Breaking ties by item id, as a
sort does, alone raised one published model by 20 %.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_llm.data.loaders import DeviceTable, EvalLoader, LazyInteraction
from recbole_llm.errors import UserError
from recbole_llm.evaluation.lists import TopLists
from recbole_llm.utils.files import whole_file

FORMAT = 1
_MAY_LACK = ("pool", "cut_off")  # earlier files of this format have none
Scorer = Callable[[LazyInteraction], torch.Tensor]


@dataclass(frozen=True)
class Ranks:
    """Ranks of the targets of ``m`` cases (``t`` targets in all).

    Attributes:
        user: ``(m,)`` int64 user ids.
        offsets: ``(m + 1,)`` int64; case ``c`` owns targets ``offsets[c]:offsets[c + 1]``.
        item: ``(t,)`` int32 target items.
        higher: ``(t,)`` int32, ranked items that score higher than the target.
        tied: ``(t,)`` int32, other ranked items that score the same, other targets included.
        history: ``(m,)`` int32 length of the case's visible history.
        train_count: ``(t,)`` int32 training interactions of the target item; 0 for a cold item.
        head: ``(t,)`` bool, the target item is among the 20 % with most training interactions.
        pool: ``(m,)`` int32 number of items that were ranked; empty where it was not counted.
        cut_off: last place that was looked at, so that later ranks say nothing more; 0 where all are exact.
    """

    user: np.ndarray
    offsets: np.ndarray
    item: np.ndarray
    higher: np.ndarray
    tied: np.ndarray
    history: np.ndarray
    train_count: np.ndarray
    head: np.ndarray
    pool: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    cut_off: int = 0

    def __len__(self) -> int:
        return len(self.user)

    def save(self, path: Path) -> None:
        """Write to a compressed ``.npz``, whole or not at all."""
        with whole_file(path) as stream:
            np.savez_compressed(stream, format=np.int32(FORMAT), **vars(self))

    @classmethod
    def load(cls, path: Path) -> Ranks:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the file is missing, damaged, or of a later format.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                if int(data["format"]) > FORMAT:
                    raise UserError(f"{path} was written by a later version (format {int(data['format'])}).")
                present = [name for name in cls.__dataclass_fields__ if name not in _MAY_LACK or name in data]
                values = {name: data[name] for name in present}
                return cls(**{**values, "cut_off": int(values.get("cut_off", 0))})
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is not a readable file of ranks: {error}") from error

    def select(self, cases: np.ndarray) -> Ranks:
        """The ranks of some cases (their numbers, in the order given)."""
        lengths = np.diff(self.offsets)[cases]
        targets = (
            np.concatenate([np.arange(self.offsets[c], self.offsets[c + 1]) for c in cases]) if len(cases) else cases
        )
        targets = targets.astype(np.int64)
        return replace(
            self,
            user=self.user[cases],
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            item=self.item[targets],
            higher=self.higher[targets],
            tied=self.tied[targets],
            history=self.history[cases],
            train_count=self.train_count[targets],
            head=self.head[targets],
            pool=self.pool[cases] if len(self.pool) else self.pool,
        )


def only_targets(ranks: Ranks, wanted: np.ndarray) -> Ranks:
    """The ranks of some targets (``(t,)`` bool); cases that have none of them are left out."""
    owner = np.repeat(np.arange(len(ranks)), np.diff(ranks.offsets))[wanted]
    counts = np.bincount(owner, minlength=len(ranks))
    cases = counts > 0
    return Ranks(
        user=ranks.user[cases],
        offsets=np.concatenate([[0], np.cumsum(counts[cases])]),
        item=ranks.item[wanted],
        higher=ranks.higher[wanted],
        tied=ranks.tied[wanted],
        history=ranks.history[cases],
        train_count=ranks.train_count[wanted],
        head=ranks.head[wanted],
        pool=ranks.pool[cases] if len(ranks.pool) else ranks.pool,
        cut_off=ranks.cut_off,
    )


def full_scorer(model: Any, table: DeviceTable, pair_batch: int) -> Scorer:
    """A function from a batch to scores ``(B, n_items)``.

    Models without ``full_sort_predict`` (RecBole's context-aware ones) score user-item pairs in pieces of
    ``pair_batch``.
    """
    n_items = table.dataset.item_num
    every_item = torch.arange(n_items, device=model.device)
    pairwise = False

    def score(batch: LazyInteraction) -> torch.Tensor:
        nonlocal pairwise
        if not pairwise:
            try:
                return _owned(model, model.full_sort_predict(batch).reshape(-1, n_items))
            except NotImplementedError:
                pairwise = True
        return _score_pairs(model, batch, every_item, pair_batch, table)

    return score


def _owned(model: Any, scores: torch.Tensor) -> torch.Tensor:
    """Scores that may be written to: a copy where rows share memory, or share it with the model."""
    memory = scores.untyped_storage().data_ptr()
    shared = any(memory == part.untyped_storage().data_ptr() for part in (*model.parameters(), *model.buffers()))
    return scores.clone() if shared or 0 in scores.stride() else scores


def _score_pairs(
    model: Any, batch: LazyInteraction, items: torch.Tensor, pair_batch: int, table: DeviceTable
) -> torch.Tensor:
    per_piece = max(1, pair_batch // len(items))
    rows = []
    for begin in range(0, len(batch), per_piece):
        chosen = torch.arange(begin, min(begin + per_piece, len(batch)), device=items.device)
        owner = chosen.repeat_interleave(len(items))
        sources: dict[str, Callable[[], torch.Tensor]] = {
            name: (lambda n=name, o=owner: batch[n][o])  # type: ignore[misc]
            for name in batch
        }
        pairs = LazyInteraction(sources, len(owner))
        pairs[table.iid] = items.repeat(len(chosen))
        table.join(pairs)  # the batch holds the features of its targets
        rows.append(model.predict(pairs).view(len(chosen), len(items)))
    return torch.cat(rows)


@torch.no_grad()
def rank_cases(
    model: Any,
    loader: EvalLoader,
    mask_history: bool,
    score_block_mib: int = 256,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    lists: TopLists | None = None,
    count_pools: bool = False,
) -> Ranks:
    """Rank the targets of all cases of ``loader`` with ``model`` (in evaluation mode).

    Args:
        model: any RecBole model.
        loader: the cases; its batch size is cut so that one block of scores fits ``score_block_mib``.
        mask_history: do not rank items of the case's visible history (a target itself always is).
        score_block_mib: memory for one block of scores.
        progress: wraps the iteration, for a progress bar.
        lists: counts the items of the first places, in the same pass.
        count_pools: note how many items each case ranked (``gauc`` needs it).

    Raises:
        UserError: a score of a target, or of an item that it is ranked among, is not a number.
    """
    cases, table = loader.cases, loader.table
    n_items = table.dataset.item_num
    loader.batch_size = max(1, min(loader.batch_size, (score_block_mib << 20) // (4 * n_items)))
    score = full_scorer(model, table, pair_batch=max(n_items, (score_block_mib << 20) // 1024))
    higher = np.zeros(len(cases.target_rows), dtype=np.int32)
    tied = np.zeros(len(cases.target_rows), dtype=np.int32)
    counts = np.diff(cases.target_offsets)
    pool = np.zeros(len(cases) if count_pools else 0, dtype=np.int32)
    model.eval()
    for chosen, batch in progress(loader):
        scores = score(batch)
        targets = np.repeat(cases.target_offsets[:-1][chosen], counts[chosen]) + _within(counts[chosen])
        owner = np.repeat(np.arange(len(chosen)), counts[chosen])
        higher[targets], tied[targets] = _rank_block(
            scores, chosen, owner, cases.target_rows[targets], loader, mask_history, lists
        )
        if count_pools:
            pool[chosen] = _pool_sizes(chosen, owner, cases.target_rows[targets], loader, mask_history)
    item = np.asarray(table.dataset.table.item[cases.target_rows], dtype=np.int32)
    popularity, head = item_popularity(table.dataset.table.item[table.dataset.split.train_rows], n_items)
    return Ranks(
        user=np.asarray(cases.user, dtype=np.int64),
        offsets=np.asarray(cases.target_offsets, dtype=np.int64),
        item=item,
        higher=higher,
        tied=tied,
        history=(cases.end - cases.start).astype(np.int32),
        train_count=popularity[item],
        head=head[item],
        pool=pool,
    )


HEAD_SHARE = 0.2


def item_popularity(train_items: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Training interactions of each item id, and whether it is in the head.

    The head is the fifth of the items with most training interactions; among equals at its edge all or
    none belong to it, so that no id decides.
    """
    counts = np.bincount(train_items, minlength=n_items).astype(np.int32)
    ordered = np.sort(counts[1:])[::-1]
    edge = ordered[min(len(ordered) - 1, max(0, int(HEAD_SHARE * len(ordered)) - 1))] if len(ordered) else 0
    head = counts > edge if (counts[1:] >= edge).sum() > HEAD_SHARE * len(ordered) + 1 else counts >= edge
    head[0] = False
    return counts, head


def _within(counts: np.ndarray) -> np.ndarray:
    """``[2, 3]`` to ``[0, 1, 0, 1, 2]``."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def mask_seen(scores: torch.Tensor, item: torch.Tensor, start: np.ndarray, end: np.ndarray) -> None:
    """Set the scores ``(B, n_items)`` of the items in rows ``start:end`` of each line to ``-inf``, in place."""
    lengths = end - start
    rows = torch.from_numpy(np.repeat(start, lengths) + _within(lengths)).to(scores.device)
    line = torch.from_numpy(np.repeat(np.arange(len(start)), lengths)).to(scores.device)
    scores[line, item[rows].long()] = -torch.inf


def _rank_block(
    scores: torch.Tensor,
    chosen: np.ndarray,
    owner: np.ndarray,
    target_rows: np.ndarray,
    loader: EvalLoader,
    mask_history: bool,
    lists: TopLists | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Higher and tied counts of one block's targets."""
    table, cases = loader.table, loader.cases
    device, candidates = scores.device, None
    if scores.element_size() < 4:
        scores = scores.float()  # numpy, which counts on a CPU, knows no bfloat16
    items = table.item[torch.from_numpy(target_rows).to(device)].long()
    rows = torch.from_numpy(owner).to(device)
    own = scores[rows, items]
    scores[:, 0] = -torch.inf
    if cases.candidates is not None:
        candidates = torch.from_numpy(cases.candidates[chosen]).to(device).long()
        scores = scores.gather(1, candidates)
    elif mask_history:
        mask_seen(scores, table.item, cases.start[chosen], cases.end[chosen])
        scores[rows, items] = own
    # What is no number is not higher than a target, and would count as beaten. (Masked items make the sum -inf.)
    if not bool(torch.isfinite(own).all()) or bool(scores.sum().isnan()):
        raise UserError("the model's scores are not finite numbers: training diverged; try a smaller learning_rate.")
    if lists is not None:
        lists.add(scores, candidates)
    higher, same = _count(scores, rows, own, single=len(owner) == len(chosen))
    return higher, same - 1


def _pool_sizes(
    chosen: np.ndarray, owner: np.ndarray, target_rows: np.ndarray, loader: EvalLoader, mask_history: bool
) -> np.ndarray:
    """How many items each case of a block ranks: all but the masked ones, its targets always."""
    cases, n_items = loader.cases, loader.table.dataset.item_num
    if cases.candidates is not None:
        return np.full(len(chosen), cases.candidates.shape[1])
    sizes = np.full(len(chosen), n_items - 1)
    if mask_history:
        item = np.asarray(loader.table.dataset.table.item)
        lengths = cases.end[chosen] - cases.start[chosen]
        rows = np.repeat(cases.start[chosen], lengths) + _within(lengths)
        seen = np.unique(np.repeat(np.arange(len(chosen)), lengths) * n_items + item[rows])
        masked = np.setdiff1d(seen, owner * n_items + item[target_rows], assume_unique=False)
        sizes -= np.bincount(masked // n_items, minlength=len(chosen))
    return sizes


def _count(pool: torch.Tensor, rows: torch.Tensor, own: torch.Tensor, single: bool) -> tuple[np.ndarray, np.ndarray]:
    """How many entries of a target's row are higher than it, and how many are equal (itself included)."""
    if pool.is_cuda:
        lines = pool if single else pool[rows]
        higher = (lines > own[:, None]).sum(1, dtype=torch.int32)
        same = (lines == own[:, None]).sum(1, dtype=torch.int32)
        return higher.cpu().numpy(), same.cpu().numpy()
    # numpy counts true values three times faster than torch sums them on a CPU; small pieces stay in cache.
    table, value, line = pool.numpy(), own.numpy(), rows.numpy()
    higher_host = np.empty(len(value), dtype=np.int32)
    same_host = np.empty(len(value), dtype=np.int32)
    piece = max(1, (1 << 20) // table.shape[1])
    for begin in range(0, len(value), piece):
        part = slice(begin, begin + piece)
        block = table[part] if single else table[line[part]]
        higher_host[part] = np.count_nonzero(block > value[part, None], axis=1)
        same_host[part] = np.count_nonzero(block == value[part, None], axis=1)
    return higher_host, same_host
