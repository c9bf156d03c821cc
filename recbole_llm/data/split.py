"""Splits: which interactions train, and which cases validate and test.

A protocol's ``split`` key names one of the functions here. All of them work on the canonical order of
``Interactions``, so that the same cases serve every model and every engine.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llm.data.interactions import Interactions, token_hashes
from recbole_llm.data.sessions import earlier_windows_first, later_windows, people_of
from recbole_llm.data.times import EARLIEST, LATEST, day_of, larger_unit, why_incomparable
from recbole_llm.errors import UserError
from recbole_llm.utils.arrays import joined_ranges


@dataclass(frozen=True)
class Cases:
    """``m`` evaluation cases, each a visible history and the targets that follow it.

    Attributes:
        user: ``(m,)`` int64 user ids.
        start, end: ``(m,)`` rows ``start:end`` of the interactions are the visible history.
        target_offsets: ``(m + 1,)``; case ``c`` owns ``target_rows[target_offsets[c]:target_offsets[c + 1]]``.
        target_rows: rows of the interactions to predict.
        candidates: ``(m, c)`` item ids to rank (0: the padding item, always last), or ``None`` for
            all items.
        shown: ``(m,)`` rows ``start:shown`` of the history are what prompts and features may show; ``None`` for all
            of it.
        ends_before: ``(m,)`` the row after the last one of each case, repeats of targets included; ``None`` if each
            case ends with its last target.
    """

    user: np.ndarray
    start: np.ndarray
    end: np.ndarray
    target_offsets: np.ndarray
    target_rows: np.ndarray
    candidates: np.ndarray | None = None
    shown: np.ndarray | None = None
    ends_before: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def whole_end(self) -> np.ndarray:
        """``(m,)`` the row after the last one of each case, targets and their repeats included."""
        return self.target_rows[self.target_offsets[1:] - 1] + 1 if self.ends_before is None else self.ends_before

    @property
    def single_target(self) -> bool:
        """Whether every case has exactly one target, the row after its history."""
        return len(self.target_rows) == len(self) and bool(np.all(self.target_rows == self.end))

    def select(self, chosen: np.ndarray) -> Cases:
        """Some of the cases, by their numbers, in the order given."""
        first, counts = self.target_offsets[:-1][chosen], np.diff(self.target_offsets)[chosen]
        return Cases(
            self.user[chosen],
            self.start[chosen],
            self.end[chosen],
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            self.target_rows[joined_ranges(first, counts)],
            None if self.candidates is None else self.candidates[chosen],
            None if self.shown is None else self.shown[chosen],
            None if self.ends_before is None else self.ends_before[chosen],
        )

    def of_sample(self, user_tokens: np.ndarray, users: int) -> Cases:
        """The cases of a fixed sample of users, those with the smallest hashes; all cases if there are too few users.

        Args:
            user_tokens: by user id.
            users: size of the sample; 0 for all.
        """
        present = np.unique(self.user)
        if not 0 < users < len(present):
            return self
        chosen = present[np.argsort(token_hashes(user_tokens[present]), kind="stable")[:users]]
        return self.select(np.flatnonzero(np.isin(self.user, chosen)))

    def with_candidates(self, candidates: np.ndarray) -> Cases:
        """The same cases, ranking only the given items."""
        return replace(self, candidates=candidates)


@dataclass(frozen=True)
class Cuts:
    """The cuts of a global time split, as times: rows before ``valid`` train, rows from ``test`` on test."""

    valid: float
    test: float


@dataclass(frozen=True)
class Split:
    """Training rows and evaluation cases.

    Attributes:
        train_rows: rows that models may learn from, ascending.
        train_targets: the training rows that have a history to predict them from.
        valid, test: cases for model selection and for the final numbers.
        unseen_users: evaluated users have no training interaction, so that models which know a user only
            by id cannot take part.
        cuts: the cuts of a global time split; no feature may show later interactions of any user.
        without_history: by phase, the number of targets that are no cases because nothing precedes them.
        valid_rows: with ready parts, all validation rows, including those that are no cases for lack of a history.
    """

    train_rows: np.ndarray
    train_targets: np.ndarray
    valid: Cases
    test: Cases
    unseen_users: bool = False
    cuts: Cuts | None = None
    without_history: Mapping[str, int] = field(default_factory=dict)
    valid_rows: np.ndarray | None = None

    @cached_property
    def _shown(self) -> dict[int, int]:
        pairs = ((cases.end, cases.shown) for cases in (self.valid, self.test) if cases.shown is not None)
        return {row: end for ends, shown in pairs for row, end in zip(ends.tolist(), shown.tolist(), strict=True)}

    def shown_until(self, row: int) -> int:
        """Where the history ends that a feature may show for the target in ``row``: there, or at an earlier cut."""
        return self._shown.get(row, row)

    def all_shown_until(self, rows: np.ndarray) -> np.ndarray:
        """:meth:`shown_until` for many rows, ``(n,)``."""
        return np.array([self.shown_until(row) for row in rows.tolist()], dtype=np.int64) if self._shown else rows


Options = Mapping[str, Any]


def _one_target(table: Interactions, rows: np.ndarray) -> Cases:
    """Cases that predict each of ``rows`` from the user's whole history before it."""
    user = np.asarray(table.user[rows], dtype=np.int64)
    return Cases(user, np.asarray(table.offsets)[user], rows, np.arange(len(rows) + 1, dtype=np.int64), rows)


