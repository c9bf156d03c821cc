"""Faults in files that once changed results: every variant of a made-up shop gives the numbers of the clean files.

``shop/`` holds 461 interactions of 60 users with 40 items. The variants are made from it here.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.record import Record
from tests.data.build import HEADER, write_rows
from tests.helpers import layered, make_run, prepare, runner

FILES = Path(__file__).parent / "shop"
ROWS = [tuple(line.split("\t")) for line in (FILES / "shop.inter").read_text(encoding="utf-8").splitlines()[1:]]
POP, ITEM_KNN, SASREC = 0.2059, 0.1516, 0.1370  # NDCG@10; SASRec's after one epoch
Row = tuple[str, ...]


@pytest.fixture
def shop(workspace: Path) -> Path:
    """The folder of the clean files, for tests to corrupt."""
    folder = workspace / "dataset" / "shop"
    for path in FILES.iterdir():
        write_rows(folder / path.name, [], path.read_text(encoding="utf-8").rstrip("\n"))
    return folder


def ndcg(model: str, **options: Any) -> float:
    return round(run_of(model, **options).metric("ndcg@10"), 4)


def run_of(model: str, **options: Any) -> Record:
    """The record of a run with the default settings of the command line."""
    defaults = {key: layered(model, "shop")[key] for key in ("MAX_ITEM_LIST_LENGTH", "train_batch_size", "seed")}
    return runner().run(make_run(model, "shop", **{**defaults, "epochs": 1, **options}))


def commas(rows: list[Row]) -> list[Row]:
    return [(",".join(row),) for row in rows]


SPACED = HEADER.replace("\t", ", ")
FORMS: dict[str, tuple[Callable[[list[Row]], list[Row]], str, dict[str, Any]]] = {
    "sound": (lambda rows: rows, HEADER, {}),
    "200 rows twice": (lambda rows: [*rows, *rows[:200]], HEADER, {}),
    "200 rows twice, the first kept": (lambda rows: [*rows, *rows[:200]], HEADER, {"rm_dup_inter": "first"}),
    "commas": (commas, HEADER.replace("\t", ","), {"field_separator": ","}),
    "commas and blanks": (lambda rows: [(", ".join(row),) for row in rows], SPACED, {"field_separator": ","}),
    "milliseconds": (lambda rows: [(*row[:2], row[2] + "000") for row in rows], HEADER, {}),
    "last rows first": (lambda rows: rows[::-1], HEADER, {}),
    "another key": (lambda rows: rows, HEADER.replace("item_id", "movieId"), {"ITEM_ID_FIELD": "movieId"}),
    "two columns named": (lambda rows: rows[::-1], HEADER, {"load_col": {"inter": ["user_id", "item_id"]}}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_shop_has_its_numbers(shop: Path, form: str) -> None:
    change, header, options = FORMS[form]
    write_rows(shop / "shop.inter", change(ROWS), header)
    if "ITEM_ID_FIELD" in options:
        options = {"load_col": {"inter": ["user_id", options["ITEM_ID_FIELD"], "timestamp"]}, **options}
        (shop / "shop.item").write_text((shop / "shop.item").read_text().replace("item_id", options["ITEM_ID_FIELD"]))
    assert (ndcg("Pop", **options), ndcg("ItemKNN", **options)) == (POP, ITEM_KNN)


def test_rows_given_twice_give_a_sequential_model_no_target(shop: Path) -> None:
    right = run_of("SASRec")
    assert right.metric("ndcg@10") == pytest.approx(SASREC, abs=0.02)  # differs between processors
    write_rows(shop / "shop.inter", [*ROWS, *ROWS[:200]])
    assert run_of("SASRec").metrics == right.metrics
    assert ndcg("SASRec", rm_dup_inter="keep") > 0.4


def test_the_row_of_a_bad_time_is_named_and_the_others_have_a_number_of_their_own(shop: Path) -> None:
    write_rows(shop / "shop.inter", [*ROWS[:3], (*ROWS[3][:2], "inf"), *ROWS[4:]])
    with pytest.raises(UserError, match=r"shop\.inter, line 5: timestamp is 'inf', not a finite number"):
        ndcg("Pop")
    write_rows(shop / "shop.inter", [*ROWS[:3], *ROWS[4:]])
    assert ndcg("Pop") == POP


def test_plain_text_that_is_called_gzip_is_no_gzip(shop: Path) -> None:
    (shop / "shop.inter").rename(shop / "shop.inter.gz")
    with pytest.raises(UserError, match=r"shop\.inter\.gz is not gzip, .*: rename it to shop\.inter"):
        ndcg("Pop")
    (shop / "shop.inter.gz").write_bytes(gzip.compress((shop / "shop.inter.gz").read_bytes()))
    assert ndcg("Pop") == POP


def counting(rows: list[Row], first: int, step: int) -> list[Row]:
    """The rows with the position within the user's history instead of the time."""
    place: dict[str, int] = {}
    found = []
    for user, item, _ in rows:
        place[user] = place.get(user, -1) + 1
        found.append((user, item, str(first + step * place[user])))
    return found


@pytest.mark.parametrize("protocol", ["session", "temporal_20"])
@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (counting(ROWS, 0, 1), "only count within each user"),
        (counting(ROWS, 10, 10), "only count within each user"),
        ([(*row[:2], "1400000000") for row in ROWS], "have one and the same time"),
    ],
)
def test_times_that_order_no_users_are_refused(shop: Path, rows: list[Row], why: str, protocol: str) -> None:
    write_rows(shop / "shop.inter", rows)
    with pytest.raises(UserError, match=rf"--protocol={protocol} orders users by time, but .*{why}"):
        prepare("Pop", "shop", protocol=protocol)


def test_one_time_for_all_is_said_on_the_row(shop: Path) -> None:
    write_rows(shop / "shop.inter", [(*row[:2], "1400000000") for row in ROWS])
    (found,) = run_of("Pop").warnings
    assert "a tie throughout for 60 of 60 users (461 interactions share user and time" in found


# ---- ml-100k ---------------------------------------------------------------------------------------


def test_the_columns_that_are_named_change_no_number_of_ml_100k(workspace: Path) -> None:
    for options in ({}, {"load_col": {"inter": ["user_id", "item_id"]}}):
        record = runner().run(make_run("Pop", "ml-100k", epochs=1, **options))
        assert round(record.metric("ndcg@10"), 4) == 0.0399


def test_milliseconds_leave_ml_100k_its_test_cases(workspace: Path) -> None:
    right = prepare("Pop", "ml-100k", protocol="temporal_20", candidates="all").dataset
    path = right.location.folder / "ml-100k.inter"
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    write_rows(workspace / "dataset" / "late" / "late.inter", [(f"{line}000",) for line in lines], header)
    late = prepare("Pop", "late", protocol="temporal_20", candidates="all").dataset
    assert len(right.split.test) == len(late.split.test) == 7_233
