"""``probe``: what an LLM remembers of a dataset, compared with chance and shown beside its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import recbole_llm
from recbole_llm.experiments.probe import TitleAnswer, _title_named, recall_of, render_probes
from recbole_llm.experiments.probe_record import ProbeRecord
from recbole_llm.experiments.store import ResultStore
from tests.features.asking import answer_of_any_prompt
from tests.helpers import Cli
from tests.stub_server import Call, Reply, StubServer


def kind_of(call: Call) -> str:
    """Which probe a question belongs to."""
    data = call.data
    return "title" if "begins" in data else "next" if "user" in data else "item" if "next_id" in data else "row"


class Rememberer:
    """An LLM that remembers titles and interaction rows, but neither users' next items nor item ids."""

    def __init__(self, folder: Path) -> None:
        _, *lines = (folder / "tiny.inter").read_text().splitlines()
        self.rows = [line.split("\t") for line in lines]

    def __call__(self, call: Call) -> Reply:
        data = call.data
        answers: dict[str, Any] = {
            "title": lambda: {"title": data["begins"] + ' & Co, 5" size'},
            "next": lambda: {"titles": [f'Lipstick No. {n} & Co, 5" size' for n in range(5)]},
            "item": lambda: {"title": ""},
            "row": lambda: {"row": self.rows[self.rows.index(data["rows"][-1]) + 1]},
        }
        return Reply(text=json.dumps(answers[kind_of(call)]()))


def probed(server: StubServer, **settings: Any) -> ProbeRecord:
    (record,) = recbole_llm.probe("tiny", llm="vllm", llm_base_url=server.base_url, **settings)
    return record


def test_what_is_remembered_is_above_chance_and_what_is_popular_is_not(tiny: Path) -> None:
    with StubServer(Rememberer(tiny)) as server:
        found = probed(server).probes
    assert found["title"].recall == 1.0
    assert found["title"].chance == 0.0
    assert found["title"].p < 1e-6
    assert found["title"].low > 0.9
    assert found["next"].asked == found["next"].answered > 50
    assert 0 < found["next"].recall == pytest.approx(found["next"].chance, abs=0.02)  # the same answer for every user
    assert found["next"].p > 0.1
    assert (found["item"].hits, found["item"].p) == (0, 1.0)
    assert found["row"].recall > 0.95


def test_no_question_shows_what_it_asks_for(tiny: Path) -> None:
    with StubServer(Rememberer(tiny)) as server:
        probed(server)
        calls = list(server.calls)
    titles = {json.loads(Rememberer(tiny)(call).text)["title"] for call in calls if kind_of(call) == "title"}
    assert len(titles) == 48
    for call in calls:
        if kind_of(call) == "title":
            assert "size" not in call.question
        if kind_of(call) == "next":
            assert {*call.data} == {"dataset", "user", "interactions"}
            assert not any(title in call.question for title in titles)
        if kind_of(call) == "row":
            assert len(call.data["rows"]) == 3


def test_items_without_a_title_are_not_asked_about(tiny: Path) -> None:
    """Regression: they were shown as ``item <id>``, so that an LLM that knows nothing could name the next one."""
    path = tiny / "tiny.item"
    header, *lines = path.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    path.write_text("\n".join([header, *("\t".join([row[0], "", *row[2:]]) for row in rows[::2]), *lines[1::2]]) + "\n")
    remember = Rememberer(tiny)

    def reply(call: Call) -> Reply:
        is_item = kind_of(call) == "item"
        return Reply(text=json.dumps({"title": f"item {call.data['next_id']}"})) if is_item else remember(call)

    with StubServer(reply) as server:
        found = probed(server).probes
        calls = list(server.calls)
    assert found["item"].hits == 0
    assert found["title"].asked == found["title"].hits == 24
    assert found["item"].asked == 24 - 3  # the first three are shown
    assert found["next"].asked < 80  # the users of the tiny dataset
    assert not any("item i" in call.question for call in calls)


def with_long_review(folder: Path, separator: str) -> None:
    """Give the interactions a column of texts, of which the second is longer than Python's csv module reads."""
    path = folder / "tiny.inter"
    header, *rows = path.read_text().splitlines()
    rows = [f"{row}\t{'long ' * 30_000 if number == 1 else 'short'}" for number, row in enumerate(rows)]
    path.write_text("\n".join([f"{header}\treview:token_seq", *rows]).replace("\t", separator) + "\n")


def test_rows_with_long_texts_are_probed(tiny: Path) -> None:
    """Regression: Python's csv module refused a field of more than 131,072 characters, in a traceback."""
    with_long_review(tiny, "\t")
    with StubServer(Rememberer(tiny)) as server:
        assert probed(server, questions=10).probes["row"].recall == 1.0


def test_rows_that_cannot_be_read_as_csv_are_named(tiny: Path, cli: Cli, capsys: Any) -> None:
    with_long_review(tiny, ",")
    assert cli("probe", "--dataset=tiny", "--llm=vllm", "--field_separator=,") == 2
    assert "tiny.inter, line 3: a field of more than 131,072 characters" in capsys.readouterr().err


def test_a_second_probe_asks_nothing_and_is_the_same_record(tiny: Path) -> None:
    with StubServer(Rememberer(tiny)) as server:
        first, asked = probed(server, questions=10), len(server.calls)
        second = probed(server, questions=10)
        assert len(server.calls) == asked == 40
    assert (second.key, second.probes) == (first.key, first.probes)
    assert [record.key for record in ResultStore("results").probes()] == [first.key]