def positions(table: Interactions, rows: np.ndarray) -> np.ndarray:
    """``(n,)`` int64: the index of each of some rows in its user's whole history, from 0."""
    return rows - np.asarray(table.offsets)[table.user[rows]]


def whole_histories(table: Interactions, rows: np.ndarray) -> np.ndarray:
    """All rows of the histories that end with ``rows``, ascending: each user's rows up to the last one in ``rows``.

    For training rows, the result can be larger than ``rows``: if windows overlap and each interaction trains only in
    the first window that holds it, only the last row of a later window trains, with the rows before it as its history.
    """
    ends = np.zeros(len(table.user_tokens), dtype=np.int64)
    np.maximum.at(ends, np.asarray(table.user)[rows], rows + 1)
    return np.flatnonzero(np.arange(len(table)) < ends[table.user])


def _rows_of_users(table: Interactions, users: np.ndarray) -> np.ndarray:
    """All rows of some users, user by user, in the order given."""
    begin = np.asarray(table.offsets)[users]
    return joined_ranges(begin, np.asarray(table.offsets)[users + 1] - begin)


def leave_one_out(table: Interactions, options: Options) -> Split:
    """Each user's last item tests, the one before it validates, the others train.

    Users with fewer than three interactions only train: each tested user also needs a validation case and
    a history, so that all models are tested on the same users. RecBole tests two-item users with general
    models but not with sequential ones.
    """
    offsets = np.asarray(table.offsets)
    lengths = np.diff(offsets)
    evaluated = np.flatnonzero(lengths >= 3)
    last = offsets[evaluated + 1] - 1
    held_out = np.zeros(len(table), dtype=bool)
    held_out[last] = held_out[last - 1] = True
    train_rows = np.flatnonzero(~held_out)
    targets = train_rows[positions(table, train_rows) > 0]
    return Split(train_rows, targets, _one_target(table, last - 1), _one_target(table, last))


def user_split(table: Interactions, options: Options) -> Split:
    """Users split 8:1:1; a held-out user's first 80 % are history, all the rest targets (ComiRec, EIMF, LDMI).

    Options: ``user_order`` is ``file`` (users by first appearance, as in EIMF's released code)
    or ``hash`` (a stable shuffle, the default); ``min_history`` is the shortest history of a training target.
    """
    users = np.flatnonzero(np.diff(table.offsets) > 0)
    if options.get("user_order", "hash") == "hash":
        users = users[np.argsort(token_hashes(table.user_tokens[users]), kind="stable")]
    train_count, valid_count = int(len(users) * 0.8), int(len(users) * 0.1)
    train, valid, test = np.split(users, [train_count, train_count + valid_count])
    train_rows = np.sort(_rows_of_users(table, train))
    targets = train_rows[positions(table, train_rows) >= max(1, int(options.get("min_history", 1)))]
    return Split(train_rows, targets, _rest_as_targets(table, valid), _rest_as_targets(table, test), unseen_users=True)


