"""Every command of the tutorials runs, in the order of its page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from recbole_llm import cli

PAGES = sorted((Path(__file__).parents[1] / "docs/tutorials").glob("*.md"))
COMMAND = re.compile(r"^ {4,}recbole-llm (.+)$", flags=re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    header = next(line.strip() for line in text.splitlines() if "user_id:token" in line)
    file = tmp_path / "data/shop/shop.inter"
    file.parent.mkdir(parents=True)
    rows = [f"u{user}\ti{(user * 3 + place * 5) % 23}\t{1000 + place}" for user in range(30) for place in range(6)]
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    commands = COMMAND.findall(text)
    assert commands
    for command in commands:
        assert cli.main(shlex.split(command)) == 0, command
