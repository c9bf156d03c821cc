"""``make soak MINUTES=10``: random faults for the given time."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from tests.soak import Soak, delayed
from tests.stub_server import StubServer


@pytest.mark.soak
@pytest.mark.usefixtures("fork_server")
def test_soak(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    minutes = float(os.environ.get("MINUTES", "1"))
    draw = random.Random(os.environ.get("SEED", "1"))

    def say(line: str) -> None:
        with capfd.disabled():
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    with StubServer(delayed(draw)) as server:
        soak = Soak(workspace, draw, server, say=say)
        soak.run(minutes)
    assert not soak.findings
