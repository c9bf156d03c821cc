"""The notebooks under docs/ run on the kept records, cell by cell, and draw the plots they describe."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def run_notebook(path: Path) -> dict[str, Any]:
    """Run the cells of a notebook, check that their tables are those it keeps, and return the names they defined."""
    found: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            body = ast.parse("".join(cell["source"]), f"{path.name}, cell {number}")
            shown = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
            exec(compile(body, f"{path.name}, cell {number}", "exec"), found)
            if isinstance(shown, ast.Expr):
                value = eval(compile(ast.Expression(shown.value), f"{path.name}, cell {number}", "eval"), found)
                kept = [output["data"]["text/plain"] for output in cell["outputs"] if "text/plain" in output["data"]]
                assert value is None or ["".join(each) for each in kept] == [repr(value)]
    return found


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> Any:
    matplotlib = pytest.importorskip("matplotlib", reason="the extra `notebook` is not installed")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.chdir(ROOT / "docs" / "notebooks")
    yield pyplot
    pyplot.close("all")


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["plots.ipynb"]


def test_the_plots_are_drawn_from_the_records(plots: Any) -> None:
    found = run_notebook(NOTEBOOKS[0])
    cost, gains, splits = (plots.figure(number).axes[0] for number in plots.get_fignums())

    points, frontier = found["points"], found["frontier"]
    assert cost.get_xscale() == "log"
    assert len(cost.collections) == points["kind"].nunique()
    assert frontier["ndcg@10"].is_monotonic_increasing
    for _, point in points.iterrows():  # the frontier holds exactly the points that no cheaper model beats
        cheaper = points[points["seconds.total"] < point["seconds.total"]]
        assert (point["label"] in set(frontier["label"])) == (
            point["ndcg@10"] > cheaper["ndcg@10"].max() or cheaper.empty
        )

    named = [label.get_text() for label in gains.get_yticklabels()]
    assert len(named) == len(set(named)) == len(found["gains"])
    assert {gain["model"] for gain in found["gains"]} == set(found["BACKBONES"])
    assert all(gain["diff_low"] <= gain["difference"] <= gain["diff_high"] for gain in found["gains"])
    controls = {(gain["model"], gain["semantics"]) for gain in found["gains"]}
    assert all((model, "shuffled") in controls for model in found["BACKBONES"])

    assert {line.get_label() for line in splits.lines} == set(found["means"].index)
    assert not found["means"].isna().any().any()


def test_values_of_users_and_epochs_are_those_of_the_runs(plots: Any) -> None:
    found = run_notebook(NOTEBOOKS[0])
    by_user = found["users"].groupby("key")["value"].mean()
    runs = found["runs"].set_index("key")["ndcg@10"]
    assert by_user.to_dict() == pytest.approx(runs[by_user.index].to_dict())
    assert set(found["epochs"]["model"]) == {"REMI"}
