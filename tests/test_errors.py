"""Hints in error messages."""

from __future__ import annotations

import pytest

from recbole_llm.errors import UserError, did_you_mean

KNOWN = ["LLMDMsRec", "SASRec", "SASRecF", "SRGNN", "learning_rate", "n_layers"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("LLMDmsRec", " Did you mean LLMDMsRec?"),
        ("llm-dms_rec", " Did you mean LLMDMsRec?"),
        ("learningrate", " Did you mean learning_rate?"),
        ("SRGN", " Did you mean SRGNN?"),
        ("n_layer", " Did you mean n_layers?"),
    ],
)
def test_a_near_name_is_offered(word, hint):
    assert did_you_mean(word, KNOWN) == hint


def test_the_same_letters_win_over_a_near_spelling():
    assert did_you_mean("sasrec", KNOWN) == " Did you mean SASRec?"


def test_at_most_two_names_are_offered():
    hint = did_you_mean("rec1", ["rec11", "rec12", "rec13", "rec14"])
    assert hint.count("rec1") == 2
    assert " or " in hint


def test_nothing_near_gives_no_hint():
    assert did_you_mean("zzzzqqqq", KNOWN) == ""


@pytest.mark.parametrize("word", ["", "___"])
def test_a_word_without_letters_gives_no_hint(word):
    assert did_you_mean(word, KNOWN) == ""


def test_no_known_names_give_no_hint():
    assert did_you_mean("SASRec", []) == ""


def test_a_user_error_says_its_message():
    assert str(UserError("what, where, what to do")) == "what, where, what to do"
