"""Batches gathered on the device from one flat sequence array.

RecBole builds one padded row for each prefix on the host and collates rows into batches. Here a batch is
a set of row numbers. Histories are gathered by index on the model's device and, if that changes no result,
padded only to the longest of the batch. Columns that the model does not read are never built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.utils import InputType

from recbole_llm.data.batch import LazyInteraction, Source
from recbole_llm.data.negative import NegativeSampler
from recbole_llm.data.split import Cases
from recbole_llm.layers.next_item import PLACES, TARGETS, places_of
from recbole_llm.layers.waits import at_hand
from recbole_llm.utils.arrays import joined_ranges

Transform = Callable[[Any, Interaction], Interaction]
Shape = tuple[int, ...]  # what the host knows about a batch: how many rows, how wide, ...

WIDTHS = 4  # number of different history widths on a GPU


def shuffled_lines(items: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """``(B, c)`` item ids, each line in an order that depends only on its items and its ``key``, ``(B,)``.

    Stored candidates have the target first; a model that reads the list must not see this position.
    """
    mixed = (items * 2654435761 + key[:, None] * 40503) % 4294967291  # Knuth's multiplicative hash
    mixed = (mixed ^ (mixed >> 15)) * 1540483477 % 4294967291
    return items.gather(1, mixed.argsort(dim=1, stable=True))


def _rounded_up(number: int, unit: int) -> int:
    """The smallest multiple of ``unit`` that is at least ``number``."""
    return -(-number // unit) * unit


def _ids(column: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The given rows of an id column as int64, which indexing needs."""
    return column[rows].long()


