"""Ranks of targets from blocks of scores on the device, without sorting or keeping lists or the score matrix.

A block of scores fits ``score_block_mib``. The recommended lists are counted in the same pass
(:mod:`recbole_llm.training.lists`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from recbole_llm.data.batch import LazyInteraction
from recbole_llm.data.loaders import DeviceTable, EvalLoader
from recbole_llm.data.sessions import people_of
from recbole_llm.data.split import Cases
from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks, item_popularity
from recbole_llm.layers.waits import at_hand
from recbole_llm.training.lists import TopLists
from recbole_llm.utils.arrays import joined_ranges

Scorer = Callable[[LazyInteraction], torch.Tensor]

# On a CPU a larger block is not faster, and a model makes two or three copies of it in memory. With fewer rows the
# table of all items would be read more often.
CPU_BLOCK_MIB, CPU_ROWS = 32, 128
NOT_FINITE = "the model's scores are not finite numbers: training diverged; try a smaller learning_rate."


def autocast(config: Any) -> AbstractContextManager[Any]:
    """The arithmetic that the setting ``precision`` asks for, in training and wherever the model scores."""
    if config["precision"] == "bf16":
        return torch.autocast(torch.device(config["device"]).type, dtype=torch.bfloat16)
    return nullcontext()


def full_scorer(model: Any, table: DeviceTable, pair_batch: int) -> Scorer:
    """A function from a batch to scores ``(B, n_items)``.

    Models without ``full_sort_predict`` (RecBole's context-aware ones) score user-item pairs in pieces of
    ``pair_batch``.

    Raises:
        UserError: from the function, if the model returns anything but a floating-point score of each item for each
            row of the batch.
    """
    n_items = table.dataset.item_num
    every_item = torch.arange(n_items, device=model.device)
    pairwise = False

    def score(batch: LazyInteraction) -> torch.Tensor:
        nonlocal pairwise
        if not pairwise:
            try:
                return _owned(model, _rows_of(model, model.full_sort_predict(batch), len(batch), n_items))
            except NotImplementedError:
                pairwise = True
        return _score_pairs(model, batch, every_item, pair_batch, table)

    return score


def _rows_of(model: Any, scores: Any, n_rows: int, n_items: int) -> torch.Tensor:
    """Scores as ``(B, n_items)``; RecBole's models also return them flat. Another shape would mix up rows and items."""
    shape = tuple(getattr(scores, "shape", ()))
    ordered = [length for length in shape if length != 1]
    if not (torch.is_tensor(scores) and scores.is_floating_point()):
        found = f"{getattr(scores, 'dtype', type(scores).__name__)}"
    elif ordered not in ([length for length in (n_rows, n_items) if length != 1], [n_rows * n_items]):
        found = f"the shape {shape}"
    else:
        return scores.reshape(n_rows, n_items)
    raise UserError(
        f"{type(model).__name__}.full_sort_predict returns {found}: return a tensor of floating-point scores, one row "
        f"for each of the batch and one column for each item with the padding, here {(n_rows, n_items)}."
    )


def _owned(model: Any, scores: torch.Tensor) -> torch.Tensor:
    """Scores that may be overwritten: a copy if rows share memory with each other or with the model."""
    memory = scores.untyped_storage().data_ptr()
    plain = (value for part in model.modules() for value in vars(part).values() if type(value) is torch.Tensor)
    kept = (*model.parameters(), *model.buffers(), *plain)
    shared = any(memory == part.untyped_storage().data_ptr() for part in kept if part.layout == torch.strided)
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
        table.join(pairs)  # the batch's own item features are those of its targets
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
        mask_history: leave out items of the case's visible history (targets are always ranked).
        score_block_mib: memory for one block of scores; on a CPU at most 32 MiB, or 128 cases if these take more.
        progress: wraps the iteration, for a progress bar.
        lists: counts the recommended lists in the same pass.
        count_pools: note how many items each case ranked (``gauc`` needs it).

    Raises:
        UserError: the score of a target is not finite, or another score is not a number.
    """
    cases, table = loader.cases, loader.table
    n_items = table.dataset.item_num
    loader.batch_size = rows_of_block(loader.batch_size, n_items, score_block_mib, torch.device(model.device))
    score = full_scorer(model, table, pair_batch=max(n_items, (score_block_mib << 20) // 1024))
    higher = np.zeros(len(cases.target_rows), dtype=np.int32)
    tied = np.zeros(len(cases.target_rows), dtype=np.int32)
    counts = np.diff(cases.target_offsets)
    pool = np.zeros(len(cases) if count_pools else 0, dtype=np.int32)
    model.eval()
    for chosen, batch in progress(loader):
        scores = score(batch)
        if loader.silent is not None:
            scores[torch.from_numpy(np.flatnonzero(loader.silent[chosen])).to(scores.device)] = 0.0
        targets = joined_ranges(cases.target_offsets[:-1][chosen], counts[chosen])
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
        person=_people(table, cases),
        cold_user=~np.isin(cases.user, np.asarray(table.dataset.table.user)[table.dataset.split.train_rows]),
    )


def rows_of_block(batch_size: int, n_items: int, block_mib: int, device: torch.device) -> int:
    """How many cases one block of scores holds."""
    rows = min(batch_size, (block_mib << 20) // (4 * n_items))
    if device.type == "cpu":
        rows = min(rows, max(CPU_ROWS, (CPU_BLOCK_MIB << 20) // (4 * n_items)))
    return max(1, rows)


def _people(table: DeviceTable, cases: Cases) -> np.ndarray:
    """A number for the person behind each case if histories are cut into sessions; else empty."""
    if "sessions" not in table.dataset.table.facts:
        return np.zeros(0, dtype=np.int64)
    return np.unique(people_of(table.dataset.table, cases.user), return_inverse=True)[1].astype(np.int64)


def mask_seen(scores: torch.Tensor, item: torch.Tensor, start: np.ndarray, end: np.ndarray) -> None:
    """Set the scores ``(B, n_items)`` of the items in rows ``start:end`` of each line to ``-inf``, in place."""
    line, seen = histories(item, start, end)
    scores[line, seen] = -torch.inf


def histories(item: torch.Tensor, start: np.ndarray, end: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Line and item id of each interaction in rows ``start:end`` of each line, line by line."""
    lengths = end - start
    rows = torch.from_numpy(joined_ranges(start, lengths)).to(item.device)
    line = torch.from_numpy(np.repeat(np.arange(len(start)), lengths)).to(item.device)
    return line, item[rows].long()


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
        scores = scores.float()  # numpy, which counts on a CPU, has no bfloat16
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
    # NaN is not higher than a target's score, so it would count as beaten. (Masked items only make the sum -inf.)
    if not bool(torch.isfinite(own).all()) or bool(scores.sum().isnan()):
        raise UserError(NOT_FINITE)
    if lists is not None:
        lists.add(
            scores, candidates, (rows, items), lambda: histories(table.item, cases.start[chosen], cases.end[chosen])
        )
    higher, same = _count(scores, rows, own, single=len(owner) == len(chosen))
    return higher, same - 1


def _pool_sizes(
    chosen: np.ndarray, owner: np.ndarray, target_rows: np.ndarray, loader: EvalLoader, mask_history: bool
) -> np.ndarray:
    """How many items each case of a block ranks: all except masked ones; targets are never masked."""
    cases, n_items = loader.cases, loader.table.dataset.item_num
    if cases.candidates is not None:
        return np.full(len(chosen), cases.candidates.shape[1])
    sizes = np.full(len(chosen), n_items - 1)
    if mask_history:
        item = np.asarray(loader.table.dataset.table.item)
        lengths = cases.end[chosen] - cases.start[chosen]
        rows = joined_ranges(cases.start[chosen], lengths)
        seen = np.unique(np.repeat(np.arange(len(chosen)), lengths) * n_items + item[rows])
        masked = np.setdiff1d(seen, owner * n_items + item[target_rows], assume_unique=False)
        sizes -= np.bincount(masked // n_items, minlength=len(chosen))
    return sizes


def _count(pool: torch.Tensor, rows: torch.Tensor, own: torch.Tensor, single: bool) -> tuple[np.ndarray, np.ndarray]:
    """How many entries of a target's row are higher than it, and how many are equal (itself included)."""
    if not at_hand(pool):
        counts: list[torch.Tensor] = []
        # A case with many targets takes as many copies of its row: no more at once than the block has rows.
        for line, value in zip(rows.split(len(pool)), own.split(len(pool)), strict=True):
            lines = pool if single else pool[line]
            counts += [(lines > value[:, None]).sum(1), (lines == value[:, None]).sum(1)]
        higher, same = (torch.cat(counts[place::2]).int().cpu().numpy() for place in (0, 1))
        return higher, same
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
