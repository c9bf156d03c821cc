"""The leaderboard as files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.record import SemanticFacts
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.board import write_board
from recbole_llm.utils import files
from tests.browser import Page, find_browser
from tests.reporting.records import store_run

KEPT = Path(__file__).parents[2] / "results"
EVIL = '<img src=x onerror="document.title=1">'
FACTS = {
    "versions": {"python": "3.11", "recbole": "1.2.0", "torch": "2", "numpy": "2"},
    "created": "2024-01-01T00:00:00+00:00",
}  # fmt: skip


def fill(folder: Path, model: str = "SASRec", skill: float = 1.0, seeds: int = 2, **changes: object) -> None:
    for seed in range(1, seeds + 1):
        hardware = {"cpu": "A processor", "threads": 2}
        key = hashlib.sha256(f"{model}{seed}".encode()).hexdigest()[:16]
        values = {**FACTS, "hardware": hardware, "key": key, **changes}
        store = ResultStore(folder)
        path = store.path(store_run(store, model, skill, seed, **values))
        # Records of schema 2 need not name the dataset's files, which do not exist here.
        path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 2'))


def answered(dollars: float) -> SemanticFacts:
    """An LLM's answers at a price."""
    return SemanticFacts(llm="openai", llm_model="g", tokens_in=5000, price=dollars, manifest_sha256="0" * 64)


@pytest.fixture
def submissions(tmp_path: Path) -> Path:
    fill(tmp_path / "in" / "first")
    fill(tmp_path / "in" / "first", "Pop", 0.0)
    fill(tmp_path / "in" / "second", EVIL, 0.5, 1, hardware={"gpu": EVIL}, semantics="llm", features=answered(0.0))
    return tmp_path / "in"