def _rest_as_targets(table: Interactions, users: np.ndarray) -> Cases:
    offsets = np.asarray(table.offsets)
    lengths = offsets[users + 1] - offsets[users]
    seen = np.floor(0.8 * lengths + 1e-9).astype(np.int64)
    users, seen, lengths = (values[seen > 0] for values in (users, seen, lengths))
    end, counts = offsets[users] + seen, lengths - seen
    return cases_of_sets(table, users.astype(np.int64), end, joined_ranges(end, counts), counts)


def cases_of_sets(
    table: Interactions, users: np.ndarray, end: np.ndarray, rows: np.ndarray, counts: np.ndarray
) -> Cases:
    """Cases with a set of targets each: an item that occurs twice among them counts once.

    Args:
        table: the interactions.
        users: ``(m,)`` user ids.
        end: ``(m,)`` where their visible histories end.
        rows: rows of the targets, case by case.
        counts: ``(m,)`` number of these rows in each case.
    """
    case = np.repeat(np.arange(len(users)), counts)
    _, first = np.unique(case * (table.n_items + 1) + np.asarray(table.item)[rows], return_index=True)
    first.sort()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(case[first], minlength=len(users)))])
    ends_before = rows[np.cumsum(counts) - 1] + 1
    return Cases(users, np.asarray(table.offsets)[users], end, offsets, rows[first], ends_before=ends_before)


def read_user_ranks(path: Path) -> dict[str, float]:
    """Read the order of users (or sessions) by their last interaction: a header, then a user and a number per line.

    Raises:
        UserError: the file is damaged or has another form.
    """
    try:
        frame = pd.read_csv(path, sep="\t", dtype={0: str}, keep_default_na=False)
        places = pd.to_numeric(frame.iloc[:, 1])
        if places.isna().any():
            raise ValueError("a user without a number")
        return dict(zip(frame.iloc[:, 0], places, strict=True))
    except (ValueError, IndexError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{path}: each line has a user and a number, separated by a tab, below a header ({error})."
        ) from error


def check_times_compare(table: Interactions, options: Options) -> None:
    """Raise if the dataset's times cannot order users.

    Raises:
        UserError: there are no times, or they do not compare between users.
    """
    where = f"--protocol={options['protocol']} orders users by time"
    if table.time is None:
        raise UserError(f"{where}, and this dataset is read without times: name their column with --TIME_FIELD.")
    # Filters and windows leave gaps in times that merely count, so the facts were taken from the whole file.
    if len(table.user_tokens) > 2 and (why := why_incomparable(table.facts)):
        raise UserError(f"{where}, but {why}. Use --protocol=loo, or real times.")


def _by_end(table: Interactions, options: Options) -> np.ndarray:
    """Users (or sessions) in the order of their last interaction.

    A file ``<dataset>.user_last_order.tsv`` gives the order if times are only ordinal.

    Raises:
        UserError: times do not compare between users, or the file lacks users of the dataset.
    """
    users = np.flatnonzero(np.diff(table.offsets) > 0)
    given = options.get("user_rank")
    if given is not None:
        rank = np.array([given.get(str(token), -1) for token in table.user_tokens[users]])
        if (rank < 0).any():
            raise UserError(f"the file of user orders lacks {int((rank < 0).sum())} users of this dataset.")
        return users[np.argsort(rank, kind="stable")]
    check_times_compare(table, options)
    last = np.asarray(table.time)[np.asarray(table.offsets)[users + 1] - 1]
    return users[np.lexsort((token_hashes(table.user_tokens[users]), last))]


