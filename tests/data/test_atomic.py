"""Atomic files: what is written reads back unchanged, and error messages name the line."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_llm.data import atomic
from recbole_llm.data.atomic import (
    Column,
    Vocabulary,
    clean_field,
    join_ids,
    read_chunks,
    read_columns,
    read_header,
    read_table,
    split_ids,
    write_table,
)
from recbole_llm.errors import UserError


def file(tmp_path, text, name="x.inter"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def gz_file(tmp_path, text, name="x.inter.gz"):
    return file(tmp_path, gzip.compress(text.encode()), name)


def columns(path, names=None):
    return read_table(path, names).to_dict("list")


# ---- round trip ----------------------------------------------------------------------------------

PRINTABLE = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
CELLS = st.text(PRINTABLE, min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELLS, CELLS, st.integers(-(2**53), 2**53)), min_size=1, max_size=5))
def test_printable_text_is_read_as_it_was_written(tmp_path, rows):
    path = tmp_path / "x.item"
    kinds = [Column("id", "token"), Column("title", "token_seq"), Column("time", "float")]
    assert write_table(path, kinds, rows) == len(rows)
    read = read_table(path)
    assert [tuple(row) for row in read.itertuples(index=False)] == rows


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32, allow_subnormal=False), min_size=1, max_size=5
    )
)
def test_numbers_are_read_as_they_were_written(tmp_path, values):
    path = tmp_path / "x.item"
    write_table(path, [Column("value", "float")], [[value] for value in values])
    assert read_table(path)["value"].tolist() == pytest.approx(values, rel=1e-15, abs=0)


@given(ids=st.lists(st.text(st.one_of(PRINTABLE, st.sampled_from("% 205\u00a0")), min_size=1), min_size=1, max_size=5))
def test_ids_of_a_sequence_are_read_as_they_were_written(ids):
    assert split_ids(join_ids(ids)) == ids


def test_a_sequence_of_plain_ids_is_blank_separated():
    assert join_ids(["i1", "50%", "a%2Fb"]) == "i1 50% a%2Fb"


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_any_text_becomes_one_printable_field(text):
    cleaned = clean_field(text)
    assert cleaned.isprintable()
    assert cleaned == cleaned.strip()
    assert clean_field(cleaned) == cleaned


def test_clean_field_keeps_words_apart():
    assert clean_field("  a\tb\r\nc\u2028d\x00e ") == "a b c d e"


def test_lists_become_sequences(tmp_path):
    path = tmp_path / "x.item"
    kinds = [Column("a", "token_seq"), Column("b", "float_seq"), Column("c", "token_seq")]
    write_table(path, kinds, [[["x", "y"], np.array([0.5, 2.0]), ()]])
    assert path.read_text() == "a:token_seq\tb:float_seq\tc:token_seq\nx y\t0.5 2.0\t\n"


def test_a_file_that_fails_half_way_leaves_the_older_one(tmp_path):
    path = tmp_path / "x.item"
    write_table(path, [Column("a", "token")], [["old"]])

    def rows():
        yield ["new"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(path, [Column("a", "token")], rows())
    assert columns(path) == {"a": ["old"]}


# ---- reading -------------------------------------------------------------------------------------


def test_gzipped_files_are_read(tmp_path):
    path = gz_file(tmp_path, "a:token\tb:float\nx\t1.5\ny\t2\n")
    assert columns(path) == {"a": ["x", "y"], "b": [1.5, 2.0]}


def test_only_the_columns_asked_for_are_read_in_the_order_asked_for(tmp_path):
    path = file(tmp_path, "a:token\tb:token\tc:float\nx\ty\t1\n")
    assert list(read_table(path, ["c", "a"]).columns) == ["c", "a"]
    assert columns(path, ["c", "a"]) == {"c": [1.0], "a": ["x"]}


def test_ids_that_look_like_numbers_stay_text(tmp_path):
    path = file(tmp_path, "a:token\tb:token\n007\t1e5\n7\t1_0\n")
    assert columns(path) == {"a": ["007", "7"], "b": ["1e5", "1_0"]}


@pytest.mark.parametrize("word", ["NA", "nan", "null", "None", "N/A", "-"])
def test_words_that_pandas_takes_for_missing_stay_text(tmp_path, word):
    assert columns(file(tmp_path, f"a:token\tb:token\nx\t{word}\n"))["b"] == [word]


def test_empty_fields_are_missing(tmp_path):
    read = read_table(file(tmp_path, "a:token\tb:float\tc:token\nx\t\t\n\t1\ty\n"))
    assert read.isna().to_numpy().tolist() == [[False, True, True], [True, False, False]]


def test_fields_left_out_at_the_end_of_a_line_are_missing(tmp_path):
    read = read_table(file(tmp_path, "a:token\tb:token\nx\ny\tz\n"))
    assert read["b"].isna().tolist() == [True, False]


def test_windows_line_ends_are_read(tmp_path):
    assert columns(file(tmp_path, "a:token\tb:token\r\nx\ty\r\n")) == {"a": ["x"], "b": ["y"]}


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert columns(file(tmp_path, "\ufeffa:token\tb:token\nx\ty\n")) == {"a": ["x"], "b": ["y"]}


def test_a_file_without_a_last_line_end_is_read_whole(tmp_path):
    assert columns(file(tmp_path, "a:token\nx\ny")) == {"a": ["x", "y"]}


def test_a_header_without_rows_gives_an_empty_table(tmp_path):
    read = read_table(file(tmp_path, "a:token\tb:float\n"))
    assert (list(read.columns), len(read)) == (["a", "b"], 0)


def test_whole_numbers_beyond_float32_are_exact(tmp_path):
    path = file(tmp_path, "t:float\n16777217\n1400000001\n9007199254740991\n")
    assert columns(path) == {"t": [16777217.0, 1400000001.0, 9007199254740991.0]}


def test_chunks_join_to_the_whole(tmp_path):
    path = file(tmp_path, "a:token\tb:float\n" + "".join(f"x{i}\t{i}\n" for i in range(10)))
    chunks = list(read_chunks(path, ["a", "b"], chunk_rows=3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]
    assert pd.concat(chunks)["a"].tolist() == read_table(path)["a"].tolist()


def test_token_columns_can_be_ids_over_all_chunks(tmp_path):
    path = file(tmp_path, "a:token\tb:token\nx\tv\ny\tv\nx\tv\n\tv\nz\tv\ny\tv\n")
    tokens = Vocabulary()
    chunks = list(read_chunks(path, ["a", "b"], {"a": tokens}, chunk_rows=4))
    assert [chunk["a"].tolist() for chunk in chunks] == [[1, 2, 1, -1], [3, 2]]
    assert list(tokens) == ["x", "y", "z"]
    assert [chunk["b"].tolist() for chunk in chunks] == [["v"] * 4, ["v"] * 2]


# ---- quotation marks -----------------------------------------------------------------------------


def test_a_quotation_mark_in_a_title_swallows_no_line(tmp_path):
    path = file(tmp_path, 'a:token\tb:token_seq\n1\tThe 5" screen\n2\tplain\n3\t"Unclosed\n4\tplain\n')
    assert columns(path)["b"] == ['The 5" screen', "plain", '"Unclosed', "plain"]


def test_a_quoted_field_holds_no_line_end(tmp_path):
    path = file(tmp_path, 'a:token\tb:token_seq\n1\t"begins\n2\tends"\n')
    assert columns(path) == {"a": ["1", "2"], "b": ['"begins', 'ends"']}


def test_a_field_that_csv_wrapped_is_unwrapped(tmp_path):
    path = file(tmp_path, 'a:token\tb:token_seq\n1\t"The 5"" screen"\n2\t"plain"\n3\t"""whole"""\n')
    assert columns(path)["b"] == ['The 5" screen', "plain", '"whole"']


def test_a_lone_quotation_mark_is_text(tmp_path):
    assert columns(file(tmp_path, 'a:token\n"\n'))["a"] == ['"']


def test_wrapped_ids_are_the_ids_without_their_quotation_marks(tmp_path):
    path = file(tmp_path, 'a:token\n"B1"\nB2\nB1\n')
    tokens = Vocabulary()
    (chunk,) = read_chunks(path, ["a"], {"a": tokens})
    assert chunk["a"].tolist() == [1, 2, 1]
    assert list(tokens) == ["B1", "B2"]


# ---- mistakes ------------------------------------------------------------------------------------


def refused(path, match, names=None):
    with pytest.raises(UserError, match=match):
        read_table(path, names)


@pytest.mark.parametrize("blank", ["\n", "\r\n", "  \n\n"])
def test_a_file_that_begins_with_a_blank_line_is_refused(tmp_path, blank):
    message = "x.inter begins with a blank line, and 'a:token b:float' comes after it: its first line must name the col"
    refused(file(tmp_path, f"{blank}a:token\tb:float\nu\t1\n"), message)


def test_blanks_around_the_names_of_columns_are_no_part_of_them(tmp_path):
    for separator in ("\t", ","):
        path = file(tmp_path, f"a:token{separator} b : float \nx{separator}1\n")
        assert read_header(path, separator) == [Column("a", "token"), Column("b", "float")]
        assert read_table(path, separator=separator)["b"].tolist() == [1.0]


@pytest.mark.parametrize("row", ["x, y,1", "x,y, 1", '"x", "y", 1'])
def test_blanks_behind_commas_are_no_part_of_fields(tmp_path, row):
    path = file(tmp_path, f"a:token, b:token, c:float\n{row}\n{row}\n")
    assert read_columns(path, ["a", "b", "c"], ",")[1] == {"a": ["x"], "b": ["y"]}
    assert read_table(path, separator=",").to_dict("list") == {"a": ["x"] * 2, "b": ["y"] * 2, "c": [1.0] * 2}


@pytest.mark.parametrize("text", ["", "\n", "   \n\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    refused(file(tmp_path, text), "x.inter is empty: its first line must name the columns")


def test_a_column_without_a_type_is_named(tmp_path):
    refused(file(tmp_path, "a:token\tprice\n1\t2\n"), "line 1: column 'price' needs a type: name:token")


def test_a_column_of_an_unknown_type_is_named(tmp_path):
    refused(file(tmp_path, "a:token\tprice:int\n"), "line 1: column 'price:int' needs a type")


def test_a_header_separated_by_blanks_is_refused(tmp_path):
    refused(file(tmp_path, "a:token b:token\n1 2\n"), "columns are separated by blanks, not by tabs")


def test_a_column_that_stands_there_twice_is_named(tmp_path):
    refused(file(tmp_path, "a:token\ta:float\nx\t1\n"), "line 1: column 'a' occurs twice")


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    refused(file(tmp_path, "a:token\tb:token\n"), "has no column 'c'; it has a, b", ["a", "c"])


def test_a_missing_file_is_named(tmp_path):
    refused(tmp_path / "nowhere.inter", "nowhere.inter cannot be read: No such file")


@pytest.mark.parametrize("bad", ["four", "1,5", "nan", "1_0", "0x10", "--1"])
def test_a_number_that_is_none_is_named_with_its_line(tmp_path, bad):
    path = file(tmp_path, f"a:token\tb:float\nx\t1\n\ny\t{bad}\nz\tfive\n")
    refused(path, f"x.inter, line 4: b is '{bad}', not a number")


def test_a_bad_number_in_a_gzipped_file_is_named_with_its_line(tmp_path):
    refused(gz_file(tmp_path, "b:float\n1\nx\n"), "line 3: b is 'x', not a number")


def test_numbers_in_columns_that_are_not_read_may_be_bad(tmp_path):
    assert columns(file(tmp_path, "a:token\tb:float\nx\tbad\n"), ["a"]) == {"a": ["x"]}


@pytest.mark.parametrize("opener", [file, gz_file], ids=["plain", "gz"])
def test_a_line_with_too_many_tabs_is_named(tmp_path, opener):
    path = opener(tmp_path, "a:token\tb:token\n1\tone\n2\ttwo\ttoo\n3\tthree\n")
    refused(path, "line 3: more fields than the header's 2")


def test_a_first_line_with_too_many_tabs_is_named(tmp_path):
    refused(file(tmp_path, "a:token\tb:token\n1\tone\tx\n2\ttwo\ty\n"), "line 2: more fields")


def test_a_last_line_with_too_many_tabs_is_named(tmp_path):
    refused(file(tmp_path, "a:token\tb:token\n1\tone\n2\ttwo\ttoo"), "line 3: more fields")


def test_too_many_tabs_are_found_in_columns_that_are_not_read(tmp_path):
    refused(file(tmp_path, "a:token\tb:token\n1\tone\ttoo\n"), "line 2: more fields", ["a"])


def test_too_many_tabs_are_found_beyond_the_first_block(tmp_path, monkeypatch):
    rows = "".join(f"{i}\t{'x' * 90}\n" for i in range(200_000))
    refused(file(tmp_path, f"a:token\tb:token\n{rows}1\t2\t3\n"), "line 200002: more fields")


def test_a_pair_of_quotation_marks_around_nothing_is_a_missing_token(tmp_path):
    """Regression: CSV writers put it for missing values, and it became a user or an item without a name."""
    for separator in ("\t", ","):
        path = file(tmp_path, 'a:token\tb:token\n"u"\t""\n""\t"i"\nv\t"j"\n'.replace("\t", separator))
        values, tokens = read_columns(path, ["a", "b"], separator)
        assert (values["a"].tolist(), tokens["a"]) == ([1, -1, 2], ["u", "v"])
        assert (values["b"].tolist(), tokens["b"]) == ([-1, 1, 2], ["i", "j"])


@pytest.mark.parametrize("opener", [file, gz_file], ids=["plain", "gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("field", ["\rtwo", "t\rwo", "two\r\t", "t\r\rwo"])
def test_a_carriage_return_inside_a_line_is_named(tmp_path, opener, end, field):
    """Regression: pandas takes it for a line end, so that a user and an item appeared that nobody had written."""
    path = opener(tmp_path, f"a:token\tb:token\n\n1\tone\n2\t{field}\n3\tthree\n".replace("\n", end))
    refused(path, "line 4: a carriage return inside the line, which would be cut in two there. Take it out; if ")
    with pytest.raises(UserError, match="line 4: a carriage return inside the line"):
        read_columns(path, ["a", "b"])


def test_lines_that_end_in_carriage_returns_below_a_header_that_does_not_are_named(tmp_path):
    refused(file(tmp_path, "a:token\tb:token\n1\tone\r2\ttwo\r"), "line 2: a carriage .* write line feeds")


def test_a_carriage_return_inside_a_line_is_found_beyond_the_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_llm.data.atomic.BLOCK_BYTES", 1000)
    rows = "".join(f"{i}\t{'x' * 90}\r\n" for i in range(50))
    refused(file(tmp_path, f"a:token\tb:token\r\n{rows}1\t2\r3\r\n"), "line 52: a carriage return inside the line")


@pytest.mark.parametrize("end", ["\r\r\n", "\r\n\r\n"], ids=["doubled", "blank lines"])
def test_carriage_returns_before_line_feeds_are_harmless(tmp_path, end):
    """A CSV writer's own line ends become the former where a text file of Windows adds another carriage return."""
    path = file(tmp_path, f"a:token\tb:token{end}1\tone{end}2\ttwo\r")
    assert columns(path) == {"a": ["1", "2"], "b": ["one", "two"]}


