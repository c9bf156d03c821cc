"""Affinity Propagation (Frey and Dueck, Science 2007): exemplars of a set; their number follows from the data.

It exchanges messages between all pairs, so it is exact only up to a limit. Larger sets are clustered in levels, as in
Hi-AP (Zhang, Furtlehner, Sebag, ECML PKDD 2008): the vectors are halved along their principal axes into cells below
the limit, each cell finds its exemplars exactly, and the exemplars, weighted by the members they stand for, are
clustered again until they fit into one cell or a level removes less than a tenth of them. Finally each member takes
the nearest exemplar and each cluster its best member, which can only raise the net similarity.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

DAMPING = 0.8
MAX_ITERATIONS = 500
CONVERGENCE = 15  # iterations without a change
CELL = 1000  # most members of a cell, once the set is beyond the exact limit
REFINEMENTS = 10
REFINEMENT_WORK = 1e13  # multiply-adds that refining may take; a single pass grows with the square of the members
BLOCK = 16_000_000  # similarities held at once outside of cells
SAMPLE = 1000  # members from which the median similarity is estimated

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


def similarities(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``(n, m)`` float32 negative squared distances."""
    squares = np.square(left).sum(1)[:, None] + np.square(right).sum(1)[None, :]
    return np.minimum(2.0 * (left @ right.T) - squares, 0.0, dtype=np.float32)


def preference_of(vectors: np.ndarray, given: float) -> float:
    """The preference for a setting's value: itself if below zero, else that many times the median similarity.

    Args:
        vectors: ``(n, d)``.
        given: for example ``-10``, or ``1`` for the median similarity of two members (scikit-learn's default).
    """
    if given < 0 or len(vectors) < 2:
        return min(given, -1e-9)
    sample = vectors[np.linspace(0, len(vectors) - 1, min(SAMPLE, len(vectors))).astype(np.int64)]
    found = similarities(sample, sample)
    return min(given * float(np.median(found[np.triu_indices(len(sample), 1)])), -1e-9)


def exemplars(
    vectors: np.ndarray, preference: float, exact: int, progress: Progress = lambda items, title: items
) -> np.ndarray:
    """``(n,)`` row of each member's exemplar; for an exemplar its own row.

    Args:
        vectors: ``(n, d)`` float32; similarity is the negative squared distance.
        preference: cost of an exemplar (below zero); a more negative one gives fewer exemplars.
        exact: most members for which messages run between all pairs.
        progress: wraps the loop over cells.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    rows = np.arange(len(vectors))
    if len(rows) <= exact:
        return _propagate(vectors, np.ones(len(rows)), preference)
    weight: np.ndarray = np.ones(len(rows))
    label = rows.copy()
    limit = min(CELL, exact)
    while True:
        cells = _cells(vectors, rows, limit)
        for cell in progress(cells, "affinity propagation"):
            chosen = cell[_propagate(vectors[cell], weight[cell], preference)]
            label[cell] = chosen
        fewer = np.unique(label[rows])
        weight = np.bincount(label[rows], weights=weight[rows], minlength=len(vectors))
        if len(cells) == 1 or len(fewer) > 0.9 * len(rows):
            break
        rows = fewer
    return _refined(vectors, np.unique(label[rows]))


def net_similarity(vectors: np.ndarray, label: np.ndarray, preference: float) -> float:
    """What Affinity Propagation maximises: members' similarities to their exemplars plus each exemplar's preference."""
    distance = _squared_distances(vectors, vectors, label).astype(np.float64)
    return float(preference * len(np.unique(label)) - distance.sum())


def _propagate(vectors: np.ndarray, weight: np.ndarray, preference: float) -> np.ndarray:
    """``(n,)`` exemplars by messages between all pairs; weight ``w`` counts as ``w`` members at one point."""
    from sklearn.cluster import affinity_propagation
    from sklearn.exceptions import ConvergenceWarning

    matrix = similarities(vectors, vectors) * weight[:, None].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # all are equally similar: one or all become exemplars
        centres, label = affinity_propagation(
            matrix,
            preference=preference,
            damping=DAMPING,
            max_iter=MAX_ITERATIONS,
            convergence_iter=CONVERGENCE,
            copy=False,
            random_state=0,
        )
    if not len(centres):
        logger.warning("affinity propagation did not settle for %d members; the most central one serves", len(vectors))
        return np.full(len(vectors), int(np.argmax(weight @ similarities(vectors, vectors))))
    return np.asarray(centres)[label]


def _cells(vectors: np.ndarray, rows: np.ndarray, limit: int) -> list[np.ndarray]:
    """The rows, halved along the principal axis of each part until no part is above the limit."""
    if len(rows) <= limit:
        return [rows]
    centred = vectors[rows]
    centred -= centred.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(centred @ axes[:, -1], kind="stable")
    del centred  # before the halves make theirs
    half = len(rows) // 2
    return [*_cells(vectors, rows[order[:half]], limit), *_cells(vectors, rows[order[half:]], limit)]


def _squared_distances(vectors: np.ndarray, others: np.ndarray, which: np.ndarray) -> np.ndarray:
    """``(n,)`` squared distance from vector ``i`` to ``others[which[i]]``, others ``(m, d)``."""
    found = np.empty(len(vectors), dtype=np.float32)
    step = max(1, BLOCK // vectors.shape[1])
    for begin in range(0, len(vectors), step):
        part = slice(begin, begin + step)
        found[part] = np.square(vectors[part] - others[which[part]]).sum(axis=1)
    return found


def _nearest(vectors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """``(n,)`` row of the chosen member that is nearest to each member."""
    found = np.empty(len(vectors), dtype=np.int64)
    step = max(1, BLOCK // max(1, len(chosen)))
    for begin in range(0, len(vectors), step):
        part = slice(begin, begin + step)
        found[part] = chosen[similarities(vectors[part], vectors[chosen]).argmax(axis=1)]
    found[chosen] = chosen
    return found


def _refined(vectors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Assign members to the nearest exemplar and make the most central member the exemplar, while anything changes.

    With squared distances, the member nearest to the mean has the least total distance to all members.
    """
    label = _nearest(vectors, chosen)
    passes = int(REFINEMENT_WORK / (vectors.size * len(chosen)))
    for _ in range(min(REFINEMENTS, passes)):
        centres, group = np.unique(label, return_inverse=True)
        sums = np.zeros((len(centres), vectors.shape[1]), dtype=np.float64)
        np.add.at(sums, group, vectors)
        means = (sums / np.bincount(group)[:, None]).astype(np.float32)
        distance = _squared_distances(vectors, means, group)
        order = np.lexsort((distance, group))
        better = np.sort(order[np.searchsorted(group[order], np.arange(len(centres)))])
        if np.array_equal(better, centres):
            break
        label = _nearest(vectors, better)
    return label