class Links(HTMLParser):
    """Collects a page's links and element names."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name == "href" and value]


def links_of(page: Path) -> Links:
    found = Links()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def test_a_row_belongs_to_one_submission_and_links_its_records(submissions: Path, tmp_path: Path) -> None:
    assert write_board(submissions, tmp_path / "site", tmp_path) == 3
    page = tmp_path / "site" / "tiny-loo.html"
    records = [link for link in links_of(page).links if link.startswith("records/")]
    assert len(records) == 5
    assert all((tmp_path / "site" / link).is_file() for link in records)
    text = page.read_text(encoding="utf-8")
    assert "run --model=SASRec --dataset=tiny --protocol=loo &#39;--seeds=[1,2]&#39;" in text
    assert links_of(tmp_path / "site" / "index.html").links == ["tiny-loo.html"]


def test_rows_that_differ_in_the_language_model_alone_say_which_they_have(tmp_path: Path) -> None:
    for key, inside in (("ab" * 8, "gpt2"), ("cd" * 8, "no language model")):
        settings = {"mask_history": True, "use_lm": inside == "gpt2"}
        fill(tmp_path / "in" / "one", "DUIP", seeds=1, key=key, settings=settings, language_model=inside)
    assert write_board(tmp_path / "in", tmp_path / "site", tmp_path) == 2
    page = (tmp_path / "site" / "tiny-loo.html").read_text(encoding="utf-8")
    kinds = re.findall(r'<th scope="row">DUIP[^<]*<small class="kind">(.*?)</small>', page)
    assert sorted(kinds) == ["control, gpt2", "control, no language model"]


def test_the_first_column_is_the_metric_that_models_were_selected_by(tmp_path: Path) -> None:
    fill(tmp_path / "in" / "one", valid_metric="mrr@5")
    write_board(tmp_path / "in", tmp_path / "site", tmp_path)
    page = (tmp_path / "site" / "tiny-loo.html").read_text(encoding="utf-8")
    assert re.findall(r'<td class="n" data-title="(\w+@\d+)"', page)[:3] == ["MRR@5", "NDCG@5", "Hit@5"]


def test_a_metric_that_one_seed_did_not_record_is_the_mean_of_all_seeds(tmp_path: Path) -> None:
    fill(tmp_path / "in" / "first")
    values = [record.metrics["mrr@10"].value for record in ResultStore(tmp_path / "in" / "first")]
    path = min((tmp_path / "in" / "first").glob("*/*/*.json"))
    record = json.loads(path.read_text(encoding="utf-8"))
    record["metrics"] = {"ndcg@10": record["metrics"]["ndcg@10"]}
    path.write_text(json.dumps(record), encoding="utf-8")
    write_board(tmp_path / "in", tmp_path / "out", tmp_path)
    page = (tmp_path / "out" / "tiny-loo.html").read_text(encoding="utf-8")
    shown = float(re.findall(r'data-title="MRR@10" data-v="([^"]*)"', page)[0])
    assert shown == pytest.approx(sum(values) / 2)
    assert "±" in page.partition('data-title="MRR@10"')[2].partition("</td>")[0]


def test_a_row_that_was_still_improving_is_marked(tmp_path: Path) -> None:
    fill(tmp_path / "in" / "one")
    fill(tmp_path / "in" / "one", "Pop", best_epoch=1)
    write_board(tmp_path / "in", tmp_path / "site", tmp_path)
    page = (tmp_path / "site" / "tiny-loo.html").read_text(encoding="utf-8")
    assert sorted(re.findall(r'<th scope="row">(.*?)<', page)) == ["Pop", "SASRec †"]
    assert "† still improving when training ended" in page


def test_a_price_that_nobody_stated_is_not_zero(tmp_path: Path) -> None:
    """Regression: answers that were published without a price stood beside models that ask no LLM, at 0.00."""
    fill(tmp_path / "in" / "one", "Pop", seeds=1)
    for model, dollars in (("EIMF", 0.0), ("LDMI", 1.5)):
        fill(tmp_path / "in" / "one", model, seeds=1, semantics="llm", features=answered(dollars))
    write_board(tmp_path / "in", tmp_path / "site", tmp_path)
    page = (tmp_path / "site" / "tiny-loo.html").read_text(encoding="utf-8")
    cells = r'data-price="(.*?)">.*?data-title="US\$" data-v="(.*?)">(.*?)</td>'
    rows = re.findall(rf'<tr data-model="(\w+)".*?{cells}', page, re.S)
    assert sorted(rows) == [("EIMF", "", "", ""), ("LDMI", "1.5", "1.5", "1.50"), ("Pop", "0.0", "0.0", "0.00")]
    assert "US$ is empty where an LLM answered and no price is stated" in page


def test_what_a_submission_says_is_text(submissions: Path, tmp_path: Path) -> None:
    write_board(submissions, tmp_path / "site", tmp_path)
    for page in (tmp_path / "site").glob("*.html"):
        assert "img" not in links_of(page).tags
        assert EVIL not in page.read_text(encoding="utf-8")


def test_a_tampered_record_stops_the_board(submissions: Path, tmp_path: Path) -> None:
    path = next((submissions / "first").glob("*/*/*.json"))
    path.write_text(re.sub(r'"value": 0\.\d+', '"value": 0.9', path.read_text(), count=1))
    with pytest.raises(UserError, match="and the ranks in"):
        write_board(submissions, tmp_path / "site", tmp_path)
    assert not (tmp_path / "site").exists()


def test_only_a_board_is_replaced(submissions: Path, tmp_path: Path) -> None:
    write_board(submissions, tmp_path / "site", tmp_path)
    write_board(submissions, tmp_path / "site", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds no board"):
        write_board(submissions, tmp_path / "mine", tmp_path)
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_what_a_killed_board_left_is_removed_by_the_next(
    submissions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *_, **__: None)  # as in a command that is killed
        write_board(submissions, tmp_path / "site", tmp_path)
    (left,) = tmp_path.glob(".*")
    os.utime(left, (0, 0))
    files._remove_abandoned.cache_clear()  # as in a new command
    write_board(submissions, tmp_path / "site", tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["in", "site"]


def test_names_that_meet_as_files_stay_apart(tmp_path: Path) -> None:
    fill(tmp_path / "in" / "a b", dataset="x-y", protocol="z")
    fill(tmp_path / "in" / "a-b", dataset="x", protocol="y-z")
    write_board(tmp_path / "in", tmp_path / "site", tmp_path)
    assert len(list((tmp_path / "site").glob("x-*.html"))) == 2
    assert len(list((tmp_path / "site" / "records").iterdir())) == 2


def test_the_kept_records_make_a_board_without_paths_of_a_machine(tmp_path: Path) -> None:
    assert write_board(KEPT, tmp_path / "site", tmp_path) > 100
    for page in (tmp_path / "site").rglob("*"):
        if page.is_file():
            assert not re.search(r"(?<![\w:.])/(?:home|root|tmp|work|Users)/", page.read_text(encoding="utf-8")), page


@pytest.mark.browser
@pytest.mark.skipif(find_browser() is None, reason="no browser here; Debian's is called chromium")
def test_a_long_name_of_a_processor_widens_no_table_beyond_the_window(tmp_path: Path) -> None:
    cpu = "Intel(R) Xeon(R) Platinum 8481C Processor @ 2.70GHz"
    fill(tmp_path / "in" / "one", hardware={"cpu": cpu, "threads": 16})
    write_board(tmp_path / "in", tmp_path / "site", tmp_path)
    program = find_browser()
    assert program is not None
    with Page(program) as page:
        page.call("Emulation.setDeviceMetricsOverride", width=1400, height=1000, deviceScaleFactor=1, mobile=False)
        page.open(tmp_path / "site" / "tiny-loo.html")
        assert f"{cpu}, 16 threads" in page.run("document.querySelector('.one').textContent")
        table = "document.querySelector('.board').getBoundingClientRect().right"
        assert page.run(table) <= page.run("document.querySelector('.scroll').getBoundingClientRect().right")


@pytest.mark.browser
@pytest.mark.skipif(find_browser() is None, reason="no browser here; Debian's is called chromium")
@pytest.mark.parametrize("width", [1400, 800, 390])
def test_readers_choose_rows_in_a_browser(width: int, submissions: Path, tmp_path: Path) -> None:
    write_board(submissions, tmp_path / "site", tmp_path)
    program = find_browser()
    assert program is not None
    with Page(program, width=width) as page:
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False)
        page.open(tmp_path / "site" / "tiny-loo.html")
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run("document.title") == "tiny, loo"
        count = "document.getElementById('count').textContent"
        assert page.run(count) == "3 of 3 rows"
        for field, value, left in (
            ("price", "0", 2),
            ("seeds", "2", 2),
            ("model", "Pop", 1),
            ("hardware", "A processor, 2 threads", 1),
        ):
            page.run(
                f"(() => {{ const i = document.querySelector('[data-field={field}]'); i.value = '{value}';"
                " i.dispatchEvent(new Event('input')); })()"
            )
            assert page.run(count) == f"{left} of 3 rows"
        assert page.errors == []
