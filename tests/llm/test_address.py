"""Secrets are removed from addresses and messages before they are shown."""

from __future__ import annotations

import re

import pytest

from recbole_llm.errors import UserError
from recbole_llm.llm.address import check_base_address, check_store_address, redact
from recbole_llm.llm.endpoint import Endpoint


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcdef0123456789.",
        "Authorization: Bearer abcdef0123456789",
        "key abcdef0123456789 is not valid",
    ],
)
def test_what_looks_like_a_key_is_blotted_out(text: str) -> None:
    assert "abcdef0123456789" not in redact(text, "abcdef0123456789")


def test_a_short_secret_is_blotted_out_where_it_is_a_word() -> None:
    assert redact("password pw, not pwd", "pw") == "password ***, not pwd"


def test_a_password_in_an_address_is_blotted_out() -> None:
    assert redact("--storage=postgresql://me:sec@ret@host/x --quiet") == "--storage=postgresql://***@host/x --quiet"
    assert Endpoint("e", "https://me:secret@host:8000/v1", "m").address == "https://***@host:8000/v1"
    assert Endpoint("e", "http://host/v1", "m").address == "http://host/v1"


def test_a_query_in_an_address_is_blotted_out() -> None:
    assert Endpoint("e", "https://host/v1?key=abcdef0123&v=2", "m").address == "https://host/v1?***"
    assert redact("suite 'https://host/v1?key=abcdef0123' --quiet?") == "suite 'https://host/v1?***' --quiet?"


def test_other_text_is_left_as_it_is() -> None:
    assert redact("no model m", "abcdef0123456789") == "no model m"


@pytest.mark.parametrize("password", ["pa/ss", "pa?ss", "pa#ss", "pa'ss/", "p@/ss"])
def test_a_password_that_ends_the_address_too_early_is_not_shown(password: str) -> None:
    address = f"http://me:{password}@host/v1"
    for check in (lambda: check_base_address(address, "stub"), lambda: check_store_address(address)):
        with pytest.raises(UserError) as caught:
            check()
        assert "http://***@host/v1" in str(caught.value)
        assert not {"me", "pa", "ss"} & {*re.split(r"\W+", str(caught.value))}
