"""Candidate files are named after how the interactions were read; a default reading keeps the original names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm.data.candidates import contents_digest, unusual_reading
from recbole_llm.utils.files import file_sha256
from recbole_llm.utils.yaml import property_names
from tests.data.build import HEADER, table_of, walks, write_rows
from tests.helpers import blank_ids, layered, prepare

RATED = {"inter": ["user_id", "item_id", "rating", "timestamp"]}


def candidate_files() -> set[str]:
    return {path.name for path in Path("dataset/tiny/candidates").iterdir()}


def sampled_cases(model: str = "BPR", **options: Any) -> np.ndarray:
    """The candidates of the test cases, as item tokens."""
    dataset = prepare(model, **{"protocol": "direct_100", "candidates": 5} | options).dataset
    return dataset.table.item_tokens[dataset.split.test.candidates]


def test_an_ordinary_run_s_candidates_keep_their_names(tiny: Path) -> None:
    sampled_cases()
    sampled_cases("SASRec", load_col=RATED)
    sha = file_sha256(tiny / "tiny.inter")[:8]
    assert candidate_files() == {f"direct_100-{phase}-5-2020-{sha}.candidates" for phase in ("valid", "test")}


@pytest.mark.parametrize(
    "options",
    [
        {"user_inter_num_interval": "[6,10)"},
        {"item_inter_num_interval": "[12,inf)"},
        {"load_col": RATED, "val_interval": {"rating": "[2,inf)"}},
        {"val_interval": {"timestamp": "[1402000000,inf)"}},
        {"TIME_FIELD": None},
        {"sessions": {"gap": 4000, "min_length": 3}},
    ],
)
def test_another_reading_has_candidates_of_its_own(tiny: Path, options: dict[str, Any]) -> None:
    before, other = sampled_cases(), sampled_cases(**options)
    assert len(candidate_files()) == 4
    assert (sampled_cases() == before).all()
    assert (sampled_cases(**options) == other).all()


def test_repeats_that_are_left_out_are_another_reading(tiny: Path) -> None:
    lines = (tiny / "tiny.inter").read_text().splitlines(keepends=True)
    (tiny / "tiny.inter").write_text("".join([*lines, *lines[1:9]]))
    sampled_cases()
    sampled_cases(rm_dup_inter="first")
    assert len(candidate_files()) == 4


def test_another_split_under_a_protocol_s_name_has_candidates_of_its_own(tiny: Path) -> None:
    sampled_cases("SASRec")
    sampled_cases("SASRec", split="session")
    assert len(candidate_files()) == 4


def test_another_order_of_users_has_candidates_of_its_own(tiny: Path) -> None:
    for users in (range(80), range(79, -1, -1)):
        rows = [(f"u{user}", place) for place, user in enumerate(users)]
        write_rows(tiny / "tiny.user_last_order.tsv", rows, "user\torder")
        sampled_cases("SASRec", protocol="temporal_20", sessions=None)
    assert len(candidate_files()) == 4


def test_where_recbole_reads_the_same_rows_the_candidates_are_the_same(tiny: Path) -> None:
    sampled_cases("SASRec", load_col=RATED)
    sampled_cases("SASRec", load_col=RATED, normalize_field=["rating"])
    assert len(candidate_files()) == 2


@pytest.mark.parametrize("options", [{}, {"load_col": RATED, "normalize_field": ["rating"]}])
def test_candidates_that_were_drawn_among_items_of_rows_without_a_user_are_drawn_anew(
    tiny: Path, options: dict[str, Any]
) -> None:
    with (tiny / "tiny.inter").open("a") as file:
        file.write("\tonly\t1\t1402000000\n")
    sha = file_sha256(tiny / "tiny.inter")[:8]
    (tiny / "candidates").mkdir()
    older = {f"direct_100-{phase}-5-2020-{sha}.candidates" for phase in ("valid", "test")}
    for name in older:
        rows = [(f"u{user}", 2, "only") for user in range(80)]
        write_rows(tiny / "candidates" / name, rows, "user_id:token\tposition:token\titems:token_seq")
    assert "only" not in sampled_cases("SASRec", **options)
    drawn = candidate_files()
    assert (older < drawn, len(drawn)) == (True, 4)
    sampled_cases("SASRec")
    assert candidate_files() == drawn


def test_where_recbole_leaves_out_rows_the_candidates_are_others(tiny: Path) -> None:
    """RecBole drops the interactions of items that are not linked to the knowledge graph."""
    rows = [(f"e{item}", "made_by", f"brand{item % 5}") for item in range(40)]
    write_rows(tiny / "tiny.kg", rows, "head_id:token\trelation_id:token\ttail_id:token")
    write_rows(tiny / "tiny.link", [(f"i{item}", f"e{item}") for item in range(40)], "item_id:token\tentity_id:token")
    columns = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
    sampled_cases()
    sampled_cases("CFKG", load_col={"inter": ["user_id", "item_id", "timestamp"], **columns})
    assert len(candidate_files()) == 4


@pytest.mark.parametrize("protocol", property_names("protocol"))
@pytest.mark.parametrize("dataset", ["tiny", *property_names("dataset")])
def test_what_protocols_and_datasets_read_by_default_is_ordinary(workspace: Path, dataset: str, protocol: str) -> None:
    assert unusual_reading(layered("BPR", dataset, protocol=protocol).values, dataset) == {}


def test_no_sessions_where_the_protocol_has_some_is_unusual(workspace: Path) -> None:
    values = layered("BPR", protocol="temporal_20", sessions=None).values
    assert unusual_reading(values, "tiny") == {"sessions": None}


def test_the_digest_of_contents_knows_no_ids_and_no_order_of_users(tmp_path: Path) -> None:
    rows = walks([3, 4, 2])
    other = [*rows[7:], *rows[:7]]
    assert contents_digest(table_of(tmp_path, rows)) == contents_digest(table_of(tmp_path, other))
    swapped = [rows[0], (*rows[1][:2], 9), (*rows[2][:2], 8), *rows[3:]]
    assert contents_digest(table_of(tmp_path, swapped, HEADER)) != contents_digest(table_of(tmp_path, rows))


def test_ids_with_blanks_keep_their_candidates(tiny: Path) -> None:
    blank_ids(tiny)
    first = sampled_cases()
    assert any(" " in token for token in first.ravel())
    assert (sampled_cases() == first).all()
