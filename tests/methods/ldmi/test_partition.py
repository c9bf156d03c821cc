"""Reading an answer's division of a list into interests, and dividing a list by rule."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.features.answers import AnswerError, read_answer
from recbole_llm.methods.eimf.features import OpenInterests
from recbole_llm.methods.ldmi.features import InterestGroups, read_groups, windows


def groups(*pairs: tuple[str, list[int]]) -> InterestGroups:
    return InterestGroups.model_validate({"interests": [{"name": name, "items": items} for name, items in pairs]})


def read(size: int, *pairs: tuple[str, list[int]]) -> tuple[list[tuple[str, list[int]]], Counter[str]]:
    counts: Counter[str] = Counter()
    found = read_groups(groups(*pairs), size, counts)
    return [(interest.name, interest.places) for interest in found], counts


def test_numbers_count_from_one() -> None:
    assert read(3, ("a", [3, 1]), ("b", [2]))[0] == [("a", [0, 2]), ("b", [1])]


def test_an_item_that_is_listed_twice_stays_in_its_first_group() -> None:
    found, counts = read(3, ("a", [1, 2]), ("b", [2, 3, 3]))
    assert found == [("a", [0, 1]), ("b", [2])]
    assert counts["listed_twice"] == 2


def test_numbers_that_no_item_has_are_left_out_and_counted() -> None:
    found, counts = read(2, ("a", [0, 1, 9, -1]), ("b", [7]))
    assert found == [("a", [0])]
    assert (counts["no_such_item"], counts["omitted"]) == (4, 1)


def test_an_answer_without_any_item_is_refused() -> None:
    with pytest.raises(AnswerError, match="1 to 2"):
        read(2, ("a", []), ("b", [5]))


@given(st.lists(st.lists(st.integers(-2, 12), max_size=8), min_size=1, max_size=5), st.integers(1, 10))
def test_places_are_in_range_and_in_one_interest_each(lists: list[list[int]], size: int) -> None:
    try:
        found, counts = read(size, *((f"n{number}", items) for number, items in enumerate(lists)))
    except AnswerError:
        assert not any(1 <= number <= size for items in lists for number in items)
        return
    places = [place for _, own in found for place in own]
    assert len(places) == len(set(places)) == size - counts["omitted"]
    assert all(0 <= place < size for place in places)


@pytest.mark.parametrize(
    "text",
    [
        '{"interests": ["thrillers", "old comedies"]}',
        '{"1": "thrillers", "2": "old comedies"}',
        '{"interests": {"1": "thrillers", "2": "old comedies"}}',
        '["thrillers", "old comedies"]',
    ],
)
def test_open_interests_are_read_in_every_form_that_models_write(text: str) -> None:
    answer, _ = read_answer(text, OpenInterests)
    assert answer.interests == ["thrillers", "old comedies"]


@pytest.mark.parametrize("text", ["{}", '{"interests": []}', '{"interests": [[1]]}', '{"interests": "none"}'])
def test_open_interests_that_name_nothing_are_refused(text: str) -> None:
    with pytest.raises(AnswerError):
        read_answer(text, OpenInterests)


@given(st.integers(0, 50), st.integers(0, 300), st.integers(1, 40))
def test_windows_cover_a_history_in_parts_of_like_length(begin: int, length: int, longest: int) -> None:
    found: list[Any] = windows(begin, begin + length, longest)
    rows = [row for first, last in found for row in range(first, last)]
    assert rows == list(range(begin, begin + length))
    sizes = [last - first for first, last in found]
    assert max(sizes, default=0) <= longest
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_window_bounds_round_half_to_even() -> None:
    """The published answers about ml-100k use these windows; another rule would ask other questions."""
    assert windows(0, 101, 100) == [(0, 50), (50, 101)]
    assert windows(1, 102, 100) == [(1, 52), (52, 102)]
