"""Reading whole columns as arrays: the fast path for regular files and the general path give the same result."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.data import atomic
from recbole_llm.data.atomic import TAB, _read_any, _read_regular, read_columns
from recbole_llm.errors import UserError

HEADER = "u:token\tt:float\ti:token\n"
TOKENS = st.text(
    st.characters(blacklist_categories=["Cc", "Cs", "Z"], blacklist_characters='"'), min_size=1, max_size=9
)


def file(folder, text, name="x.inter"):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def plain(read):
    """Arrays as lists, in the order of the columns."""
    values, tokens = read
    return {name: column.tolist() for name, column in values.items()}, tokens


@given(
    rows=st.lists(st.tuples(TOKENS, st.integers(0, 2**40), TOKENS), min_size=1, max_size=40), block=st.integers(1, 90)
)
def test_regular_files_are_read_as_all_others(tmp_path_factory, rows, block):
    text = HEADER + "".join(f"{user}\t{time}\t{item}\n" for user, time, item in rows)
    path = file(tmp_path_factory.mktemp("columns"), text)
    names = ["i", "u", "t"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "BLOCK_BYTES", block)
        quick = _read_regular(path, names, TAB)
    assert quick is not None or any(len(token.encode()) > 32 for row in rows for token in (row[0], row[2]))
    if quick is not None:
        assert plain(quick) == plain(_read_any(path, names, TAB))
        assert [quick[1]["u"][place - 1] for place in quick[0]["u"]] == [row[0] for row in rows]


def test_ids_and_tokens_are_those_of_first_appearance(tmp_path):
    path = file(tmp_path, HEADER + "b\t1\tx\na-token-of-more-than-8-bytes\t2\tx\nb\t3\ty")
    values, tokens = read_columns(path, ["u", "i", "t"])
    assert values["u"].tolist() == [1, 2, 1]
    assert tokens == {"u": ["b", "a-token-of-more-than-8-bytes"], "i": ["x", "y"]}
    assert values["u"].dtype == np.int32
    assert values["t"].tolist() == [1.0, 2.0, 3.0]


def test_tokens_that_begin_or_end_alike_are_told_apart(tmp_path):
    names = ["12345678", "123456789", "1234567812345678", "12345678123456789", "1", "9", "01", "1.0"]
    path = file(tmp_path, HEADER + "".join(f"{name}\t1\tx\n" for name in names))
    values, tokens = _read_regular(path, ["u"], TAB)
    assert tokens["u"] == names
    assert values["u"].tolist() == list(range(1, len(names) + 1))


def test_a_gzipped_file_is_read_alike(tmp_path):
    text = HEADER + "b\t1\tx\na\t2\tx\n"
    assert plain(_read_regular(file(tmp_path, text, "x.inter.gz"), ["u", "t"], TAB)) == plain(
        _read_regular(file(tmp_path, text), ["u", "t"], TAB)
    )


@pytest.mark.parametrize(
    "rows",
    [
        '"b"\t1\tx\n',
        "b\t1\tx\r\n",
        "b\t1\t\n",
        "b\t1\n",
        "b\t1\tx\n\n",
        f"{'b' * 33}\t1\tx\n",
        "b\t\tx\ny\t1\n2\tz\n",
        "b\t1\tx\tmore\nc\t1\n",
    ],
    ids=["quoted", "crlf", "missing", "short", "blank", "long", "cut", "wide and short"],
)
def test_what_is_not_regular_is_left_to_the_other_way(tmp_path, rows):
    assert _read_regular(file(tmp_path, HEADER + rows), ["u", "i"], TAB) is None


def test_what_both_refuse_has_its_words(tmp_path):
    with pytest.raises(UserError, match=r"line 3: t is 'soon', not a number"):
        read_columns(file(tmp_path, HEADER + "b\t1\tx\nb\tsoon\tx\n"), ["u", "t"])
    path = tmp_path / "latin.inter"
    path.write_bytes(HEADER.encode() + b"caf\xe9\t1\tx\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_columns(path, ["u"])