class DeviceTable:
    """The flat interactions on a device, and the batch columns made from them.

    Args:
        dataset: a dataset from ``data.dataset.make_dataset``.
        device: where batches are made.
        max_length: longest history that a model sees (``MAX_ITEM_LIST_LENGTH``).
        trim: pad histories to the longest of a batch instead of to ``max_length``.
    """

    def __init__(self, dataset: Any, device: torch.device, max_length: int, trim: bool) -> None:
        table = dataset.table
        self.dataset, self.device, self.max_length, self.trim = dataset, device, max_length, trim
        self.user = torch.from_numpy(np.array(table.user)).to(device)
        self.item = torch.from_numpy(np.array(table.item)).to(device)
        self.offsets_host = np.asarray(table.offsets)
        self.user_host = np.asarray(table.user)
        self.offsets = torch.from_numpy(np.array(table.offsets)).to(device)
        self.uid, self.iid = dataset.uid_field, dataset.iid_field
        config = dataset.config
        self.list_suffix, self.length_field = config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"]
        # RecBole transforms both training and evaluation batches.
        self._transform: Transform | None = construct_transform(config) if config["transform"] else None
        self._columns: dict[str, torch.Tensor] = {}
        self._sides: dict[tuple[str, str], torch.Tensor] = {}  # columns of .user and .item

    def transformed(self, batch: LazyInteraction) -> Any:
        """A batch after the transform that the setting ``transform`` names, if any."""
        return self._transform(self.dataset, batch) if self._transform else batch

    def column(self, name: str) -> torch.Tensor:
        """A column of all interactions on the device, moved there on first use."""
        if name not in self._columns:
            if name == self.iid:
                self._columns[name] = self.item
            else:
                self._columns[name] = self.dataset.inter_feat[name].to(self.device)
        return self._columns[name]

    def other_columns(self) -> list[str]:
        """Interaction columns besides user and item."""
        return [name for name in self.dataset.inter_feat if name not in (self.uid, self.iid)]

    def interactions(self, rows: torch.Tensor) -> dict[str, Source]:
        """Sources of the interaction columns of some rows."""

        def values(name: str) -> torch.Tensor:
            return self.column(name)[rows]

        sources: dict[str, Source] = {
            self.uid: partial(_ids, self.user, rows),
            self.iid: partial(_ids, self.item, rows),
        }
        sources |= {name: partial(values, name) for name in self.other_columns()}
        return sources

    def width(self, longest: int) -> int:
        """The width of a batch's histories, the longest of which has ``longest`` items.

        A GPU uses few widths, so that the batches of an epoch have few shapes.
        """
        if not self.trim:
            return self.max_length
        if not at_hand(self.item):
            longest = _rounded_up(longest, -(-self.max_length // WIDTHS))
        return max(1, min(longest, self.max_length))

    def histories(self, user: torch.Tensor, start: torch.Tensor, end: torch.Tensor, width: int) -> dict[str, Source]:
        """Sources of the sequence columns: the last ``max_length`` rows before ``end``, left-aligned.

        Args:
            user: ``(B,)`` user ids.
            start, end: ``(B,)`` the visible rows.
            width: number of columns, see :meth:`width`; known on the host, so that no device synchronisation is needed.
        """
        length = (end - start).clamp_(max=self.max_length)
        place = torch.arange(width, device=self.device)
        index = (end - length)[:, None] + place
        padding = place >= length[:, None]
        index.masked_fill_(padding, 0)

        def sequence(name: str) -> torch.Tensor:
            values = self.column(name)[index]
            if name == self.iid:
                values = values.long()
            mask = padding.reshape(padding.shape + (1,) * (values.dim() - 2))
            return values.masked_fill_(mask, 0)

        sources: dict[str, Source] = {
            self.length_field: lambda: length,
            "position": lambda: end - self.offsets[user],
            self.iid + self.list_suffix: lambda: sequence(self.iid),
        }
        sources |= {name + self.list_suffix: partial(sequence, name) for name in self.other_columns()}
        return sources

    def join(self, batch: LazyInteraction, prefix: str = "") -> None:
        """Add the columns of ``.user`` and ``.item`` for the batch's ids (RecBole joins all of them)."""
        sides = [(self.dataset.item_feat, self.iid)]
        if not prefix:
            sides.append((self.dataset.user_feat, self.uid))
        for feat, key in sides:
            if feat is None or prefix + key not in batch:
                continue
            for name in feat:
                if name != key:
                    batch.add(prefix + name, partial(self._joined, batch, feat, name, prefix + key))

    def _joined(self, batch: LazyInteraction, feat: Any, name: str, key: str) -> torch.Tensor:
        side = "item" if feat is self.dataset.item_feat else "user"
        if (side, name) not in self._sides:
            self._sides[side, name] = feat[name].to(self.device)
        return self._sides[side, name][batch[key]]


class TrainLoader:
    """One epoch of training batches; iterate again for the next.

    The order is a new permutation each epoch from the loader's own generator (with ``shuffle``), so every
    example occurs once per epoch and a batch is a uniform sample, as in RecBole.

    Args:
        table: the interactions on the device.
        train_part: the dataset with training rows only (RecBole's trainers ask for it).
        config: RecBole's configuration.
        sequential: whether batches contain histories.
    """

    def __init__(self, table: DeviceTable, train_part: Any, config: Config, sequential: bool) -> None:
        self.table, self.config, self.sequential = table, config, sequential
        self.dataset = self._dataset = train_part
        self.shuffle = bool(config["shuffle"])
        split = table.dataset.split
        self.rows = np.asarray(split.train_targets if sequential else split.train_rows)
        arguments = config["train_neg_sample_args"]
        self.negatives = 0 if arguments["distribution"] == "none" else int(arguments["sample_num"])
        self.pairwise = config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE
        # Batch rows per example: one for each negative, plus one for the example itself unless training is pairwise.
        self.copies = self.negatives + (0 if self.pairwise else 1) if self.negatives else 1
        self.step = max(int(config["train_batch_size"]) // self.copies, 1)
        self.generator = torch.Generator().manual_seed(int(config["seed"]))
        self._rank, self._world = 0, 1
        self.sampler: NegativeSampler | None = None
        if self.negatives:
            data = table.dataset.table
            self.sampler = NegativeSampler(
                np.asarray(data.user[split.train_rows]),
                np.asarray(data.item[split.train_rows]),
                data.n_users + 1,
                data.n_items + 1,
                table.device,
                arguments["distribution"],
                float(arguments["alpha"]),
                int(config["seed"]),
            )

    def __len__(self) -> int:
        return -(-len(self.rows) // self.step)

    def __iter__(self) -> Iterator[LazyInteraction]:
        return map(self.batch, self.blocks())

    def blocks(self) -> Iterator[np.ndarray]:
        """The rows of each batch of an epoch."""
        count = len(self.rows)
        order = torch.randperm(count, generator=self.generator).numpy() if self.shuffle else np.arange(count)
        for begin in range(0, count, self.step):
            rows = self.rows[order[begin : begin + self.step]]
            yield rows[self._rank :: self._world] if len(rows) >= self._world else rows

    def share(self, rank: int, world: int, seed: int) -> None:
        """From now on, yield only part ``rank`` of ``world`` of each batch, with negatives of its own."""
        self._rank, self._world = rank, world
        if self.sampler is not None:
            self.sampler.reseed(seed + rank)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Random states, for a checkpoint that resumes exactly."""
        state = {"order": self.generator.get_state()}
        if self.sampler is not None:
            state["negatives"] = self.sampler.state()
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore the states that :meth:`state_dict` returned."""
        self.generator.set_state(state["order"])
        if self.sampler is not None:
            self.sampler.set_state(state["negatives"])

    def batch(self, host_rows: np.ndarray) -> LazyInteraction:
        """The batch of some rows of the interactions, negatives included."""
        rows = torch.from_numpy(self.described(host_rows)).to(self.table.device, non_blocking=True)
        return self.made(rows, self.shape(host_rows))

    def described(self, host_rows: np.ndarray) -> np.ndarray:
        """The array from which :meth:`made` makes a batch, one row per example; batches of one shape have one size."""
        return host_rows

    def shape(self, host_rows: np.ndarray) -> Shape:
        """What must be known before a batch is made: its number of rows and the width of its histories."""
        if not self.sequential:
            return (len(host_rows),)
        begin = self.table.offsets_host[self.table.user_host[host_rows]]
        return len(host_rows), self.table.width(int((host_rows - begin).max(initial=1)))

    def made(self, rows: torch.Tensor, shape: Shape) -> LazyInteraction:
        """The batch of some rows on the device.

        Args:
            rows: ``(B,)``, see :meth:`described`.
            shape: see :meth:`shape`.
        """
        table = self.table
        rows = rows.repeat(self.copies) if self.copies > 1 else rows
        sources = table.interactions(rows)
        if self.sequential:
            user = table.user[rows].long()
            sources |= table.histories(user, table.offsets[user], rows, shape[1])
        batch = LazyInteraction(sources, len(rows))
        if self.negatives:
            self._add_negatives(batch, shape[0])
        table.join(batch)
        return table.transformed(batch)

    def _add_negatives(self, batch: LazyInteraction, positives: int) -> None:
        assert self.sampler is not None
        uid, iid = self.table.uid, self.table.iid
        items = batch[iid][:positives]
        if self.config["repeatable"]:
            negative = self.sampler.except_items(items, self.negatives)
        else:
            negative = self.sampler.for_users(batch[uid][:positives], self.negatives)
        if self.pairwise:
            prefix = self.config["NEG_PREFIX"]
            batch[prefix + iid] = negative
            self.table.join(batch, prefix)
        else:
            both = torch.cat([items, negative])
            label = torch.zeros(len(batch), device=self.table.device)
            label[:positives] = 1.0
            batch.add(iid, lambda: both)
            batch.add(self.config["LABEL_FIELD"], lambda: label)


class SequenceLoader(TrainLoader):
    """Whole training histories with a target at every position, cut into windows.

    A window holds at most ``MAX_ITEM_LIST_LENGTH`` items of a history and, as ``next_items``, the item that follows
    each of them. Windows are cut from the end and do not overlap, so that every training target occurs once per epoch
    and the newest targets have the longest context. Only training rows are targets.

    A batch has a fixed number of windows, chosen so that it holds ``train_batch_size`` targets on average, as many as
    in training by prefixes.
    """

    def __init__(self, table: DeviceTable, train_part: Any, config: Config) -> None:
        super().__init__(table, train_part, config, sequential=True)
        targets = self.rows
        self.windows = training_windows(table.offsets_host, table.user_host, targets, table.max_length)
        self.rows = np.arange(len(self.windows))
        self.step = max(1, round(int(config["train_batch_size"]) * len(self.rows) / len(targets)))

    def described(self, host_rows: np.ndarray) -> np.ndarray:
        """The windows, ``(B, 3)``."""
        return self.windows[host_rows]

    def shape(self, host_rows: np.ndarray) -> Shape:
        """The number of windows, their width and, on a GPU, the most targets that a batch of this shape can have."""
        begin, end, lowest = self.windows[host_rows].T
        width = self.table.width(int((end - begin).max(initial=1)))
        if at_hand(self.table.item):
            return len(host_rows), width
        targets = int((end - np.maximum(begin, lowest - 1)).sum())
        unit = -(-int(self.config["train_batch_size"]) // WIDTHS)
        return len(host_rows), width, min(_rounded_up(targets, unit), len(host_rows) * width)

    def made(self, rows: torch.Tensor, shape: Shape) -> LazyInteraction:
        """The batch of some windows on the device."""
        table, width = self.table, shape[1]
        start, stop, lowest = rows.unbind(dim=1)
        user = table.user[start].long()
        sources: dict[str, Source] = {table.uid: lambda: user}
        sources |= table.histories(user, start, stop, width)

        def next_items() -> torch.Tensor:
            place = torch.arange(width, device=table.device)
            following = start[:, None] + place + 1
            outside = (following < lowest[:, None]) | (following > stop[:, None])
            return _ids(table.item, following.masked_fill(outside, 0)).masked_fill_(outside, 0)

        sources[TARGETS] = next_items
        batch = LazyInteraction(sources, len(start))
        if len(shape) > 2:
            batch.add(PLACES, lambda: places_of(batch[TARGETS], shape[2]))
        table.join(batch)
        return table.transformed(batch)


def training_windows(offsets: np.ndarray, user: np.ndarray, targets: np.ndarray, length: int) -> np.ndarray:
    """Windows over histories, for training at every position.

    Args:
        offsets: ``(n_users + 2,)`` first row of each user, and the end.
        user: ``(n,)`` user of each row.
        targets: training rows, ascending, none of them a user's first.
        length: most items of a window.

    Returns:
        ``(w, 3)`` int64, the rows ``begin``, ``end`` and ``lowest`` of each window. Rows ``begin:end`` are the input
        and rows ``begin + 1:end + 1`` the next items, which are targets from row ``lowest`` on. Each target is in one
        window only.
    """
    owner = user[targets]
    first = np.ones(len(targets), dtype=bool)
    first[1:] = (owner[1:] != owner[:-1]) | (targets[1:] != targets[:-1] + 1)
    runs = np.flatnonzero(first)
    lowest, highest = targets[runs], targets[np.append(runs[1:], len(targets)) - 1]
    start = offsets[owner[runs]]
    count = (highest - lowest) // length + 1
    end = np.repeat(highest, count) - joined_ranges(0, count) * length  # newest window first
    begin = np.maximum(np.repeat(start, count), end - length)
    return np.stack([begin, end, np.repeat(lowest, count)], axis=1).astype(np.int64)


class UserLoader(TrainLoader):
    """Batches of user ids alone, for autoencoders (RecBole's ``UserDataLoader``)."""

    def __init__(self, table: DeviceTable, train_part: Any, config: Config) -> None:
        super().__init__(table, train_part, config, sequential=False)
        self.rows = np.arange(table.dataset.user_num)  # with the padding user, as RecBole has it
        self.step = int(config["train_batch_size"])
        self.shuffle = True

    def made(self, rows: torch.Tensor, shape: Shape) -> LazyInteraction:
        """The batch of some users."""
        return LazyInteraction({self.table.uid: lambda: rows}, len(rows))


class EvalLoader:
    """Blocks of evaluation cases, sorted by history length so that padding stays short.

    Args:
        table: the interactions on the device.
        cases: what to evaluate.
        batch_size: cases per block.
        sequential: whether blocks contain histories.
        silent: ``(m,)`` bool, cases about which the model knows nothing, so that all items score the same; ``None``
            if there are none.
    """

    def __init__(
        self, table: DeviceTable, cases: Cases, batch_size: int, sequential: bool, silent: np.ndarray | None = None
    ) -> None:
        self.table, self.cases, self.sequential, self.silent = table, cases, sequential, silent
        self.batch_size = max(1, batch_size)
        self.lengths = np.minimum(cases.end - cases.start, table.max_length)
        self.order = np.argsort(self.lengths, kind="stable") if sequential else np.arange(len(cases))

    def __len__(self) -> int:
        return -(-len(self.cases) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, LazyInteraction]]:
        """Yield the case numbers of each block, and its batch."""
        for begin in range(0, len(self.order), self.batch_size):
            chosen = self.order[begin : begin + self.batch_size]
            yield chosen, self.batch(chosen)

    def batch(self, chosen: np.ndarray) -> LazyInteraction:
        """The batch of some cases; its item column holds each case's first target."""
        table, cases = self.table, self.cases

        def on_device(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(table.device)

        user, end = on_device(cases.user[chosen]), on_device(cases.end[chosen])
        first = cases.target_rows[cases.target_offsets[:-1][chosen]]
        sources: dict[str, Source] = {
            table.uid: lambda: user,
            table.iid: lambda: _ids(table.item, on_device(first)),
        }
        if cases.candidates is not None:
            candidates = cases.candidates[chosen]
            sources["candidates"] = lambda: shuffled_lines(on_device(candidates).long(), end)
        if self.sequential:
            width = table.width(int(self.lengths[chosen].max(initial=1)))
            sources |= table.histories(user, on_device(cases.start[chosen]), end, width)
        batch = LazyInteraction(sources, len(chosen))
        table.join(batch)
        return table.transformed(batch)
