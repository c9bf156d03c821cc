"""The tables in README.md and docs/ are what their commands print from the records in results/."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from recbole_llm import cli

ROOT = Path(__file__).parents[1]
IDENTITY = ("model", "semantics", "language model", "tuned")  # the columns that say which row it is
COMMAND = re.compile(r"^    python run_benchmark\.py (table --results_dir=results/\S.*)$", flags=re.M)


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table, without emphasis marks and escapes."""
    plain = re.sub(r"\*\*|</?u>|`|\\", "", line.strip())
    return [cell.strip() for cell in plain.strip("|").split("|")]


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text, header first."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if not line.lstrip().startswith("|"):
            inside = False
        elif not inside:
            found.append([cells(line)])
            inside = True
        elif not re.fullmatch(r"[|:\- ]+", line.strip()):
            found[-1].append(cells(line))
    return found


def quoted() -> list[tuple[str, str, list[list[str]]]]:
    """File, command and the table below the command, for each quoted table."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        found += [
            (path.relative_to(ROOT).as_posix(), match[1].strip(), tables(text[match.end() :])[0])
            for match in COMMAND.finditer(text)
        ]
    return found


QUOTED = quoted()


def test_tables_are_quoted() -> None:
    assert QUOTED


def test_the_calibration_table_is_that_of_its_measurement() -> None:
    measured = json.loads((ROOT / "benchmarks/results/calibration-ml-100k-cpu.json").read_text(encoding="utf-8"))
    found = {
        (each["null"], each["seeds"], each["test"]): f"{100 * each['share']:.1f} ± {100 * each['error']:.1f} %"
        for each in measured["results"]["shares"]
    }
    text = (ROOT / "docs/explanation/statistics.md").read_text(encoding="utf-8")
    _, *rows = tables(text[text.index("## Calibration") :])[0]
    assert len(rows) == 7
    for null, seeds, both, users in rows:
        null, _, how = null.partition(", ")
        test = f"users alone, {how}" if how else "users alone"
        assert (both, users) == (found.get((null, int(seeds), "users and seeds"), ""), found[null, int(seeds), test])


@pytest.mark.parametrize(("file", "command", "table"), QUOTED, ids=[f"{f}: {c}" for f, c, _ in QUOTED])
def test_a_quoted_table_is_what_its_command_prints(
    file: str, command: str, table: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main([*shlex.split(command), "--format=markdown"]) == 0
    printed: dict[tuple[str, ...], dict[str, str]] = {}
    for columns, *rows in tables(capsys.readouterr().out):  # metrics, then costs
        for row in rows:
            values = dict(zip(columns, row, strict=True))
            printed.setdefault(tuple(values[name] for name in IDENTITY if name in values), {}).update(values)
    head, *rows = table
    assert rows
    for row in rows:
        wanted = dict(zip(head, row, strict=True))
        which = {name: value for name, value in wanted.items() if name in IDENTITY}
        (found,) = (
            each for each in printed.values() if which == {name: each.get(name) for name in which}
        )  # a quoted row is one of the printed ones, and no other
        assert wanted == {name: found.get(name, "") for name in head}, f"{file}: {which}"