def session(table: Interactions, options: Options) -> Split:
    """Sessions split by time 90/10; every prefix is a case, in training and in test (LLM-DMsRec).

    The released code selects models on the test cases. Here the last tenth of the training pairs, in the
    same order, validates.
    """
    order = _by_end(table, options)
    train, test = np.split(order, [int(len(order) * 0.9)])
    rows = _rows_of_users(table, train)
    is_pair = positions(table, rows) > 0
    pairs = rows[is_pair]
    valid_rows = pairs[len(pairs) - int(len(pairs) * 0.1) :]
    held_out = np.zeros(len(table), dtype=bool)
    held_out[valid_rows] = True
    # If all pairs of a session validate, its first item is in no training pair and is held out as well.
    first_pair = np.minimum(rows + 1, len(table) - 1)
    alone = ~is_pair & held_out[first_pair] & (np.asarray(table.user)[first_pair] == np.asarray(table.user)[rows])
    held_out[rows[alone]] = True
    train_rows = np.sort(rows[~held_out[rows]])
    targets = train_rows[positions(table, train_rows) > 0]
    test_rows = _rows_of_users(table, test)
    test_rows = test_rows[positions(table, test_rows) > 0]
    return Split(train_rows, targets, _one_target(table, valid_rows), _one_target(table, test_rows), unseen_users=True)


def _last_items(table: Interactions, train: np.ndarray, valid: np.ndarray, test: np.ndarray) -> Split:
    """Some users train on all their rows; for the others, the last item is the target."""
    offsets = np.asarray(table.offsets)
    train_rows = np.sort(_rows_of_users(table, train))
    return Split(
        train_rows,
        train_rows[positions(table, train_rows) > 0],
        _one_target(table, offsets[valid + 1] - 1),
        _one_target(table, offsets[test + 1] - 1),
        unseen_users=True,
    )


def temporal(table: Interactions, options: Options) -> Split:
    """Sessions split by time 80/10/10; a held-out session is a case whose last item is the target (PO4ISR, DUIP).

    Options: if long sessions were cut into sliding windows, ``window_targets`` says what trains. ``all``: each item of
    each window, so that an item counts once for every window that holds it. ``once``: each interaction only in the
    first window that holds it, with that window's earlier items as history. ``last``: only each window's last item.
    """
    order = _by_end(table, options)
    order = order[np.diff(table.offsets)[order] > 1]
    bounds = [int(len(order) * 0.8), int(len(order) * 0.9)]
    split = _last_items(table, *np.split(earlier_windows_first(table, order, bounds[0]), bounds))
    return of_windows(table, split, options)


def of_windows(table: Interactions, split: Split, options: Options) -> Split:
    """Restrict training to what ``window_targets`` allows in overlapping windows; see :func:`temporal`."""
    wanted = options.get("window_targets", "all")
    if wanted == "all":
        return split
    last = np.zeros(len(table), dtype=bool)
    last[np.asarray(table.offsets)[1:] - 1] = True
    fresh = last | ~later_windows(table)[table.user]
    rows = split.train_rows[fresh[split.train_rows]]
    targets = split.train_targets[(last if wanted == "last" else fresh)[split.train_targets]]
    return replace(split, train_rows=rows, train_targets=targets)


def published(table: Interactions, options: Options) -> Split:
    """Held-out sessions as a paper published them; sessions that ended before all of these train.

    Options: ``held_out`` gives the users (sessions) of each phase. Validation sessions are removed from the test,
    because PO4ISR's test file repeats them. Sessions that end between the held-out ones are not used.
    """
    valid, test = options["held_out"]["valid"], options["held_out"]["test"]
    test = test[~np.isin(test, valid)]
    order = _by_end(table, options)
    first = int(np.flatnonzero(np.isin(order, np.concatenate([valid, test])))[0])
    return _last_items(table, order[:first], valid, test)


def ends_before(table: Interactions, time: float) -> np.ndarray:
    """``ends``, ``(n_users + 2,)`` int64: user ``u``'s rows ``offsets[u]:ends[u]`` are earlier than a time."""
    early = np.asarray(table.user)[np.asarray(table.time) < time]
    return np.asarray(table.offsets) + np.bincount(early, minlength=len(table.offsets))


