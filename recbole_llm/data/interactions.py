"""All interactions of a dataset as flat arrays in one canonical order.

Rows are sorted by user, then time, then a stable hash. Rows of one user in the same second are ordered
by a hash of the tokens, never by item id or file order (in ml-100k, three rows of four share user and
second with another). Every engine reads this order, RecBole's own path included.

Users and items get ids by first appearance in the file, from 1; 0 is the padding id, as in RecBole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

PAD_TOKEN = "[PAD]"  # noqa: S105 - RecBole's padding token


@dataclass
class Interactions:
    """The interactions of a dataset, user by user in time order; ``n`` rows.

    Attributes:
        user, item: ``(n,)`` int32 ids from 1.
        time: ``(n,)`` int64 (float64 if times are fractional), or ``None``.
        extra: other columns, ``(n,)``; token columns hold ids from 1, 0 for a missing token.
        offsets: ``(n_users + 2,)`` int64; user ``u`` owns rows ``offsets[u]:offsets[u + 1]``, user 0 has none.
        user_tokens, item_tokens: tokens by id, ``[PAD]`` at 0.
        extra_tokens: tokens by id of the token columns in ``extra``.
        facts: counts of what was read and left out, and what was found about the times.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    extra: dict[str, np.ndarray]
    offsets: np.ndarray
    user_tokens: np.ndarray
    item_tokens: np.ndarray
    extra_tokens: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Number of users, without the padding id."""
        return len(self.user_tokens) - 1

    @property
    def n_items(self) -> int:
        """Number of items, without the padding id."""
        return len(self.item_tokens) - 1

    def statistics(self) -> dict[str, float | int]:
        """Counts that papers report."""
        lengths = np.diff(self.offsets)[1:]
        return {
            "users": self.n_users,
            "items": self.n_items,
            "interactions": len(self),
            "mean_length": round(float(lengths.mean()), 2) if len(lengths) else 0.0,
            "median_length": float(np.median(lengths)) if len(lengths) else 0.0,
            "max_length": int(lengths.max()) if len(lengths) else 0,
            "density": len(self) / max(1, self.n_users * self.n_items),
        }


def offsets_of(user: np.ndarray, count: int) -> np.ndarray:
    """Where each id's rows begin among rows sorted by id, and where the last ones end.

    Args:
        user: ``(n,)`` ids from 0, ascending.
        count: how many ids there are.

    Returns:
        ``(count + 1,)`` int64.
    """
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(user, minlength=count), out=offsets[1:])
    return offsets


def compact_ids(ids: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumber ids by first appearance, without the gaps that dropped rows left; returns the ids and their tokens.

    Args:
        ids: ``(n,)`` int32 from 1.
        tokens: tokens by id, with the padding token first.
    """
    present = pd.unique(ids)
    if len(present) == len(tokens) - 1:
        return ids, tokens
    mapping = np.zeros(len(tokens), dtype=np.int32)
    mapping[present] = np.arange(1, len(present) + 1, dtype=np.int32)
    return mapping[ids], np.concatenate([tokens[:1], tokens[present]])


def token_hashes(tokens: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each token, the same on every machine and in every version."""
    digests = b"".join(hashlib.blake2b(str(token).encode("utf-8"), digest_size=8).digest() for token in tokens)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def hash_ranks(tokens: np.ndarray) -> np.ndarray:
    """``(N - 1,)`` int64, the ranks from 0 of the hashes of the tokens after the padding.

    Language models may read them as numbers of items. Ids follow the whole file and so tell which item comes next.
    """
    ranks: np.ndarray = np.argsort(np.argsort(token_hashes(tokens[1:]), kind="stable"), kind="stable")
    return ranks


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: a bijection that spreads every bit."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def canonical_order(
    user: np.ndarray, item: np.ndarray, time: np.ndarray | None, user_tokens: np.ndarray, item_tokens: np.ndarray
) -> tuple[np.ndarray, int]:
    """The order by user, then time, then, for ties, a hash of user and item token.

    Without times, each user's rows keep the order of the file.

    Returns:
        The permutation and the number of rows that share user and time with another row.
    """
    if time is None:
        return np.argsort(user, kind="stable"), 0
    order = _by_user_and_time(user, time)
    u, t = user[order], time[order]
    same = (u[1:] == u[:-1]) & (t[1:] == t[:-1])
    tied = np.zeros(len(order), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    count = int(tied.sum())
    if count:
        rows = order[tied]
        salt = token_hashes(user_tokens)[user[rows]]
        key = _mix(token_hashes(item_tokens)[item[rows]] ^ _mix(salt))
        order[tied] = rows[np.lexsort((rows, key, time[rows], user[rows]))]
    return order, count


def _by_user_and_time(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Rows by user, then time, ties in any order: one sort if both fit into 63 bits, two otherwise."""
    if len(time) and time.dtype.kind == "i":
        first, last = int(time.min()), int(time.max())
        span = last - first + 1
        if (int(user.max()) + 1) * span < 2**63:
            return np.argsort(user.astype(np.int64) * span + (time - first))
    order = np.argsort(time, kind="stable")
    return order[np.argsort(user[order], kind="stable")]


def exact_repeats(user: np.ndarray, item: np.ndarray, time: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows ``(r,)`` that repeat an earlier row of the file: same user, item and time.

    Args:
        user, item, time: ``(n,)`` in the order of the file.
        order: the canonical order of the rows, in which repeats are adjacent.
    """
    columns = [values[order] for values in (user, item, time)]
    same = np.ones(max(0, len(order) - 1), dtype=bool)
    for values in columns:
        same &= values[1:] == values[:-1]
    if not same.any():
        return np.empty(0, dtype=np.int64)
    run = np.concatenate([[0], np.cumsum(~same)])  # equal rows share a number
    earliest = np.full(run[-1] + 1, len(order), dtype=np.int64)
    np.minimum.at(earliest, run, order)
    return order[order != earliest[run]]


class TokenIndex(dict):
    """Token to id, filled on first use because most runs never look a token up."""

    def __init__(self, tokens: np.ndarray) -> None:
        super().__init__()
        self._tokens: np.ndarray | None = tokens

    def _fill(self) -> None:
        if self._tokens is not None:
            tokens, self._tokens = self._tokens, None
            self.update(zip(tokens.tolist(), range(len(tokens)), strict=True))

    def __missing__(self, token: str) -> int:
        if self._tokens is None:
            raise KeyError(token)
        self._fill()
        return self[token]

    def __contains__(self, token: object) -> bool:
        self._fill()
        return super().__contains__(token)

    def get(self, token: str, default: Any = None) -> Any:
        """The id of a token, or the default."""
        self._fill()
        return super().get(token, default)