def test_tabs_at_the_end_of_lines_are_harmless(tmp_path):
    path = file(tmp_path, "a:token\tb:token\n1\tone\t\n2\ttwo\t\t\r\n")
    assert columns(path) == {"a": ["1", "2"], "b": ["one", "two"]}


@pytest.mark.parametrize("before", [0, 20_000], ids=["early", "late"])
def test_bytes_that_are_not_utf8_are_refused(tmp_path, before):
    text = b"a:token\n" + b"plain\n" * before + "café\n".encode("latin-1")
    refused(file(tmp_path, text), "x.inter is not UTF-8 .*iconv")


@pytest.mark.parametrize("rows", [3, 50_000], ids=["short", "long"])
def test_a_truncated_gzip_file_is_refused(tmp_path, rows):
    rng = np.random.default_rng(1)
    text = "a:token\n" + "".join(f"{v}\n" for v in rng.integers(1 << 40, size=rows))
    whole = gzip.compress(text.encode())
    refused(file(tmp_path, whole[: len(whole) // 2], "x.inter.gz"), "x.inter.gz is a damaged or truncated gzip file")


@pytest.mark.parametrize("at", [0.2, 0.7])
def test_a_damaged_gzip_file_is_refused(tmp_path, at):
    rows = np.random.default_rng(1).integers(1 << 40, size=50_000)
    whole = bytearray(gzip.compress(("a:token\n" + "".join(f"{v}\n" for v in rows)).encode()))
    place = int(len(whole) * at)
    whole[place : place + 64] = bytes(64)
    refused(file(tmp_path, bytes(whole), "x.inter.gz"), "x.inter.gz")


def test_a_plain_file_that_is_called_gz_is_refused(tmp_path):
    refused(file(tmp_path, "a:token\nx\n", "x.inter.gz"), r"x\.inter\.gz is not gzip, .* rename it to x\.inter\.")


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "x.inter").mkdir()
    refused(tmp_path / "x.inter", "x.inter cannot be read: Is a directory")


def test_the_header_of_a_file_is_its_columns(tmp_path):
    path = file(tmp_path, "a:token\tb:float_seq\n")
    assert read_header(path) == [Column("a", "token"), Column("b", "float_seq")]
    assert [str(column) for column in read_header(path)] == ["a:token", "b:float_seq"]


def test_every_type_of_recbole_is_known(tmp_path):
    text = "\t".join(f"c{i}:{kind}" for i, kind in enumerate(atomic.TYPES)) + "\n1\t1 2\t0.5\t0.5 1\n"
    read = read_table(file(tmp_path, text))
    assert read.iloc[0, :2].tolist() == ["1", "1 2"]
    assert math.isclose(read.iloc[0, 2], 0.5)
    assert read.iloc[0, 3] == "0.5 1"