def test_invented_titles_are_probed_as_such(tiny: Path) -> None:
    with StubServer(Rememberer(tiny)) as server:
        real, invented = probed(server, questions=12), probed(server, questions=12, titles="pseudonym")
        assert not any("No. " in call.question for call in server.calls[48:] if kind_of(call) == "item")
    assert real.key != invented.key
    assert invented.probes["title"].hits == 0
    assert (invented.titles, invented.titles_seed) == ("pseudonym", 2020)


def test_chance_holds_an_answer_against_the_other_questions() -> None:
    found = recall_of([("a", {"a", "b"}), ("b", {"a"}), ("a", {"c"})], asked=4)
    # Six pairs of an answer and another question's truth; four match: two for the first truth, {a, b}, and two for
    # the second, {a}.
    assert (found.hits, found.recall, found.chance) == (1, 1 / 3, 4 / 6)
    assert (found.asked, found.answered) == (4, 3)
    assert found.low < 1 / 3 < found.high


def test_one_lucky_answer_is_no_proof() -> None:
    assert recall_of([("a", {"a"})], asked=1).p == 1.0
    found = recall_of([("a", {"a"}), *((f"b{n}", {"x"}) for n in range(99))], asked=100)
    assert (found.hits, found.chance) == (1, 0.0)
    assert found.p == pytest.approx(1 - (1 - 1 / 9901) ** 100)


def test_a_title_repeated_with_its_brackets_is_known() -> None:
    title = "Eyelash Enhancing Serum (3ml), 0.1-Fluid Ounces Bottle"
    truth = "eyelashenhancingserum"
    assert truth in _title_named(TitleAnswer(title=title))
    assert truth in _title_named(TitleAnswer(title=title.partition(" (")[0]))


def test_an_object_that_is_no_answer_is_no_miss(tiny: Path) -> None:
    remember = Rememberer(tiny)

    def reply(call: Call) -> Reply:
        return Reply(text='{"error": "busy"}') if len(call.question) % 2 else remember(call)

    with StubServer(reply) as server:
        found = probed(server).probes["title"]
    assert 0 < found.answered < found.asked
    assert found.recall == 1.0


def test_an_endpoint_that_says_nothing_usable_makes_no_record(tiny: Path, cli: Cli, capsys: Any) -> None:
    with StubServer(lambda call: Reply(text="I will not")) as server:
        assert cli("probe", "--dataset=tiny", "--llm=vllm", f"--llm_base_url={server.base_url}") == 2
    assert "gave no usable answer to any of 48 questions of the probe title" in capsys.readouterr().err
    assert not list(Path().glob("results/*/probe-*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "probe asks an LLM"),
        (["--llm=openai"], "give --max_cost"),
        (["--llm=vllm", "--questions=1"], "give 2 or more"),
    ],
)
def test_what_cannot_be_probed_is_refused(tiny: Path, cli: Cli, capsys: Any, words: list[str], said: str) -> None:
    assert cli("probe", "--dataset=tiny", *words) == 2
    assert said in capsys.readouterr().err


def test_a_limit_stops_the_probe_and_a_higher_one_goes_on(tiny: Path, cli: Cli, capsys: Any) -> None:
    with StubServer(Rememberer(tiny)) as server:
        words = ("probe", "--dataset=tiny", "--llm=vllm", f"--llm_base_url={server.base_url}", "--questions=10")
        assert cli(*words, "--max_requests=15") == 2
        assert "--max_requests=15 is reached" in capsys.readouterr().err
        assert len(server.calls) == 15
        assert cli(*words) == 0
        assert set(server.times_asked().values()) == {1}
    out = capsys.readouterr().out
    assert "completes titles" in out
    assert "record: results/tiny/probe-Qwen-Qwen2.5-7B-Instruct-" in out


def test_the_probes_of_a_command_share_its_limits(tiny: Path, cli: Cli, capsys: Any) -> None:
    with StubServer(Rememberer(tiny)) as server:
        words = ["probe", "--dataset=tiny", "--protocol=loo,session", "--questions=5", "--llm=vllm"]
        assert cli(*words, f"--llm_base_url={server.base_url}", "--max_requests=20") == 2
        assert len(server.calls) == 20
    assert "--max_requests=20 is reached" in capsys.readouterr().err


def test_the_table_has_columns_of_the_probe_and_of_the_knowledge_cut(tiny: Path) -> None:
    remember = Rememberer(tiny)

    def reply(call: Call) -> Reply:
        is_probe = call.body["messages"][0]["content"].startswith("You are asked what you remember")
        return remember(call) if is_probe else answer_of_any_prompt(call)

    with StubServer(reply) as server:
        shared = {"llm": "vllm", "llm_base_url": server.base_url, "epochs": 1}
        recbole_llm.run("Pop,EIMF", "tiny", llm_knowledge_cut="2014-06-30", **shared)
        plain = recbole_llm.table(format="markdown")
        assert "after cut" in plain
        assert "known" not in plain.partition("\n\n")[2].split("\n")[0]
        record = probed(server)
    shown = recbole_llm.table(format="markdown")
    header, _, *rows = [line for line in shown.split("\n") if line.startswith("|")][:4]
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")] for row in rows}
    place = [cell.strip() for cell in header.split("|")].index("titles known")
    assert cells["EIMF †"][place].startswith("100 % (0 %)")
    assert cells["Pop"][place] == ""
    assert "2014-06-30" in shown
    (eimf,) = [run for run in ResultStore("results") if run.model == "EIMF"]
    assert eimf.features is not None
    assert eimf.features.after_cut is not None
    assert 0 < eimf.features.after_cut < 1
    line = next(line for line in recbole_llm.table(format="csv").split("\n") if ",EIMF," in line)
    assert str(record.probes["next"].recall) in line
    assert "completes titles" in render_probes([record])
    page = recbole_llm.report().read_text()
    assert "<h3>What the LLM knew</h3>" in page
    assert "<td>100 % (0 %)</td>" in page
