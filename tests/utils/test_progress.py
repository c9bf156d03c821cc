"""Progress bars and log lines."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from recbole_llm.utils.progress import Bars, TqdmHandler


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_off_a_terminal_the_items_pass_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    items = [1, 2, 3]
    assert Bars(True)(items, "title") is items


def test_switched_off_the_items_pass_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    items = [1, 2, 3]
    assert Bars(False)(items, "title") is items


def test_on_a_terminal_the_items_pass_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(Bars(True)(iter(range(5)), "title")) == list(range(5))


def test_log_lines_go_to_stderr_without_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("name", logging.INFO, __file__, 1, "a \x1b[31mline\x07", None, None)
    TqdmHandler().emit(record)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "a line\n")