def global_time_split(table: Interactions, options: Options) -> Split:
    """One cut in time for all users (D. Gusak et al.: Time to Split, RecSys 2025).

    Rows before the first cut train, rows between the cuts validate, the others test; a row at a cut counts as after it.
    The history of a case is everything its user did before the target, also after the cut, because a model is asked
    when the target is due. Prompts and features may show it only up to the cut, because that is when they are made.

    Users and items without a training interaction are kept. A target without any history is no case, since only a
    non-personalised list could be ranked for it; such targets are counted.

    Options: ``valid_from`` and ``test_from`` are shares of the interactions in the order of time, or dates;
    ``targets`` is ``last``, ``first``, ``random`` (chosen by a hash of the user's name) or ``all`` (each interaction is
    a case of its own).

    Raises:
        UserError: times do not compare between users, or a cut is invalid.
    """
    check_times_compare(table, options)
    cuts = _cuts(table, options)
    train_end, test_begin = ends_before(table, cuts.valid), ends_before(table, cuts.test)
    train_rows = np.flatnonzero(np.asarray(table.time) < cuts.valid)
    valid, valid_lost = _period(table, train_end, test_begin, options["targets"])
    end = np.append(np.asarray(table.offsets)[1:], len(table))
    test, test_lost = _period(table, test_begin, end, options["targets"])
    return Split(
        train_rows,
        train_rows[positions(table, train_rows) > 0],
        valid,
        test,
        cuts=cuts,
        without_history={"valid": valid_lost, "test": test_lost},
    )


def _period(table: Interactions, begin: np.ndarray, end: np.ndarray, targets: str) -> tuple[Cases, int]:
    """Cases whose targets lie in each user's rows ``begin:end``, and how many targets lacked a history."""
    users = np.flatnonzero(begin[:-1] < end[:-1])
    first, last = begin[users], end[users] - 1
    if targets == "all":
        rows = joined_ranges(first, last - first + 1)
    elif targets == "random":
        first = np.maximum(first, np.asarray(table.offsets)[users] + 1)  # a user's first row has no history
        hashes = token_hashes(table.user_tokens[users]) if len(users) else np.empty(0, dtype=np.uint64)
        rows = np.where(
            first > last, last, first + (hashes % np.maximum(last - first + 1, 1).astype(np.uint64)).astype(np.int64)
        )
    else:
        rows = last if targets == "last" else first
    kept = rows[positions(table, rows) > 0]
    cases = _one_target(table, kept)
    return replace(cases, shown=np.minimum(begin[cases.user], kept)), len(rows) - len(kept)


def _cuts(table: Interactions, options: Options) -> Cuts:
    """The times of both cuts.

    Raises:
        UserError: a share or a date is invalid, or validation does not begin before the test.
    """
    ordered = np.sort(np.asarray(table.time))
    found = Cuts(*(_cut(ordered, options.get(name), name) for name in ("valid_from", "test_from")))
    if found.valid >= found.test:
        raise UserError(
            f"valid_from={options['valid_from']} is {day_of(found.valid)} here and test_from={options['test_from']} "
            f"{day_of(found.test)}: validation must begin before the test."
        )
    return found


