"""The rank of each target, from which metrics, tests and tables are computed.

For a target with score ``s`` two counts describe its rank completely: the items with a higher score and
the other items with the same score. Ranks are uniform over the ``tied + 1`` places after the ``higher``
ones, so that metrics can be given as expectations over the order of ties. Breaking ties by item id, as a
sort does, is enough to raise one published model by 20 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.utils.arrays import joined_ranges
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.text import reason_of

FORMAT = 1
_MAY_LACK = ("pool", "person", "cold_user", "cut_off")  # earlier files of this format lack these
HEAD_SHARE = 0.2


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
        pool: ``(m,)`` int32 number of ranked items; empty if it was not counted.
        person: ``(m,)`` int64 the person behind each case, if the protocol cuts histories into sessions and ``user``
            is a session; otherwise empty, as in files of older versions.
        cold_user: ``(m,)`` bool, the case's user has no training interaction; empty in files of older versions.
        cut_off: last place that was looked at, beyond which ranks are not exact; 0 if all ranks are exact.
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
    person: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    cold_user: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    cut_off: int = 0

    def __len__(self) -> int:
        return len(self.user)

    def save(self, path: Path) -> None:
        """Write a compressed ``.npz``, complete or not at all."""
        with whole_file(path) as stream:
            np.savez_compressed(stream, format=np.int32(FORMAT), **vars(self))

    @classmethod
    def load(cls, path: Path) -> Ranks:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the file is missing, damaged, of a later format, or its arrays are not the ranks of one test.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                if int(data["format"]) > FORMAT:
                    raise UserError(f"{path} was written by a later version (format {int(data['format'])}).")
                present = [name for name in cls.__dataclass_fields__ if name not in _MAY_LACK or name in data]
                values = {name: data[name] for name in present}
                found = cls(**{**values, "cut_off": int(values.get("cut_off", 0))})
                if (why := _malformed(found)) is not None:
                    raise UserError(f"{path} is not a file of ranks: {why}.")
                return found
        except UserError:
            raise
        except Exception as error:  # numpy and zipfile raise a dozen types for a damaged file
            raise UserError(f"{path} is not a readable file of ranks: {reason_of(error)}") from error

    def reach(self, k: int) -> bool:
        """Whether they give metrics at a cut-off; 0 stands for a metric without one, which needs all ranks."""
        return not self.cut_off or 0 < k <= self.cut_off

    def select(self, cases: np.ndarray) -> Ranks:
        """The ranks of some cases (their numbers, in the order given)."""
        lengths = np.diff(self.offsets)[cases]
        return self._part(cases, joined_ranges(self.offsets[:-1][cases], lengths), lengths)

    def _part(self, cases: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> Ranks:
        """Some cases with some of their targets; ``counts`` is the number of targets of each case."""
        of_cases = {name: getattr(self, name) for name in ("user", "history", "pool", "person", "cold_user")}
        of_targets = {name: getattr(self, name) for name in ("item", "higher", "tied", "train_count", "head")}
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            **{name: values[cases] if len(values) else values for name, values in of_cases.items()},
            **{name: values[targets] for name, values in of_targets.items()},
        )


def _malformed(ranks: Ranks) -> str | None:
    """Why arrays cannot be the ranks of one test, else ``None``; later code trusts their shapes."""
    cases, targets = ranks.user.size, ranks.item.size
    sizes = {
        "user": cases, "offsets": cases + 1, "history": cases, "item": targets, "higher": targets, "tied": targets,
        "train_count": targets, "head": targets,
    }  # fmt: skip
    arrays = {name: value for name, value in vars(ranks).items() if isinstance(value, np.ndarray)}
    for name, value in arrays.items():
        if value.ndim != 1 or value.dtype.kind not in "iub":
            return f"{name} is no list of whole numbers"
        if len(value) != sizes.get(name, cases if len(value) else 0):  # the others may be empty
            return f"{name} has {len(value):,} values"
        if name in ("higher", "tied", "history", "train_count", "pool") and len(value) and value.min() < 0:
            return f"{name} has negative values"
    if not cases or ranks.offsets[0] != 0 or ranks.offsets[-1] != targets or np.any(np.diff(ranks.offsets) < 1):
        return "offsets do not divide the targets among the cases"
    return None


def only_targets(ranks: Ranks, wanted: np.ndarray) -> Ranks:
    """The ranks of the ``wanted`` targets, ``(t,)`` bool; cases without any of them are left out."""
    owner = np.repeat(np.arange(len(ranks)), np.diff(ranks.offsets))[wanted]
    counts = np.bincount(owner, minlength=len(ranks))
    return ranks._part(counts > 0, wanted, counts[counts > 0])


def item_popularity(train_items: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Training interactions of each item id, and whether it is in the head.

    See :func:`head_items`.
    """
    counts = np.bincount(train_items, minlength=n_items).astype(np.int32)
    return counts, head_items(counts)


def head_items(counts: np.ndarray) -> np.ndarray:
    """``(n_items,)`` bool, the fifth of the items with most training interactions; index 0 is the padding.

    Items tied at the edge are either all in the head or all outside, so that no id decides.
    """
    ordered = np.sort(counts[1:])[::-1]
    edge = ordered[min(len(ordered) - 1, max(0, int(HEAD_SHARE * len(ordered)) - 1))] if len(ordered) else 0
    head = counts > edge if (counts[1:] >= edge).sum() > HEAD_SHARE * len(ordered) + 1 else counts >= edge
    head[0] = False
    return head
