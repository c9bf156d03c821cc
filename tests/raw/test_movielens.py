"""MovieLens's archives in their real formats."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections import deque

import pytest

from recbole_llm.errors import UserError
from recbole_llm.raw.source import LONGEST_LINE, read_lines, read_member
from tests.raw.raw_files import inter, items, run, spec_of, write_zip

RATINGS = "1::1193::5::978300760\n1::73::3::978302109\n2::73::4::978298413\n"
MOVIES = (
    "73::Misérables, Les (1995)::Drama|Musical\n"
    "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n"
    "9::Never Rated (1990)::Action\n"
)


def spec(family):
    return spec_of(family, {"archive": f"{family}.zip"})


def ml_1m(tmp_path, ratings=RATINGS, movies=MOVIES):
    members = {"ml-1m/ratings.dat": ratings.encode("latin-1"), "ml-1m/movies.dat": movies.encode("latin-1")}
    return write_zip(tmp_path / "raw" / "ml-1m.zip", members).parent


def test_1m_is_read_as_latin_1(tmp_path):
    report = run(spec("ml-1m"), ml_1m(tmp_path))
    assert inter(report) == [
        ["1", "1193", "5", "978300760"],
        ["1", "73", "3", "978302109"],
        ["2", "73", "4", "978298413"],
    ]
    assert items(report)["73"] == {
        "item_id": "73",
        "movie_title": "Misérables, Les",
        "release_year": "1995",
        "genre": "Drama Musical",
    }


def test_movies_that_nobody_rated_are_left_out(tmp_path):
    assert set(items(run(spec("ml-1m"), ml_1m(tmp_path)))) == {"73", "1193"}


def test_the_columns_are_those_of_recbole_s_files(tmp_path):
    report = run(spec("ml-1m"), ml_1m(tmp_path))
    header = (report.folder / "toy.item").read_text(encoding="utf-8").splitlines()[0]
    assert header == "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq"


def test_malformed_lines_are_counted(tmp_path):
    report = run(spec("ml-1m"), ml_1m(tmp_path, RATINGS + "1::2::3\nx\n1::9::five::1\n", MOVIES + "7::No genres\n"))
    assert report.counts["interactions"] == 3
    assert report.counts["malformed_lines"] == 4
    assert report.record["malformed_examples"][0].startswith("ratings.dat, line 4: ")


def test_100k_has_a_column_for_each_genre(tmp_path):
    flags = ["0"] * 19
    flags[5] = flags[16] = "1"
    film = "|".join(["267", "Amélie (2001)", "01-Jan-2001", "", "http://x/?a%20(2001)", *flags])
    plain = "|".join(["2", "unknown", "", "", "", "1", *["0"] * 18])
    members = {"ml-100k/u.data": b"196\t267\t3\t881250949\n196\t2\t3\t881250950\n"}
    members["ml-100k/u.item"] = f"{film}\n{plain}\n".encode("latin-1")
    report = run(spec("ml-100k"), write_zip(tmp_path / "raw" / "ml-100k.zip", members).parent)
    assert items(report)["267"] == {
        "item_id": "267",
        "movie_title": "Amélie",
        "release_year": "2001",
        "class": "Comedy Thriller",
    }
    assert items(report)["2"]["movie_title"] == "unknown"
    assert items(report)["2"]["release_year"] == ""


def test_20m_has_headers_and_quoted_titles(tmp_path):
    members = {
        "ml-20m/ratings.csv": b"userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,0.5,1112484676\n",
        "ml-20m/movies.csv": (
            'movieId,title,genres\r\n2,"American President, The (1995)",Comedy|Romance\r\n'
            '29,"""Great"" Performances, Café (1975-1978)",(no genres listed)\r\n'
        ).encode(),
    }
    report = run(spec("ml-20m"), write_zip(tmp_path / "raw" / "ml-20m.zip", members).parent)
    assert inter(report) == [["1", "29", "0.5", "1112484676"], ["1", "2", "3.5", "1112486027"]]
    assert items(report)["2"]["movie_title"] == "American President, The"
    assert items(report)["29"] == {
        "item_id": "29",
        "movie_title": "''Great'' Performances, Café",
        "release_year": "1975",
        "genre": "",
    }
    assert "malformed_lines" not in report.counts


def test_another_archive_is_a_user_error(tmp_path):
    raw = write_zip(tmp_path / "raw" / "ml-1m.zip", {"ml-100k/u.data": b""}).parent
    with pytest.raises(UserError, match=r"ml-1m.zip holds no ratings.dat"):
        run(spec("ml-1m"), raw)


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: b"<html>" + b" " * 100])
def test_a_damaged_archive_is_a_user_error_that_names_it(tmp_path, damage):
    path = ml_1m(tmp_path) / "ml-1m.zip"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"ml-1m.zip is a damaged or truncated zip file"):
        run(spec("ml-1m"), path.parent)


@pytest.mark.parametrize("kind", ["gzip", "zip"])
def test_an_archive_that_unpacks_to_one_line_is_refused(tmp_path, kind):
    """Regression: the line was read whole; ten megabytes of zeros unpack to ten gigabytes."""
    text = b"first\n" + bytes(3 * LONGEST_LINE)
    packed = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("ml/ratings.dat", text)
    path = tmp_path / "raw"
    path.write_bytes(packed.getvalue() or gzip.compress(text, 1))
    lines = read_member(path, "ratings.dat") if kind == "zip" else read_lines(path)
    assert next(lines) == b"first\n"
    with pytest.raises(UserError, match=r"raw has a line of more than 16 MiB: is it the right file\?"):
        deque(lines, maxlen=0)
