"""Whose history a list is, and whether it shows what is hidden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_llm.features.title_runs import TitleRuns
from tests.data.build import table_of

HISTORIES = {"ann": "a b c d e f g h", "bob": "p q e d c s t", "eve": "f g h k l m"}


@pytest.fixture
def runs(tmp_path: Path) -> TitleRuns:
    """Runs of three histories whose last two items are hidden."""
    return runs_of(tmp_path, dict.fromkeys(HISTORIES, 2))


def runs_of(folder: Path, hidden: dict[str, int]) -> TitleRuns:
    """Runs of the histories, of which so many items at the end are hidden."""
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
    """``e d c`` is what bob hides in the end; ann's list, newest first, has it too."""
    runs = runs_of(tmp_path, {"ann": 2, "bob": 3, "eve": 2})
    assert runs.leak(shown("f e d c b a")) == 0
    assert runs.leak(shown("e d c")) == 0
    assert runs.leak(shown("p q e d c")) == 2


def test_a_run_that_another_history_shows_is_a_leak_in_the_list_of_its_own_user(runs: TitleRuns) -> None:
    """``f g h`` is visible of eve and hidden of ann."""
    assert runs.leak(shown("f g h k")) == 0
    assert runs.leak(shown("d e f g h")) == 1


def test_hidden_items_of_somebody_else_are_found_in_a_foreign_list(runs: TitleRuns) -> None:
    assert runs.leak([*shown("a b c d e f"), *shown("c s t")]) == 2


@pytest.mark.parametrize("titles", [[], ["title g", "title h"], ["x", "y", "z"], ["title g", "", "title h"]])
def test_what_is_no_run_is_no_leak(runs: TitleRuns, titles: list[str]) -> None:
    assert runs.leak(titles) == 0


def test_runs_that_end_in_hidden_items_are_counted(runs: TitleRuns) -> None:
    assert runs.hidden == 6
