"""Amazon's three editions in their real formats."""

from __future__ import annotations

import gzip
import json

import pytest

from recbole_llm.errors import UserError
from tests.raw.raw_files import DAY, SECRET, amazon_spec, gz_lines, inter, items, meta, review, run, write_amazon

TWO = [("A1", "B1", 3, 4.0), ("A1", "B2", 1, 5.0)]


def test_reviews_become_rows_in_time_order(tmp_path):
    report = run(amazon_spec(), write_amazon(tmp_path / "raw", TWO, [meta("B1", "One"), meta("B2", "Two")]))
    assert inter(report) == [["A1", "B2", "5", str(DAY)], ["A1", "B1", "4", str(3 * DAY)]]
    assert (report.counts["users"], report.counts["items"], report.counts["interactions"]) == (1, 2, 2)


def test_metadata_are_literals_or_json(tmp_path):
    lines = [repr(meta("B1", "It's \"5''\" wide")), json.dumps(meta("B2", "Café"))]
    found = items(run(amazon_spec(), write_amazon(tmp_path / "raw", TWO, lines)))
    assert found["B1"]["title"] == "It's ''5'''' wide"
    assert found["B2"]["title"] == "Café"


def test_metadata_are_never_run(tmp_path):
    victim = tmp_path / "victim"
    code = "{'asin': 'B1', 'title': __import__('pathlib').Path(" + repr(str(victim)) + ").touch()}"
    report = run(amazon_spec(), write_amazon(tmp_path / "raw", TWO, [code, meta("B2", "Two")]))
    assert not victim.exists()
    assert report.counts["malformed_lines"] == 1
    assert items(report)["B1"]["title"] == ""


def test_text_is_decoded_and_freed_of_markup(tmp_path):
    record = meta(
        "B1",
        "Salt &amp;amp; Pepper\tset",
        brand="L&#39;Or&eacute;al",
        description="A <b>bold</b>&nbsp;claim\nin two lines; 3 < 4",
    )
    found = items(run(amazon_spec(), write_amazon(tmp_path / "raw", TWO, [record, meta("B2", "Two")])))["B1"]
    assert found["title"] == "Salt & Pepper set"
    assert found["brand"] == "L'Oréal"
    assert found["description"] == "A bold claim in two lines; 3 < 4"
    assert found["categories"] == "Hair Care, Shampoos"


def test_descriptions_are_capped(tmp_path):
    record = meta("B1", "One", description="word " * 5000)
    found = items(run(amazon_spec(), write_amazon(tmp_path / "raw", TWO, [record])))["B1"]
    assert len(found["description"]) <= 1000
    assert found["description"].endswith("word…")


def test_no_review_and_no_co_purchase_reaches_the_files(tmp_path):
    records = [meta("B1", "One"), meta("B2", "Two")]
    report = run(amazon_spec(), write_amazon(tmp_path / "raw", TWO, records))
    written = "".join(path.read_text() for path in report.folder.iterdir() if path.is_file())
    assert SECRET not in written
    assert "B000OTHER" not in written
    assert "B000WRONG" not in written
    assert "Jo " not in written


def test_malformed_lines_are_counted_and_shown(tmp_path):
    bad = [
        "{not json",
        review("A1", "B1", 2)[:60],
        json.dumps({"reviewerID": "A1"}),
        json.dumps({"reviewerID": ["A1"], "asin": "B1", "unixReviewTime": 5}),
        json.dumps({"reviewerID": "A\t1", "asin": "B1", "unixReviewTime": 5}),
        json.dumps({"reviewerID": "A1", "asin": "B1", "unixReviewTime": 10**30}),
        b"\xff\xfe",
        "[" * 100_000,
    ]
    report = run(amazon_spec(), write_amazon(tmp_path / "raw", [*bad, "", *TWO], [meta("B1", "One")]))
    assert report.counts["interactions"] == 2
    assert report.counts["rows_read"] == len(bad) + 2
    assert report.counts["malformed_lines"] == len(bad)
    assert report.record["malformed_examples"][0].startswith("reviews.json.gz, line 1: ")
    assert len(report.record["malformed_examples"]) == 3


def test_a_file_without_a_usable_line_is_a_user_error(tmp_path):
    raw = write_amazon(tmp_path / "raw", ["<html>", "<p>Not found</p>"], [meta("B1", "One")])
    with pytest.raises(UserError, match=r"not one of 2 lines is an interaction .* error page"):
        run(amazon_spec(), raw)


@pytest.mark.parametrize("victim", ["reviews.json.gz", "meta.json.gz"])
def test_a_truncated_file_is_a_user_error_that_names_it(tmp_path, victim):
    many = [(f"A{n}", "B1", n + 1) for n in range(400)]
    raw = write_amazon(tmp_path / "raw", many, [meta("B1", "One", description="x" * n) for n in range(400)])
    path = raw / victim
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=f"{victim} is a damaged or truncated gzip file"):
        run(amazon_spec(), raw)
    assert not list(tmp_path.glob("dataset/toy/*"))


