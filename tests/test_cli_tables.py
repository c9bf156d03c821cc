"""Tables and the report from the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recbole_llm.experiments.store import ResultStore
from tests.helpers import Cli
from tests.reporting.records import record_of, run_of


@pytest.fixture
def stored(workspace: Path) -> ResultStore:
    store = ResultStore("results")
    store.put(run_of("SASRec", 0.125))
    store.put(run_of("GRU4Rec", 0.25, dataset="other"))
    store.put(run_of("BPR", 0.5, protocol="session"))
    store.put(record_of(key="f", model="Broken", status="failed", error="no luck", settings={"mask_history": True}))
    return store


def test_the_table_shows_what_is_stored(stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("table") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("SASRec", "GRU4Rec", "BPR", "failed", "no luck"))


@pytest.mark.parametrize(
    ("option", "there", "absent"),
    [("--model=SASRec,BPR", {"SASRec", "BPR"}, {"GRU4Rec"}), ("--dataset=other", {"GRU4Rec"}, {"SASRec", "BPR"}),
     ("--protocol=session", {"BPR"}, {"SASRec", "GRU4Rec"})],
)  # fmt: skip
def test_the_table_can_be_narrowed(
    stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str], option: str, there: set[str], absent: set[str]
) -> None:
    assert cli("table", option) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in there)
    assert not any(name in out for name in absent)


def test_names_may_have_blanks_between_them(stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("table", "--model=SASRec, BPR", "--metrics=ndcg@10, hit@10", "--check_reference") == 0
    assert cli("table", "--model=SASRec, BPR", "--metrics=ndcg@10, hit@10") == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("SASRec", "BPR", "NDCG@10", "Hit@10"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model=SASRecc,BPR", r"--model=SASRecc: results/ holds no such results. Did you mean SASRec\?"),
        ("--dataset=beauty", "--dataset=beauty: results/ holds no such results. It has other, tiny"),
    ],
)
def test_a_name_without_results_is_an_error(
    stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    assert cli("table", option) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_table_comes_as_markdown(stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("table", "--format=markdown", "--model=SASRec") == 0
    assert re.search(r"^\| SASRec +\| 1 +\| 0\.2500", capsys.readouterr().out, flags=re.M)


def test_the_table_goes_to_a_file(stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("table", "--output=deep/table.txt") == 0
    assert capsys.readouterr().out == ""
    assert "SASRec" in Path("deep/table.txt").read_text()


def test_the_table_holds_the_metrics_asked_for(
    stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("table", "--metrics=ndcg@10", "--model=SASRec") == 0
    out = capsys.readouterr().out
    assert "NDCG@10" in out
    assert "Hit@10" not in out


def test_an_unknown_metric_is_an_error(stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("table", "--metrics=ndgc@10") == 2
    assert "Did you mean ndcg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--format=latex", "\\toprule"),
        ("--format=csv", "dataset,protocol,mask_history"),
        ("--format=html", "<table>"),
        ("--topk=all", "NDCG@10"),
        ("--baseline=SASRec", "SASRec"),
        ("--check-reference", "none of these rows has one"),
    ],
)
def test_the_table_takes_its_options(
    stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    assert cli("table", option) == 0
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topk=0"], "give cut-offs"),
        (["--baseline=SASRek"], "SASRec"),
        (["--groups", "--format=csv"], "--format=csv shows no subgroups"),
        (["--groups", "--check-reference"], "--check_reference shows no subgroups"),
    ],
)
def test_a_wrong_option_of_a_table_is_an_error(
    stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli("table", *options) == 2
    assert message in capsys.readouterr().err


def test_a_run_out_of_its_band_gives_code_1(workspace: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"mask_history": True, "MAX_ITEM_LIST_LENGTH": 20}
    ResultStore("results").put(run_of("SASRec", 0.01, dataset="beauty", settings=settings))
    assert cli("table", "--check-reference") == 1
    out = capsys.readouterr().out
    assert "**below**" in out
    assert "MAX_ITEM_LIST_LENGTH 20 here, 50 there" in out


def test_the_report_is_written_and_its_path_printed(
    stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("report") == 0
    assert capsys.readouterr().out == "results/report.html\n"
    assert "SASRec" in Path("results/report.html").read_text()
    assert cli("report", "--output=deep/page.html", "--model=SASRec") == 0
    assert "GRU4Rec" not in Path("deep/page.html").read_text().split("<script>")[0]


@pytest.mark.parametrize("verb", ["table", "report"])
def test_a_folder_is_no_file_to_write_to(
    stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    Path("taken").mkdir()
    assert cli(verb, "--output=taken") == 2
    assert capsys.readouterr().err == "error: taken is a folder; give the name of a file.\n"


def test_results_lie_where_they_are_said_to(workspace: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    ResultStore("elsewhere").put(run_of("SASRec", 0.125))
    assert cli("table", "--results_dir=elsewhere") == 0
    assert "SASRec" in capsys.readouterr().out


def test_the_twin_table_shows_two_protocols(workspace: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    store = ResultStore("results")
    for protocol, value in (("loo", 0.5), ("gts", 0.25)):
        store.put(run_of("SASRec", value, protocol=protocol))
    assert cli("table", "--twin=loo,gts", "--format=markdown") == 0
    assert re.search(r"^\| SASRec +\| 1 +\| 0\.5000 +\| 0\.2500", capsys.readouterr().out, flags=re.M)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--twin=loo"], "--twin=loo: give two protocols, such as loo,gts"),
        (["--twin=loo,gts"], "no dataset has results under both; there are results under loo, session"),
        (["--twin=loo,session", "--baseline=BPR"], "leave --baseline out"),
        (["--twin=loo,session", "--protocol=loo"], "leave --protocol out"),
    ],
)
def test_a_twin_table_that_there_cannot_be_is_an_error(
    stored: ResultStore, cli: Cli, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli("table", *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [False, True])
def test_names_from_records_send_a_terminal_nothing_that_it_obeys(
    workspace: Path,
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
) -> None:
    evil = "M\x1b[31mred\x1b]0;title\x07\u202e"
    store = ResultStore("results")
    store.put(run_of(evil, 0.1, key="a"))
    store.put(run_of("SASRec", 0.2, key="b"))
    monkeypatch.setattr("recbole_llm.screen.screen_style", lambda: "terminal" if terminal else "text")
    assert cli("table") == 0
    out = capsys.readouterr().out
    assert "Mred" in out
    assert ("\x1b[1m" in out) == terminal
    assert not set(re.sub(r"\x1b\[[0-4]*m", "", out)) & set("\x1b\x07\u202e")
