"""Batches gathered on the device from one flat sequence array.

RecBole builds one padded row for each prefix on the host and collates rows into batches. Here a batch is
a set of row numbers; histories are gathered by index where the model computes, padded to the longest of
the batch where that changes nothing, and columns that the model does not read are never built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.utils import InputType

from recbole_llm.data.split import Cases
from recbole_llm.layers.next_item import PLACES, TARGETS, places_of
from recbole_llm.layers.waits import at_hand
from recbole_llm.utils.arrays import joined_ranges

Source = Callable[[], torch.Tensor]
Transform = Callable[[Any, Interaction], Interaction]
Shape = tuple[int, ...]  # what the host knows of a batch: how many rows, how wide, ...

WIDTHS = 4  # of histories on a GPU


def shuffled_lines(items: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """``(B, c)`` item ids, each line in an order that depends on the items and the line's ``key`` ``(B,)`` alone.

    Stored candidates have the target first; a model that reads the list must not see where the target stood.
    """
    mixed = (items * 2654435761 + key[:, None] * 40503) % 4294967291  # Knuth's multiplicative hash
    mixed = (mixed ^ (mixed >> 15)) * 1540483477 % 4294967291
    return items.gather(1, mixed.argsort(dim=1, stable=True))


def _rounded_up(number: int, unit: int) -> int:
    """The least multiple that is no smaller."""
    return -(-number // unit) * unit


def _ids(column: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Some values of an id column, as the int64 that indexing needs."""
    return column[rows].long()


