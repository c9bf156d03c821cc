"""Files that are not atomic files: the message says what kind of file it is and what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from recbole_llm.data.atomic import read_header, read_table
from recbole_llm.errors import UserError

TEXT = "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\n"


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.inter", data)
    return stream.getvalue()


def complaint(tmp_path, data, name="x.inter"):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError) as caught:
        read_header(tmp_path / name)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / name) in message
    return message


@pytest.mark.parametrize(
    ("data", "what", "advice"),
    [
        (TEXT.encode("utf-16"), "is UTF-16", "iconv -f utf-16 -t utf-8"),
        (TEXT.encode("utf-16le"), "is UTF-16", "iconv -f utf-16le -t utf-8"),
        (TEXT.encode("utf-16be"), "is UTF-16", "iconv -f utf-16be -t utf-8"),
        (TEXT.encode("utf-32"), "is UTF-32", "iconv -f utf-32 -t utf-8"),
        (gzip.compress(TEXT.encode()), "is gzipped", "rename it to x.inter.gz"),
        (bz2.compress(TEXT.encode()), "is compressed with bzip2", "unpack it"),
        (lzma.compress(TEXT.encode()), "is compressed with xz", "unpack it"),
        (zipped(TEXT.encode()), "is a zip archive", "unpack it"),
        (b"PAR1" + bytes(40), "is a Parquet file", "tab-separated text"),
        (b"<!DOCTYPE html>\n<html>404", "is a web page", "fetch the file again"),
        (b'{"user_id": "u"}\n', "is JSON", "tab-separated text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS", "git lfs pull"),
        (bytes(range(1, 9)) + b"\0\1\2", "is no text", "tab-separated UTF-8 text"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("is ") else "",
)
def test_a_file_of_another_kind_is_named(tmp_path, data, what, advice):
    message = complaint(tmp_path, data)
    assert what in message
    assert advice in message
    assert "latin1" not in message


def test_a_plain_file_that_is_called_gz_says_its_name(tmp_path):
    assert "is not gzip, whatever its name says: rename it to x.inter." in complaint(tmp_path, TEXT, "x.inter.gz")


def test_a_page_that_is_called_gz_is_no_atomic_file(tmp_path):
    message = complaint(tmp_path, "<html>404</html>", "x.inter.gz")
    assert "is not gzip" in message
    assert "it is a web page" in message


def test_what_is_inside_a_gzipped_file_is_looked_at(tmp_path):
    assert "is UTF-16" in complaint(tmp_path, gzip.compress(TEXT.encode("utf-16")), "x.inter.gz")


def test_other_bytes_than_utf8_are_still_latin1(tmp_path):
    (tmp_path / "x.inter").write_bytes(TEXT.encode() + b"u\xe9\ti\t1\n")
    with pytest.raises(UserError, match=r"is not UTF-8 .*iconv -f latin1"):
        read_table(tmp_path / "x.inter")


# ---- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("separator", "word"), [(",", "commas"), (";", "semicolons"), ("|", "bars"), (" ", "blanks")])
def test_another_separator_is_named_with_the_setting(tmp_path, separator, word):
    message = complaint(tmp_path, TEXT.replace("\t", separator))
    assert f"columns are separated by {word}, not by tabs: give --field_separator='{separator}'" in message


def test_names_without_types_say_both(tmp_path):
    message = complaint(tmp_path, "userId,movieId,rating,timestamp\n1,2,3,4\n")
    assert "separated by commas and have no types: write userId:token" in message
    assert "--field_separator=','" in message


def test_a_missing_header_is_asked_about(tmp_path):
    assert "is the header missing" in complaint(tmp_path, "196\t242\t3\t881250949\n")


def test_one_wrong_type_is_no_missing_header(tmp_path):
    message = complaint(tmp_path, TEXT.replace("timestamp:float", "timestamp:number"))
    assert "column 'timestamp:number' needs a type" in message
    assert "missing" not in message


def test_old_macintosh_lines_are_named(tmp_path):
    assert "carriage return" in complaint(tmp_path, TEXT.replace("\n", "\r"))


# ---- another separator is followed ---------------------------------------------------------------


def table(tmp_path, text, separator):
    (tmp_path / "x.item").write_text(text, encoding="utf-8")
    return read_table(tmp_path / "x.item", separator=separator).to_dict("list")


@pytest.mark.parametrize("separator", [",", ";", "|", " "])
def test_files_with_another_separator_are_read(tmp_path, separator):
    text = "item_id:token\ttitle:token\tprice:float\n007\tBond\t1.5\n7\t\t2\n".replace("\t", separator)
    found = table(tmp_path, text, separator)
    assert found["item_id"] == ["007", "7"]
    assert found["price"] == [1.5, 2.0]
    assert found["title"][0] == "Bond"


def test_quotation_marks_quote_in_a_csv_file(tmp_path):
    text = 'item_id:token,title:token_seq\ni1,"Salt, ""fine"""\ni2,"two\nlines"\ni3,plain\n'
    assert table(tmp_path, text, ",")["title"] == ['Salt, "fine"', "two\nlines", "plain"]


def test_a_field_too_many_is_named_in_a_csv_file_too(tmp_path):
    with pytest.raises(
        UserError, match=r"line 3: more fields than the header's 2\. Fields are separated by single comm"
    ):
        table(tmp_path, 'item_id:token,title:token_seq\ni1,"a"\ni2,b,c\n', ",")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("i1,a\ni2,c\rd", "x.item, line 3: a carriage return inside the line"),
        ('i1,"a\nb"\ni2,c\rd', "x.item, line 4: a carriage return outside quotation marks. Put the field in"),
        ('i1,a\ni2,"' + 140_000 * "b", "x.item, line 3: a field of more than 131,072 characters. Is its quotation"),
    ],
    ids=["a carriage return", "a carriage return beside quotation marks", "no second quotation mark"],
)
def test_what_python_cannot_read_as_csv_is_named_with_its_line(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        table(tmp_path, f"item_id:token,title:token_seq\n{row}\ni3,d\n", ",")


def test_a_file_by_tabs_is_read_whatever_the_setting_says(tmp_path):
    assert table(tmp_path, "item_id:token\ttitle:token_seq\ni1\ta, b\n", ",")["title"] == ["a, b"]
