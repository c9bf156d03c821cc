"""Maximum coverage: a few sets that together hold the most."""

from __future__ import annotations

import heapq

import numpy as np


def max_coverage(
    offsets: np.ndarray, elements: np.ndarray, weights: np.ndarray, budget: int, share: float = 1.0
) -> list[int]:
    """Sets chosen greedily by the weight that they add, at least ``1 - 1/e`` of the best possible.

    The gain of a set only falls while others are chosen. So the set that had the largest gain when it was last
    looked at is the best one if it still has it (lazy evaluation, Minoux 1978): most sets are looked at once.

    Args:
        offsets, elements: set ``s`` holds ``elements[offsets[s]:offsets[s + 1]]``, each once.
        weights: ``(n_elements,)`` not negative, what an element counts once it is covered.
        budget: sets at most.
        share: of the weight of all sets' union; enough when covered.

    Returns:
        Numbers of the chosen sets in the order of choice; among equal gains the smaller set, then the first.
    """
    sizes = np.diff(offsets)
    sums = np.concatenate([[0.0], np.cumsum(weights[elements], dtype=np.float64)])
    gains = sums[offsets[1:]] - sums[offsets[:-1]]
    wanted = share * float(weights[np.unique(elements)].sum(dtype=np.float64)) - 1e-9
    queue = [
        (-gain, size, number) for number, (gain, size) in enumerate(zip(gains.tolist(), sizes.tolist(), strict=True))
    ]
    heapq.heapify(queue)
    covered = np.zeros(len(weights), dtype=bool)
    chosen: list[int] = []
    total = 0.0
    while queue and len(chosen) < budget and total < wanted:
        _, size, number = queue[0]
        own = elements[offsets[number] : offsets[number + 1]]
        gain = float(weights[own[~covered[own]]].sum(dtype=np.float64))
        fresh = (-gain, size, number)
        if len(queue) > 1 and fresh > min(queue[1:3]):
            heapq.heapreplace(queue, fresh)
            continue
        heapq.heappop(queue)
        if gain <= 0:
            break
        covered[own] = True
        chosen.append(number)
        total += gain
    return chosen
