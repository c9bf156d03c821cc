"""Which user's history a list of titles shows, and whether it shows hidden items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_llm.features.title_runs import TitleRuns
from tests.data.build import table_of

HISTORIES = {"ann": "a b c d e f g h", "bob": "p q e d c s t", "eve": "f g h k l m"}


@pytest.fixture
def runs(tmp_path: Path) -> TitleRuns:
    """Title runs of three histories whose last two items are hidden."""
    return runs_of(tmp_path, dict.fromkeys(HISTORIES, 2))


def runs_of(folder: Path, hidden: dict[str, int]) -> TitleRuns:
    """Title runs of the histories, with the given number of items hidden at the end of each."""
    rows = [(user, item, time) for user, items in HISTORIES.items() for time, item in enumerate(items.split())]
    table = table_of(folder, rows)
    titles = ["", *(f"Title {token}" for token in table.item_tokens[1:].tolist())]
    limits = np.asarray(table.offsets).copy()
    for number, token in enumerate(table.user_tokens.tolist()):
        if number:
            limits[number] = table.offsets[number + 1] - hidden[token]
    return TitleRuns(table, titles, limits)


def shown(items: str) -> list[str]:
    return [f"title {item}" for item in items.split()]


@pytest.mark.parametrize("order", [1, -1])
def test_a_history_up_to_a_hidden_item_is_found_in_both_directions(runs: TitleRuns, order: int) -> None:
    assert runs.leak(shown("a b c d e f")[::order]) == 0
    assert runs.leak(shown("a b c d e f g")[::order]) == 1
    assert runs.leak(shown("c d e f g h")[::order]) == 1


def test_a_visible_list_newest_first_is_no_leak_where_another_history_hides_it(tmp_path: Path) -> None:
    """``e d c`` runs into bob's hidden ``c``, but is also part of ann's visible history, newest first."""
    runs = runs_of(tmp_path, {"ann": 2, "bob": 3, "eve": 2})
    assert runs.leak(shown("f e d c b a")) == 0
    assert runs.leak(shown("e d c")) == 0
    assert runs.leak(shown("p q e d c")) == 2


def test_a_run_that_another_history_shows_is_a_leak_in_the_list_of_its_own_user(runs: TitleRuns) -> None:
    """``f g h`` is visible in eve's history; ann's ``g h`` is hidden."""
    assert runs.leak(shown("f g h k")) == 0
    assert runs.leak(shown("d e f g h")) == 1


def test_hidden_items_of_somebody_else_are_found_in_a_foreign_list(runs: TitleRuns) -> None:
    assert runs.leak([*shown("a b c d e f"), *shown("c s t")]) == 2


PLANTED = {
    "the test item without the validation item": "a b c d e f h",
    "the held-out item first": "g a b c d e f",
    "the held-out item in the middle": "a b c h d e f",
    "a visible item dropped": "a b c d e g h",
    "in no order": "d h a f c g b e",
    "one visible item": "f g",
    "held-out items alone": "g h",
    "another title that no history has": "a b c x d e f h",
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("items", PLANTED.values(), ids=PLANTED)
def test_a_hidden_item_is_found_wherever_a_list_of_its_history_holds_it(tmp_path: Path, items: str, order: int) -> None:
    """No other user's visible history contains ``f g``."""
    runs = runs_of(tmp_path, {"ann": 2, "bob": 2, "eve": 5})
    assert runs.leak(shown(items)[::order]) == 1


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "items", ["f g", "f g h", "g h k", "g k h", "f h", "p q a c", "b a d c", "d c e", "a g m", "a b c d p"]
)
def test_what_a_visible_history_accounts_for_or_no_single_one_is_no_leak(
    runs: TitleRuns, items: str, order: int
) -> None:
    """``f g h k`` is visible in eve's history; ann's ``g h`` is hidden."""
    assert runs.leak(shown(items)[::order]) == 0


def test_a_few_titles_of_a_long_history_in_no_order_tell_nothing(tmp_path: Path) -> None:
    table = table_of(tmp_path, [("ann", f"i{step:02}", step) for step in range(20)])
    titles = ["", *(f"Title {token}" for token in table.item_tokens[1:].tolist())]
    runs = TitleRuns(table, titles, np.array([0, 19, 20]))
    few = [f"title i{step:02}" for step in (19, 2, 11, 6, 14, 9)]
    assert runs.leak(few) == 0
    assert runs.leak([*few, *(f"title i{step:02}" for step in (4, 17, 0, 7, 12))]) == 1


def test_a_title_that_a_visible_item_has_too_is_not_hidden(tmp_path: Path) -> None:
    table = table_of(tmp_path, [("ann", f"i{step}", step) for step in range(8)])
    titles = ["", *(f"Title {token}" for token in table.item_tokens[1:].tolist())]
    titles[8] = titles[1]
    runs = TitleRuns(table, titles, np.array([0, 7, 8]))
    assert runs.leak([titles[8], *titles[3:8]]) == 0


@pytest.mark.parametrize(
    "titles", [[], ["title h"], ["title h", "title h"], ["x", "y", "z"], ["title g", "", "title h"]]
)
def test_what_is_no_run_is_no_leak(runs: TitleRuns, titles: list[str]) -> None:
    assert runs.leak(titles) == 0


def test_runs_that_end_in_hidden_items_are_counted(runs: TitleRuns) -> None:
    assert runs.hidden == 6
