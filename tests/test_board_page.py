"""Extracts the commands of docs/howto/board.md and runs them."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from recbole_llm.experiments.tracking import TRACKERS
from tests.helpers import Cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "howto" / "board.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, flags=re.M | re.S) for line in block.splitlines()]


def test_every_command_of_the_page_runs(workspace: Path, cli: Cli) -> None:
    shutil.copytree(ROOT / "results" / "session-graph", "results/session-graph")
    verbs = []
    for line in COMMANDS:
        words = shlex.split(line)
        assert words[0] == "recbole-llm"
        assert cli(*words[1:], "--quiet") == 0, line
        verbs.append(words[1])
    assert set(verbs) == {"submit", "board", "run"}
    assert Path("submissions/session-graph/submission.json").is_file()
    assert Path("board/index.html").is_file()
    assert len(list(Path("log_tensorboard").glob("*/*/events*"))) == 2


def test_the_page_names_every_tracker() -> None:
    assert all(f"| `{name}` |" in PAGE for name in TRACKERS)