def _cut(ordered: np.ndarray, given: Any, name: str) -> float:
    """The time of a cut that is given as a share of the interactions or as a date."""
    if isinstance(given, str):
        if not EARLIEST <= ordered[len(ordered) // 2] < LATEST:
            unit = larger_unit(ordered)
            why = f" ({unit})" if unit else ""
            raise UserError(
                f"{name}={given}: the times of this dataset are no seconds since 1970{why}; give a share such as 0.9."
            )
        try:
            day = datetime.fromisoformat(given)
        except ValueError:
            raise UserError(f"{name}={given}: give a date such as 2014-03-01, or a share such as 0.9.") from None
        return (day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp()
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < 1:
        raise UserError(
            f"{name}={given}: give a share of the interactions between 0 and 1, or a date such as 2014-03-01."
        )
    return float(ordered[int(given * len(ordered))])


SPLITS: dict[str, Callable[[Interactions, Options], Split]] = {
    "loo": leave_one_out,
    "session": session,
    "user_split": user_split,
    "temporal": temporal,
    "published": published,
    "gts": global_time_split,
}


CUT_BY = ("valid_from", "test_from", "targets")  # settings of a global time split
SEVERAL_TARGETS = ("user_split", "parts")  # splits whose cases are sets of items
BY_TIME = ("session", "temporal", "published")  # splits that order users by their last interaction


def split_interactions(table: Interactions, options: Options) -> Split:
    """The split that a protocol's settings ask for.

    Raises:
        UserError: nothing is left to train on, to validate or to test, or overlapping windows would train on test
            targets.
    """
    window = (options.get("sessions") or {}).get("window")
    if window and options["split"] != "temporal":
        raise UserError(
            f"--protocol={options['protocol']}: sliding windows (sessions: window: {window}) overlap, and under split: "
            f"{options['split']} what one is tested on trains in another. They are for split: temporal."
        )
    return checked(SPLITS[options["split"]](table, options), options)


def checked(split: Split, options: Options) -> Split:
    """The split, after checking that no part is empty.

    Raises:
        UserError: there are no training targets, no validation cases or no test cases.
    """
    if not len(split.train_targets) or not len(split.valid) or not len(split.test):
        raise UserError(
            f"--protocol={options['protocol']} leaves {len(split.train_targets)} training examples, {len(split.valid)} "
            f"validation and {len(split.test)} test cases of this dataset: it is too small for it."
        )
    return split


def fold_of_users(table: Interactions, split: Split, folds: int) -> np.ndarray:
    """The fold of each user id, ``(n_users + 1,)`` int64; -1 for users without training interactions.

    A stable hash of the name decides, and fold sizes differ by one user at most. If histories are cut into
    sessions, folds are of people: all sessions of a person are in one fold.
    """
    users = np.unique(np.asarray(table.user)[split.train_rows])
    people, person = np.unique(people_of(table, users), return_inverse=True)
    place = np.empty(len(people), dtype=np.int64)
    place[np.argsort(token_hashes(people), kind="stable")] = np.arange(len(people))
    found = np.full(len(table.user_tokens), -1, dtype=np.int64)
    found[users] = place[person] % folds
    return found


def without_fold(table: Interactions, split: Split, fold: int, folds: int) -> Split:
    """The split without the users of one fold in training and validation."""
    left_out = fold_of_users(table, split, folds) == fold

    def kept(rows: np.ndarray) -> np.ndarray:
        return rows[~left_out[table.user[rows]]]

    return replace(
        split,
        train_rows=kept(split.train_rows),
        train_targets=kept(split.train_targets),
        valid=_of_others(split.valid, left_out),
    )


def _of_others(cases: Cases, left_out: np.ndarray) -> Cases:
    others = ~left_out[cases.user]
    return cases if others.all() else cases.select(np.flatnonzero(others))


def cold_cases(table: Interactions, split: Split, cases: Cases) -> np.ndarray:
    """``(m,)`` bool: cases whose user has no training interaction."""
    trained = np.zeros(len(table.user_tokens), dtype=bool)
    trained[np.asarray(table.user)[split.train_rows]] = True
    return ~trained[cases.user]


def rows_digest(*rows: np.ndarray) -> str:
    """A short hash of row numbers; several arrays hash as if concatenated."""
    parts = (np.ascontiguousarray(part, dtype="<i8").tobytes() for part in rows)
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def tested_digest(split: Split) -> str:
    """A short hash of the ends of the validation and the test cases: of what no model may have been trained on."""
    return rows_digest(split.valid.end, split.test.end)


def split_identity(split: Split) -> dict[str, Any]:
    """What distinguishes one split of the same interactions from another."""
    return {
        "train_rows": len(split.train_rows),
        "valid_cases": len(split.valid),
        "test_cases": len(split.test),
        "rows_sha256": rows_digest(split.train_rows, split.valid.end, split.test.end),
    }
