"""BundleRec's folders."""

from __future__ import annotations

import pytest

from recbole_llm.errors import UserError
from recbole_llm.raw.bundle import DOMAINS
from tests.raw.raw_files import DAY, inter, items, run, spec_of

TABLES = {
    "user_session": "user ID,session ID,timestamp\n0,5,{late}\n1,6,{early}\n0,7,{late}\n",
    "session_item": "session ID,item ID\n5,11\n5,10\n5,12\n6,10\n6,13\n7,10\n7,10\n8,10\n",
    "item_titles": 'item ID,titles\n10,"Belt, ""brown"""\n11,Shoe &amp; lace\n12,Hat\n',
    "item_categories": 'item ID,categories\n10,"[[Clothing, Shoes & Jewelry,Men],[Clothing, Shoes & Jewelry,Belts]]"\n',
    "item_idx_mapping": "item ID,source ID\n10,B000X\n",
}
SPEC = spec_of("bundle", {f"{domain}/{table}": f"{domain}/{table}.csv" for domain in DOMAINS for table in TABLES})


def write_folders(raw, change=lambda text: text, **tables):
    for domain in DOMAINS:
        (raw / domain).mkdir(parents=True)
        for name, text in {**TABLES, **tables}.items():
            if domain != "clothing":
                text = text.partition("\n")[0] + "\n"
            (raw / domain / f"{name}.csv").write_text(
                change(text.format(late=9 * DAY, early=2 * DAY)), encoding="utf-8"
            )
    return raw


def test_sessions_keep_the_order_of_the_file_and_stand_by_day(tmp_path):
    report = run(SPEC, write_folders(tmp_path / "raw"))
    assert inter(report) == [
        ["c1", "c6", "c10", "1", str(2 * DAY)],
        ["c0", "c5", "c11", "2", str(9 * DAY)],
        ["c0", "c5", "c10", "3", str(9 * DAY)],
        ["c0", "c5", "c12", "4", str(9 * DAY)],
        ["c0", "c7", "c10", "5", str(9 * DAY)],
    ]


def test_what_is_left_out_is_counted(tmp_path):
    counts = run(SPEC, write_folders(tmp_path / "raw")).counts
    assert (counts["users"], counts["sessions"], counts["items"], counts["interactions"]) == (2, 3, 3, 5)
    assert counts["rows_without_title"] == 1
    assert counts["rows_of_unknown_sessions"] == 1
    assert counts["repeats_of_user_and_item"] == 1
    assert counts["rows_read"] == 8


def test_items_have_titles_categories_domain_and_asin(tmp_path):
    found = items(run(SPEC, write_folders(tmp_path / "raw")))
    assert found["c10"] == {
        "item_id": "c10",
        "title": "Belt, ''brown''",
        "categories": "Clothing, Shoes & Jewelry, Men, Belts",
        "domain": "clothing",
        "asin": "B000X",
    }
    assert found["c11"]["title"] == "Shoe & lace"


def test_tabs_may_separate_and_a_byte_order_mark_may_lead(tmp_path):
    plain = {"item_titles": "item ID,titles\n10,Belt\n11,Shoe\n12,Hat\n", "item_categories": "item ID,categories\n"}
    raw = write_folders(tmp_path / "raw", lambda text: "\ufeff" + text.replace(",", "\t"), **plain)
    assert run(SPEC, raw).counts["interactions"] == 5


def test_bytes_that_are_not_utf8_are_counted(tmp_path):
    raw = write_folders(tmp_path / "raw")
    path = raw / "clothing" / "item_titles.csv"
    path.write_bytes(path.read_bytes().replace(b"Hat", b"Hat \xe9"))
    report = run(SPEC, raw)
    assert report.counts["lines_not_utf8"] >= 1
    assert items(report)["c12"]["title"] == "Hat �"


def test_a_missing_column_is_a_user_error(tmp_path):
    raw = write_folders(tmp_path / "raw", session_item="session,item\n5,11\n")
    with pytest.raises(UserError, match=r"session_item.csv, line 1: the header must name session ID, item ID"):
        run(SPEC, raw)


def test_short_rows_are_counted(tmp_path):
    raw = write_folders(tmp_path / "raw", session_item=TABLES["session_item"] + "5\n")
    report = run(SPEC, raw)
    assert report.counts["malformed_lines"] == 1
    assert report.record["malformed_examples"] == ["session_item.csv, line 10: 1 fields"]


def test_a_quotation_mark_that_is_left_open_is_a_user_error(tmp_path):
    raw = write_folders(tmp_path / "raw", item_titles='item ID,titles\n10,"Belt\n' + "x" * 200_000 + "\n")
    with pytest.raises(UserError, match="is a quotation mark left open"):
        run(SPEC, raw)
