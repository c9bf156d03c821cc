"""Titles and answers as clean text."""

from __future__ import annotations

import html
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.utils.text import TITLE_LENGTH, clean, counted, match_form, names_of, percent, share_of, visible


def test_entities_are_decoded() -> None:
    assert clean("Salt &amp; Pepper &lt;3 &#39;n&#x27; caf&eacute;") == "Salt & Pepper <3 'n' café"


def test_entities_escaped_twice_are_decoded() -> None:
    assert clean("Salt &amp;amp; Pepper") == "Salt & Pepper"
    assert clean("5&amp;quot; brush") == '5" brush'


def test_line_ends_and_control_characters_become_blanks() -> None:
    assert clean("one\r\ntwo\tthree\x00four\x1bfive\u2028six\u0085seven") == "one two three four five six seven"


def test_control_characters_hidden_in_entities_become_blanks() -> None:
    assert clean("one&#10;two&#0;three&#x202e;four") == "one two\ufffdthree four"


def test_invisible_and_bidirectional_characters_are_stripped() -> None:
    assert clean("ad\u200bmin \u202eevil\u202c \ufeffend\u2066") == "ad min evil end"


def test_blanks_are_single_and_none_at_the_ends() -> None:
    assert clean("  a \u00a0\u3000 b  ") == "a b"


def test_letters_are_composed() -> None:
    assert clean("cafe\u0301") == "caf\u00e9"


def test_short_text_is_left_as_it_is() -> None:
    text = "x" * TITLE_LENGTH
    assert clean(text) == text


def test_long_text_is_cut_between_words_and_says_so() -> None:
    cut = clean("word " * 100, 23)
    assert cut == "word word word word…"


def test_long_text_without_blanks_is_cut_anyway() -> None:
    assert clean("x" * 500, 10) == "x" * 9 + "…"


@given(st.text(), st.integers(min_value=1, max_value=60))
def test_any_text_becomes_one_printable_line_within_the_limit(text: str, limit: int) -> None:
    found = clean(text, limit)
    assert len(found) <= limit
    assert found.isprintable()
    assert found == found.strip()
    assert len(found.splitlines()) <= 1
    found.encode("utf-8")


@given(st.text(st.characters(codec="utf-8"), max_size=100))
def test_escaping_a_text_twice_changes_nothing(text: str) -> None:
    plain = clean(text, 1000)
    if html.unescape(plain) == plain:
        assert clean(html.escape(html.escape(plain)), 1000) == plain


@pytest.mark.parametrize(
    "other",
    ["the matrix (1999)", "The Matrix, 1999", "3. The Matrix (1999)", "12) The Matrix (1999)", "- The  Matrix (1999)"],
)
def test_case_punctuation_and_numbering_do_not_tell_titles_apart(other: str) -> None:
    assert match_form(other) == match_form("The Matrix (1999)")


@pytest.mark.parametrize("title", ["2001: A Space Odyssey", "10 Things I Hate About You", "12 Angry Men"])
def test_numbers_that_belong_to_a_title_stay(title: str) -> None:
    assert match_form(title).startswith(title.split(":")[0].split(" ")[0])


@given(st.text(max_size=80))
def test_the_form_of_any_text_is_letters_and_digits(text: str) -> None:
    form = match_form(text)
    assert form == "" or form.isalnum()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain — ü ±", "plain — ü ±"),
        ("a\x1b[1;31mb\x1b[0mc", "abc"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]8;;http://x\x1b\\link", "alink"),
        ("a\x1bMb", "ab"),
        ("a\x07\x08\x9b\u202e\u200bb", "ab"),
        ("two\nlines\tand more", "two\nlines and more"),
        ("\x1b", ""),
    ],
)
def test_what_a_terminal_would_obey_is_removed(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_what_is_visible_stays_so(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    assert all(ch == "\n" or unicodedata.category(ch)[0] not in "C" for ch in visible(text))


@pytest.mark.parametrize(("number", "text"), [(0, "0 trials"), (1, "1 trial"), (2, "2 trials"), (1234, "1,234 trials")])
def test_one_is_singular(number: int, text: str) -> None:
    assert counted(number, "trial") == text


@pytest.mark.parametrize(("share", "text"), [(1.0, "100 %"), (0.99999, "99.9 %"), (0.5, "50 %"), (0.0, "0 %")])
def test_a_share_looks_whole_only_where_it_is(share: float, text: str) -> None:
    assert percent(share) == text


def test_names_come_as_text_with_commas_or_as_a_list() -> None:
    assert names_of("A, B,,C ") == ["A", "B", "C"]
    assert names_of(["A", "B"]) == ["A", "B"]
    assert names_of(int) == [int]
    assert names_of(" [A,B]") == ["A", "B"]
    assert names_of(None) == []


@pytest.mark.parametrize(
    ("part", "whole", "share"),
    [(0, 0, 0.0), (0, 7, 0.0), (7, 7, 1.0), (2, 3, 0.6666), (176_138, 176_139, 0.9999), (1, 176_139, 0.0001)],
)
def test_a_share_is_whole_or_none_only_where_it_is_so(part: int, whole: int, share: float) -> None:
    assert share_of(part, whole) == share
