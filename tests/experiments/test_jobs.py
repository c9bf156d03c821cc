"""What runs have in common is made once, before they are spread over workers."""

from __future__ import annotations

from pathlib import Path

from recbole_llm.experiments.jobs import make_features
from tests.helpers import make_run, runner


def test_runs_whose_features_cannot_be_made_are_named_with_the_reason(tiny: Path) -> None:
    lacking = make_run("LLMDMsRec", encoder="no/such/encoder")
    reasons = make_features([make_run("GRU4Rec"), lacking], runner())
    assert list(reasons) == [lacking.key]
    assert "no/such/encoder" in reasons[lacking.key]