class DeviceTable:
    """The flat interactions on a device, and the columns of a batch made from them.

    Args:
        dataset: a dataset of ``data.dataset.make_dataset``.
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
        # RecBole transforms the batches of training and of evaluation.
        self._transform: Transform | None = construct_transform(config) if config["transform"] else None
        self._columns: dict[str, torch.Tensor] = {}
        self._sides: dict[tuple[str, str], torch.Tensor] = {}  # columns of .user and .item

    def transformed(self, batch: LazyInteraction) -> Any:
        """A batch as the setting ``transform`` wants it."""
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
        """Sources of the plain columns of some rows."""

        def values(name: str) -> torch.Tensor:
            return self.column(name)[rows]

        sources: dict[str, Source] = {
            self.uid: partial(_ids, self.user, rows),
            self.iid: partial(_ids, self.item, rows),
        }
        sources |= {name: partial(values, name) for name in self.other_columns()}
        return sources

    def width(self, longest: int) -> int:
        """Columns of the histories of a batch whose longest one has that many items.

        On a GPU there are few widths, so that the batches of an epoch have few shapes.
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
            width: columns, see :meth:`width`; known on the host, so that no device synchronisation is needed.
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

    The order is a fresh permutation each epoch from the loader's own generator, so every example comes
    once an epoch and a batch is a uniform sample, as in RecBole.

    Args:
        table: the interactions on the device.
        train_part: the dataset with training rows alone (RecBole's trainers ask for it).
        config: RecBole's configuration.
        sequential: batches carry histories.
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
        times = self.negatives + (0 if self.pairwise else 1) if self.negatives else 1
        self.step = max(int(config["train_batch_size"]) // times, 1)
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
        """Yield the ``rank``-th of ``world`` parts of each batch from now on, with negatives of its own."""
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
        """Restore what :meth:`state_dict` gave."""
        self.generator.set_state(state["order"])
        if self.sampler is not None:
            self.sampler.set_state(state["negatives"])

    def batch(self, host_rows: np.ndarray) -> LazyInteraction:
        """The batch of some rows of the interactions, negatives included."""
        rows = torch.from_numpy(self.described(host_rows)).to(self.table.device, non_blocking=True)
        return self.made(rows, self.shape(host_rows))

    def described(self, host_rows: np.ndarray) -> np.ndarray:
        """What :meth:`made` makes a batch from, one row an example: numbers alone, the same for batches of a shape."""
        return host_rows

    def shape(self, host_rows: np.ndarray) -> Shape:
        """What must be known of a batch before it is made: its rows, and the columns of its histories."""
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
        copies = 1
        if self.negatives:
            copies = self.negatives + (0 if self.pairwise else 1)
        rows = rows.repeat(copies) if copies > 1 else rows
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
            batch[iid] = torch.cat([items, negative])
            label = torch.zeros(len(batch), device=self.table.device)
            label[:positives] = 1.0
            batch[self.config["LABEL_FIELD"]] = label


class SequenceLoader(TrainLoader):
    """Whole training histories with a target at every position, cut into windows.

    A window is at most ``MAX_ITEM_LIST_LENGTH`` items of a history and, as ``next_items`` beside them, the item that
    comes after each. Windows are cut from the end and do not overlap, so that every training target comes once an
    epoch and the newest have the longest context. Targets are the rows that train, and no others.

    A batch has a fixed number of windows, such that it holds ``train_batch_size`` targets in the mean: as many as in
    training by prefixes.
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
        """Windows of a batch, their columns, and on a GPU the most targets that a batch of the shape has."""
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
        targets: rows that train, ascending, none of them a user's first.
        length: most items of a window.

    Returns:
        ``(w, 3)`` int64, the rows ``begin``, ``end`` and ``lowest`` of each window. Those of ``begin:end`` are read,
        those of ``begin + 1:end + 1`` come next, and those from ``lowest`` on are targets, each in one window.
    """
    owner = user[targets]
    first = np.ones(len(targets), dtype=bool)
    first[1:] = (owner[1:] != owner[:-1]) | (targets[1:] != targets[:-1] + 1)
    runs = np.flatnonzero(first)
    lowest, highest = targets[runs], targets[np.append(runs[1:], len(targets)) - 1]
    start = offsets[owner[runs]]
    count = (highest - lowest) // length + 1
    end = np.repeat(highest, count) - joined_ranges(0, count) * length  # the last one first
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
        batch_size: cases in one block.
        sequential: blocks carry histories.
        silent: ``(m,)`` bool, cases of which the model knows nothing: it ranks all items alike. ``None`` for none.
    """

    def __init__(
        self, table: DeviceTable, cases: Cases, batch_size: int, sequential: bool, silent: np.ndarray | None = None
    ) -> None:
        self.table, self.cases, self.sequential, self.silent = table, cases, sequential, silent
        self.batch_size = max(1, batch_size)
        lengths = np.minimum(cases.end - cases.start, table.max_length)
        self.order = np.argsort(lengths, kind="stable") if sequential else np.arange(len(cases))
        self.longest = lengths

    def __len__(self) -> int:
        return -(-len(self.cases) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, LazyInteraction]]:
        """Yields the numbers of the cases of a block, and its batch."""
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
            width = table.width(int(self.longest[chosen].max(initial=1)))
            sources |= table.histories(user, on_device(cases.start[chosen]), end, width)
        batch = LazyInteraction(sources, len(chosen))
        table.join(batch)
        return table.transformed(batch)


class LazyInteraction(Interaction):
    """RecBole's ``Interaction`` over sources instead of tensors; equal to it once a column was read.

    Args:
        sources: for each column a function that makes its tensor, first dimension ``length``.
        length: number of rows.
    """

    def __init__(self, sources: Mapping[str, Source], length: int) -> None:
        # The parent's constructor would build every column: it is left out on purpose.
        self._sources = dict(sources)
        self._ready: dict[str, torch.Tensor] = {}
        self.length = length

    @property
    def interaction(self) -> dict[str, torch.Tensor]:
        """All columns, built; code that works on the whole batch pays for the whole batch."""
        for name in list(self._sources):
            self[name]
        return self._ready

    @interaction.setter
    def interaction(self, columns: dict[str, torch.Tensor]) -> None:
        self._sources, self._ready = {}, columns

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if not isinstance(index, str):
            return super().__getitem__(index)
        if index not in self._ready:
            self._ready[index] = self._sources.pop(index)()
        return self._ready[index]

    def __setitem__(self, key: str, value: torch.Tensor) -> None:
        self._sources.pop(key, None)
        self._ready[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(f"{key} is not in this interaction")
        self._sources.pop(key, None)
        self._ready.pop(key, None)

    def __contains__(self, item: str) -> bool:
        return item in self._ready or item in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter([*self._ready, *self._sources])

    def __getattr__(self, item: str) -> torch.Tensor:
        if item.startswith("_") or item not in self:
            raise AttributeError(f"'LazyInteraction' object has no attribute {item!r}")
        return self[item]

    def __deepcopy__(self, memo: dict[int, object]) -> LazyInteraction:
        # The default would copy what the sources hold on to: the whole dataset.
        copied = LazyInteraction(self._sources, self.length)
        copied._ready = {name: value.clone() for name, value in self._ready.items()}
        return copied

    @property
    def columns(self) -> list[str]:
        """Names of all columns, built or not."""
        return list(self)

    def add(self, name: str, source: Source) -> None:
        """Add a column that is built on first use."""
        self._ready.pop(name, None)
        self._sources[name] = source

    def update(self, new_inter: Interaction) -> None:
        """Take over the columns of another interaction."""
        for name in new_inter:
            self[name] = new_inter[name]

    def drop(self, column: str) -> None:
        """Remove a column; ``ValueError`` if there is none of that name, as in RecBole."""
        if column not in self:
            raise ValueError(f"Column [{column}] is not in [{self.columns}].")
        del self[column]


class NegativeSampler:
    """Items that a user has no training interaction with.

    Uniform draws are exact in one step: if user ``u`` lacks ``m`` items, draw ``r`` in ``[0, m)`` and take
    the ``r``-th missing one. With the user's items sorted as ``s_0 < s_1 < ...``, ``s_j - j - 1`` items are
    missing below ``s_j``, so the answer is ``r + 1`` plus the number of ``j`` with ``s_j - j - 1 <= r``: one
    binary search. The distribution is that of RecBole's ``Sampler``, which rejects draws in Python loops.

    Args:
        user, item: training interactions (ids from 1).
        n_users, n_items: numbers of ids, the padding id included.
        device: where samples are drawn and returned.
        distribution: ``uniform`` or ``popularity`` (proportional to training counts to the power ``alpha``).
        seed: of the sampler's own generator.

    Attributes:
        generator: what draws come from.
    """

    def __init__(
        self,
        user: np.ndarray,
        item: np.ndarray,
        n_users: int,
        n_items: int,
        device: torch.device,
        distribution: str = "uniform",
        alpha: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.n_items, self.device = n_items, device
        pairs = np.unique(user.astype(np.int64) * n_items + item)
        owner, items = pairs // n_items, pairs % n_items
        degree = np.bincount(owner, minlength=n_users)
        begin = np.concatenate([[0], np.cumsum(degree)[:-1]])
        missing_below = items - (np.arange(len(pairs)) - begin[owner]) - 1
        self._keys = torch.from_numpy(owner * (n_items + 1) + missing_below).to(device)
        self._pairs = torch.from_numpy(pairs).to(device)
        self._begin = torch.from_numpy(begin).to(device)
        self._missing = torch.from_numpy(n_items - 1 - degree).to(device)
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self._cumulative: torch.Tensor | None = None
        if distribution == "popularity":
            weights = np.bincount(item, minlength=n_items).astype(np.float64) ** alpha
            weights[0] = 0.0
            self._cumulative = torch.from_numpy(np.cumsum(weights) / weights.sum()).to(device)

    def reseed(self, seed: int) -> None:
        """Begin the draws anew."""
        self.generator.manual_seed(seed)

    def state(self) -> torch.Tensor:
        """State of the random generator, for checkpoints."""
        return self.generator.get_state()

    def set_state(self, state: torch.Tensor) -> None:
        """Restore what :meth:`state` gave."""
        self.generator.set_state(state.cpu())

    def _random(self, size: int) -> torch.Tensor:
        return torch.rand(size, generator=self.generator, device=self.device, dtype=torch.float64)

    def for_users(self, users: torch.Tensor, count: int = 1) -> torch.Tensor:
        """``count`` negatives for each of ``users``, in RecBole's layout: ``(count * B,)``, round by round."""
        users = users.repeat(count)
        if self._cumulative is not None:
            return self._popular(users)
        missing = self._missing[users]
        drawn = (self._random(len(users)) * missing).long().clamp_(max=self.n_items - 2)
        keys = users * (self.n_items + 1) + drawn
        below = torch.searchsorted(self._keys, keys, right=True) - self._begin[users]
        # A user who has every item has no negative; RecBole would loop for ever, any item serves.
        return (drawn + 1 + below).clamp_(max=self.n_items - 1)

    def _popular(self, users: torch.Tensor) -> torch.Tensor:
        """Popularity draws, again where the user has the item; a bounded number of rounds."""
        assert self._cumulative is not None
        items = torch.searchsorted(self._cumulative, self._random(len(users))).clamp_(1, self.n_items - 1)
        for _ in range(64):
            keys = users * self.n_items + items
            place = torch.searchsorted(self._pairs, keys).clamp_(max=len(self._pairs) - 1)
            taken = (self._pairs[place] == keys).nonzero(as_tuple=True)[0]
            if not len(taken):
                break
            items[taken] = torch.searchsorted(self._cumulative, self._random(len(taken))).clamp_(1, self.n_items - 1)
        return items

    def except_items(self, items: torch.Tensor, count: int = 1) -> torch.Tensor:
        """``count`` uniform items for each row other than the row's own (RecBole's ``RepeatableSampler``)."""
        items = items.repeat(count)
        if self._cumulative is not None:
            drawn = torch.searchsorted(self._cumulative, self._random(len(items))).clamp_(1, self.n_items - 1)
            return torch.where(drawn == items, drawn % (self.n_items - 1) + 1, drawn)
        drawn = (self._random(len(items)) * (self.n_items - 2)).long() + 1
        return drawn + (drawn >= items).long()