def test_unpacked_files_are_taken_too(tmp_path):
    raw = write_amazon(tmp_path / "raw", TWO, [meta("B1", "One")])
    (raw / "reviews.json").write_bytes(gzip.decompress((raw / "reviews.json.gz").read_bytes()))
    (raw / "reviews.json.gz").unlink()
    (raw / "meta.json.gz").write_bytes(gzip.decompress((raw / "meta.json.gz").read_bytes()))  # not gzip
    assert run(amazon_spec(), raw).counts["interactions"] == 2


def test_items_without_metadata_have_a_row_without_text(tmp_path):
    report = run(amazon_spec(), write_amazon(tmp_path / "raw", TWO, [meta("B2"), meta("B9", "Never bought")]))
    found = items(report)
    assert set(found) == {"B1", "B2"}
    assert found["B1"]["title"] == found["B2"]["title"] == ""
    assert report.counts["items_without_record"] == 1
    assert report.counts["items_without_title"] == 1


def test_the_first_record_of_an_item_counts(tmp_path):
    report = run(amazon_spec(), write_amazon(tmp_path / "raw", TWO, [meta("B1", "One"), meta("B1", "Uno")]))
    assert items(report)["B1"]["title"] == "One"
    assert report.counts["repeated_item_records"] == 1


def test_an_item_named_inside_other_text_is_still_found(tmp_path):
    record = {"description": "as good as 'asin': 'B9'", **meta("B1", "One")}
    assert items(run(amazon_spec(), write_amazon(tmp_path / "raw", TWO, [record])))["B1"]["title"] == "One"


def test_2018_has_one_category_path_and_descriptions_in_pieces(tmp_path):
    record = {
        "asin": "B1",
        "title": "Pens",
        "category": ["Office Products", "Writing", "Pens &amp; Refills"],
        "brand": "Bic",
        "description": ["Two <br>", "", "pens"],
    }
    script = {"asin": "B2", "title": "var x = getTime(); function() {}", "category": [], "description": []}
    raw = write_amazon(tmp_path / "raw", TWO, [json.dumps(record), json.dumps(script)])
    report = run(amazon_spec("amazon2018"), raw)
    assert items(report)["B1"] == {
        "item_id": "B1",
        "title": "Pens",
        "categories": "Writing, Pens & Refills",
        "brand": "Bic",
        "description": "Two pens",
    }
    assert items(report)["B2"]["title"] == ""


def test_of_repeated_reviews_the_first_in_time_is_kept(tmp_path):
    repeats = [("A1", "B1", 9, 1.0), ("A1", "B1", 2, 2.0), ("A1", "B1", 5, 3.0), ("A2", "B1", 1, 4.0)]
    report = run(amazon_spec("amazon2018"), write_amazon(tmp_path / "raw", repeats, [meta("B1", "One")]))
    assert inter(report) == [["A1", "B1", "2", str(2 * DAY)], ["A2", "B1", "4", str(DAY)]]
    assert report.counts["repeats_of_user_and_item"] == 2


RECORD_2023 = {
    "parent_asin": "P1",
    "title": "Lamp",
    "store": "Acme",
    "categories": ["Home", "Lamps"],
    "description": ["Bright"],
    "features": [],
    "details": {"asin": "V1"},
}


def test_2023_ratings_are_comma_separated_and_times_become_seconds(tmp_path):
    raw = tmp_path / "raw"
    header = "user_id,parent_asin,rating,timestamp"
    rows = ["U1,P1,3.0,1452647382000", "U1,P2,4.5,1452647382250", "U1,P2", "U2,P1,x,5"]
    gz_lines(raw / "reviews.csv.gz", [header, *rows])
    gz_lines(raw / "meta.json.gz", [json.dumps(RECORD_2023)])
    spec = amazon_spec("amazon2023", reviews="reviews.csv.gz")
    report = run(spec, raw)
    assert inter(report) == [["U1", "P1", "3", "1452647382"], ["U1", "P2", "4.5", "1452647382.250"]]
    assert report.counts["malformed_lines"] == 2
    assert items(report)["P1"] == {
        "item_id": "P1",
        "title": "Lamp",
        "categories": "Lamps",
        "brand": "Acme",
        "description": "Bright",
    }


def test_2023_reviews_are_read_where_there_are_no_ratings(tmp_path):
    raw = tmp_path / "raw"
    row = {"rating": 5.0, "title": SECRET, "text": SECRET, "asin": "V1", "parent_asin": "P1", "user_id": "U1"}
    gz_lines(raw / "reviews.jsonl.gz", [json.dumps({**row, "timestamp": 1452647382000})])
    gz_lines(raw / "meta.json.gz", [json.dumps(RECORD_2023)])
    spec = amazon_spec("amazon2023", reviews=["reviews.csv.gz", "reviews.jsonl.gz"])
    report = run(spec, raw)
    assert inter(report) == [["U1", "P1", "5", "1452647382"]]
    assert report.record["sources"][0]["file"] == "reviews.jsonl.gz"


def test_a_csv_file_of_other_columns_is_a_user_error(tmp_path):
    raw = tmp_path / "raw"
    gz_lines(raw / "reviews.csv.gz", ["user,item,rating", "U1,P1,3"])
    gz_lines(raw / "meta.json.gz", [json.dumps(RECORD_2023)])
    spec = amazon_spec("amazon2023", reviews="reviews.csv.gz")
    with pytest.raises(UserError, match="the header must name user_id, parent_asin"):
        run(spec, raw)
