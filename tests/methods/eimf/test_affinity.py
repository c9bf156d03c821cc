"""Affinity Propagation, exact and hierarchical."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import AffinityPropagation

from recbole_llm.methods.eimf import affinity, features
from recbole_llm.methods.eimf.affinity import exemplars, net_similarity, preference_of, similarities

EXACT = 10_000


def groups_of_points(groups: int, size: int, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    """Points around well-separated centres, in mixed order."""
    generator = np.random.default_rng(seed)
    centres = 5.0 * generator.normal(size=(groups, 8))
    points = centres.repeat(size, axis=0) + spread * generator.normal(size=(groups * size, 8))
    return points[generator.permutation(len(points))].astype(np.float32)


def test_small_sets_are_clustered_as_scikit_learn_does() -> None:
    points = groups_of_points(6, 15, spread=1.5)
    found = exemplars(points, -30.0, EXACT)
    reference = AffinityPropagation(damping=0.8, max_iter=500, preference=-30.0, random_state=0).fit(points)
    np.testing.assert_array_equal(np.unique(found), np.unique(reference.cluster_centers_indices_))


@pytest.mark.parametrize(("exact", "work"), [(EXACT, 1e13), (40, 1e13), (40, 0)])
def test_an_exemplar_stands_for_itself_and_is_the_nearest_to_its_members(
    exact: int, work: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(affinity, "REFINEMENT_WORK", work)  # where there are too many members to refine
    points = groups_of_points(7, 20, spread=1.0)
    found = exemplars(points, -20.0, exact)
    chosen = np.unique(found)
    np.testing.assert_array_equal(found[chosen], chosen)
    nearest = chosen[similarities(points, points[chosen]).argmax(axis=1)]
    np.testing.assert_array_equal(found, nearest)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = groups_of_points(7, 20, spread=1.0)
    whole = exemplars(points, -20.0, 40)
    monkeypatch.setattr(affinity, "BLOCK", 30)
    np.testing.assert_array_equal(exemplars(points, -20.0, 40), whole)


def test_levels_find_planted_groups() -> None:
    points = groups_of_points(9, 30)
    found = exemplars(points, -5.0, 50)
    assert len(np.unique(found)) == 9
    np.testing.assert_array_equal(found, exemplars(points, -5.0, EXACT))


def test_levels_come_near_to_the_exact_net_similarity() -> None:
    points = groups_of_points(12, 40, spread=2.0)
    preference = preference_of(points, 0.3)
    whole, parts = (exemplars(points, preference, exact) for exact in (EXACT, 100))
    reached, best = (net_similarity(points, found, preference) for found in (parts, whole))
    assert best < 0
    assert reached >= 1.05 * best


def test_the_same_points_give_the_same_exemplars() -> None:
    points = groups_of_points(5, 40, spread=2.0)
    np.testing.assert_array_equal(exemplars(points, -20.0, 50), exemplars(points, -20.0, 50))


def test_a_lower_preference_gives_fewer_exemplars() -> None:
    points = groups_of_points(8, 20, spread=2.0)
    counts = [len(np.unique(exemplars(points, preference, EXACT))) for preference in (-2.0, -50.0, -5000.0)]
    assert counts[0] > counts[1] > counts[2]


def test_net_similarity_is_distances_and_preferences() -> None:
    points = np.array([[0.0], [1.0], [5.0]], dtype=np.float32)
    assert net_similarity(points, np.array([0, 0, 2]), -7.0) == pytest.approx(-1.0 - 14.0)


def test_preferences_stand_or_count_in_median_similarities() -> None:
    points = np.array([[0.0], [1.0], [3.0]], dtype=np.float32)  # similarities -1, -4, -9
    assert preference_of(points, -10.0) == -10.0
    assert preference_of(points, 1.0) == pytest.approx(-4.0)
    assert preference_of(points, 2.5) == pytest.approx(-10.0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_few_members_have_exemplars_too(size: int) -> None:
    found = exemplars(np.eye(3, dtype=np.float32)[:size], -0.5, EXACT)
    assert found.tolist() == list(range(size))


def test_equal_members_have_one_exemplar() -> None:
    found = exemplars(np.ones((30, 4), dtype=np.float32), -1.0, EXACT)
    assert len(np.unique(found)) == 1


def test_cells_hold_every_row_once_and_none_is_too_large() -> None:
    points = groups_of_points(3, 33)
    cells = affinity._cells(points, np.arange(99), 20)
    assert sorted(np.concatenate(cells).tolist()) == list(range(99))
    assert max(map(len, cells)) <= 20


class MostAtOnce(np.ndarray):
    """A table that notes the most rows that are gathered from it at once."""

    most = 0

    def __getitem__(self, which: Any) -> Any:
        type(self).most = max(self.most, len(which))
        return np.asarray(self)[which]


def test_vectors_of_users_are_the_means_of_their_items_gathered_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    table = draws.normal(size=(30, 5)).astype(np.float32)
    context: Any = SimpleNamespace(
        items=SimpleNamespace(title=[""] * 31),
        settings={"cluster_pooling": "mean"},
        vectors_of=lambda titles, pooling: table.view(MostAtOnce),
    )
    lengths = [1, 4, 2, 12, 7, 1, *[3] * 50]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = draws.integers(1, 31, offsets[-1])
    whole = features.user_vectors(context, offsets, items)
    for user, own in enumerate(np.split(items, offsets[1:-1])):
        np.testing.assert_allclose(whole[user], table[own - 1].mean(axis=0), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(features, "BLOCK", 7)
    MostAtOnce.most = 0
    np.testing.assert_array_equal(features.user_vectors(context, offsets, items), whole)
    assert MostAtOnce.most == 12  # the longest history
