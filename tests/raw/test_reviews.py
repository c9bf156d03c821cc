"""Steam's and Yelp's raw files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.raw.reviews import seconds_of
from tests.raw.raw_files import DAY, SECRET, gz_lines, inter, items, run, spec_of

STEAM = {"reviews": "steam_reviews.json.gz", "items": "steam_games.json.gz"}
CAFES = "Coffee & Tea, Food"
YELP = {"reviews": "yelp_academic_dataset_review.json", "items": "yelp_academic_dataset_business.json"}


def steam_review(user: str, game: str, date: str = "2017-12-17", **more: Any) -> str:
    """A line as in UCSD's file: a Python 2 literal."""
    row = {"username": user, "hours": 0.1, "products": 41, "product_id": game, "page_order": 0, "date": date}
    row |= {"text": f"It's {SECRET}", "early_access": False, "page": 1, **more}
    return (
        "{"
        + ", ".join(f"u{key!r}: {'u' if isinstance(value, str) else ''}{value!r}" for key, value in row.items())
        + "}"
    )


def steam_game(game: str, **more: Any) -> str:
    row = {"publisher": "Kotoshiro", "genres": ["Action", "Free to Play"], "app_name": "Lost & Found", "title": "Lost",
           "url": "http://x/", "tags": ["Cheap now"], "sentiment": "Mostly Positive", "price": 4.99, "id": game,
           "developer": "Koto \"Shiro\"", **more}  # fmt: skip
    return repr(row)


@pytest.fixture
def steam(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    reviews = [
        steam_review("Chaos Syren", "725280", "2017-12-18"),
        steam_review("Chaos Syren", "328100", "2017-12-17", user_id="76561198000000000"),
        steam_review("Ariman1", "328100", "2018-01-01", compensation="Product received for free"),
        steam_review("Chaos Syren", "725280", "2018-02-02"),  # repeats an earlier review
    ]
    gz_lines(raw / STEAM["reviews"], reviews)
    gz_lines(
        raw / STEAM["items"], [steam_game("725280"), steam_game("328100", genres=None, app_name=""), steam_game("9")]
    )
    return raw


def test_steam_s_literals_become_rows_by_name_and_day(steam: Path) -> None:
    report = run(spec_of("steam", STEAM), steam)
    days = [seconds_of(day) for day in ("2017-12-17", "2017-12-18", "2018-01-01")]
    assert inter(report) == [
        ["Chaos Syren", "328100", "", str(days[0])],
        ["Chaos Syren", "725280", "", str(days[1])],
        ["Ariman1", "328100", "", str(days[2])],
    ]
    assert report.counts["repeats_of_user_and_item"] == 1


def test_steam_s_games_have_name_genres_and_developer(steam: Path) -> None:
    found = items(run(spec_of("steam", STEAM), steam))
    brand = "Koto ''Shiro''"
    first = {"item_id": "725280", "title": "Lost & Found", "categories": "Action, Free to Play", "brand": brand}
    second = {"item_id": "328100", "title": "Lost", "categories": "", "brand": brand}
    assert found == {"725280": first, "328100": second}


def test_steam_s_lines_are_never_run(steam: Path, tmp_path: Path) -> None:
    evil = "__import__('pathlib').Path('" + str(tmp_path / "ran") + "').touch()"
    lines = [evil, steam_review("a", "1"), "{u'username': " + evil + "}", "{u'username': u'b'", "[1]", "{" * 500]
    gz_lines(steam / STEAM["reviews"], lines)
    report = run(spec_of("steam", STEAM), steam)
    assert not (tmp_path / "ran").exists()
    assert (report.counts["interactions"], report.counts["malformed_lines"]) == (1, 5)


def yelp_review(user: str, business: str, date: str, stars: float = 4.0) -> str:
    row = {"review_id": "r", "user_id": user, "business_id": business, "stars": stars, "useful": 0, "funny": 0}
    return json.dumps({**row, "cool": 0, "text": SECRET, "date": date})


@pytest.fixture
def yelp(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    reviews = [yelp_review("u1", "b2", "2018-07-07 22:09:11"), yelp_review("u1", "b1", "2016-03-09", 2.0)]
    reviews += [yelp_review("u2", "b1", "2018-02-30 10:00:00"), "{}", "[]"]
    (raw / YELP["reviews"]).write_text("\n".join(reviews) + "\n", encoding="utf-8")
    about = {"address": "1 Road", "state": "PA", "stars": 4.5, "review_count": 99, "is_open": 1, "hours": None}
    businesses = [
        {"business_id": "b1", "name": "Café <b>One</b>", "city": "St. Louis", "categories": CAFES, **about},
        {"business_id": "b2", "name": "Two", "city": "Reno", "categories": ["Bars", "Food"], **about},
        {"business_id": "b2", "name": "Twice", "city": "Reno", "categories": None, **about},
    ]  # fmt: skip
    (raw / YELP["items"]).write_text("\n".join(map(json.dumps, businesses)), encoding="utf-8")
    return raw


def test_yelp_s_reviews_become_rows_with_stars_and_seconds(yelp: Path) -> None:
    report = run(spec_of("yelp", YELP), yelp)
    seconds = [seconds_of("2016-03-09"), seconds_of("2018-07-07") + 22 * 3600 + 9 * 60 + 11]
    assert inter(report) == [["u1", "b1", "2", str(seconds[0])], ["u1", "b2", "4", str(seconds[1])]]
    assert report.counts["malformed_lines"] == 3
    assert seconds[0] % DAY == 0


def test_yelp_s_businesses_have_name_categories_and_city(yelp: Path) -> None:
    report = run(spec_of("yelp", YELP), yelp)
    assert items(report) == {
        "b1": {"item_id": "b1", "title": "Café One", "categories": CAFES, "city": "St. Louis"},
        "b2": {"item_id": "b2", "title": "Two", "categories": "Bars, Food", "city": "Reno"},
    }
    assert report.counts["repeated_item_records"] == 1


@pytest.mark.parametrize("family", ["steam", "yelp"])
def test_no_review_reaches_the_files(request: pytest.FixtureRequest, family: str) -> None:
    raw = request.getfixturevalue(family)
    report = run(spec_of(family, STEAM if family == "steam" else YELP), raw)
    for path in report.folder.glob("toy.*"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in (SECRET, "Mostly Positive", "4.5", "99", "Cheap"))


@pytest.mark.parametrize("family", ["steam", "yelp"])
def test_files_without_a_usable_line_are_a_user_error(request: pytest.FixtureRequest, family: str) -> None:
    raw, files = request.getfixturevalue(family), STEAM if family == "steam" else YELP
    gz_lines(raw / files["reviews"], ["{}"])
    with pytest.raises(UserError):
        run(spec_of(family, files), raw)
