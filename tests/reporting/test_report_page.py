"""The report in a real browser (``make test-browser``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.page import write_report
from tests.browser import Page, find_browser
from tests.reporting.records import store_run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_browser() is None, reason="no browser here; Debian's is called chromium"),
]
SKILLS = {"Pop": 0.0, "SASRec": 1.0, "BPR": 0.4, '<img src=x onerror="document.title=1">': 0.7}
# Words on the page that are broken across lines.
WHOLE_WORDS = """(() => {
  const found = [], walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode;
    if (node.parentElement.closest("script, details, svg") || !node.parentElement.getClientRects().length) continue;
    for (const match of node.data.matchAll(/[\\w.,±]+/g)) {
      const range = document.createRange();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (tops.size > 1) found.push(match[0]);
    }
  }
  return found;
})()"""
MODELS = (
    "[...document.querySelectorAll('table.main tbody tr')].map(row => row.cells[0].firstChild.data.replace(' †', ''))"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = ResultStore(tmp_path_factory.mktemp("results"))
    for model, skill in SKILLS.items():
        for seed in (1, 2):
            store_run(store, model, skill, seed)
    path = store.folder / "report.html"
    write_report(list(store), store, path)
    return path


@pytest.fixture
def page(report: Path) -> Iterator[Page]:
    program = find_browser()
    assert program is not None
    with Page(program) as page:
        page.open(report)
        yield page
        assert page.errors == []


def test_it_opens_without_errors_and_asks_for_nothing_else(page: Page, report: Path) -> None:
    assert page.run("document.title") == "Benchmark report"
    assert page.run("document.querySelectorAll('figure .chart svg').length") == 5
    assert page.requests == [report.resolve().as_uri()]


def test_a_screen_reader_has_a_name_for_each_chart(page: Page) -> None:
    page.run("document.querySelector('[data-chart=training] select').selectedIndex = 1")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    names = [node["name"]["value"] for node in nodes if node["role"]["value"] == "image"]
    assert len(names) == 5
    assert names[0] == "NDCG@10 against SASRec: difference, 95 % interval and p"
    assert names[1] == "NDCG@10 against seconds, all"
    assert names[4] == "Training: loss"


def test_the_keyboard_stays_in_a_legend(page: Page) -> None:
    page.run("document.querySelectorAll('.legend button')[2].focus()")
    page.run("document.activeElement.click()")
    second = "[...document.querySelectorAll('.legend button')].indexOf(document.activeElement)"
    assert page.run(second) == 2
    assert page.run("document.activeElement.ariaPressed") == "false"


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_it_can_be_read_at_every_width(report: Path, width: int) -> None:
    program = find_browser()
    assert program is not None
    with Page(program, width) as page:
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        page.open(report)
        assert page.run("document.documentElement.scrollWidth") == width  # nothing is wider than the page
        p = "[...document.querySelectorAll('table.main td[data-title=p]')].map(td => td.getBoundingClientRect())"
        assert page.run(f"{p}.every(box => box.width > 0 && box.right <= {width})")
        assert page.run("[...document.querySelectorAll('figure')].every(figure => figure.querySelector('svg path'))")
        assert page.run("document.querySelectorAll('.legend').length") == 1
        assert page.run(WHOLE_WORDS) == []
        assert page.errors == []


def test_a_click_sorts_by_the_column_and_a_second_one_turns_it(page: Page) -> None:
    by_skill = sorted(SKILLS, key=lambda name: SKILLS[name])
    column = "document.querySelectorAll('table.main thead th')[{}].querySelector('button').click()"
    titles = page.run("[...document.querySelectorAll('table.main thead th')].map(th => th.textContent.trim())")
    page.run(column.format(titles.index("NDCG@10")))
    assert page.run(MODELS) == by_skill[::-1]
    page.run(column.format(titles.index("NDCG@10")))
    assert page.run(MODELS) == by_skill
    page.run(column.format(0))
    assert page.run(MODELS) == sorted(SKILLS, key=str.lower)


def test_rows_without_a_number_stay_last(page: Page) -> None:
    titles = page.run("[...document.querySelectorAll('table.main thead th')].map(th => th.textContent.trim())")
    click = f"document.querySelectorAll('table.main thead button')[{titles.index('p')}].click()"
    for _ in range(2):
        page.run(click)
        assert page.run(MODELS)[-1] == "SASRec"  # the reference has no difference to itself


def test_the_cut_off_chooses_the_columns(page: Page) -> None:
    shown = "[...document.querySelectorAll('table.main thead th')].filter(th => !th.hidden).map(th => th.textContent)"
    assert any("@10" in title for title in page.run(shown))
    assert not any("Hit@5" in title for title in page.run(shown))
    page.run("document.querySelector('input[type=radio][value=\"5\"]').click()")
    assert any("Hit@5" in title for title in page.run(shown))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_follows_the_readers_theme_and_the_button_turns_it(report: Path, theme: str) -> None:
    program = find_browser()
    assert program is not None
    with Page(program) as page:
        page.prefer(theme)
        page.open(report)
        back = "getComputedStyle(document.body).backgroundColor"
        before = page.run(back)
        assert (before == "rgb(255, 255, 255)") == (theme == "light")
        page.run("document.getElementById('theme').click()")
        assert page.run(back) != before
        assert page.errors == []


def test_another_metric_is_drawn_when_chosen(page: Page) -> None:
    figure = "document.querySelector('figure[data-chart=cuts]')"
    texts = f"[...{figure}.querySelectorAll('svg text')].map(text => text.textContent)"
    assert "NDCG@K" in page.run(texts)
    page.run(f"{figure}.querySelector('select').value = 'hit'")
    page.run(f"{figure}.querySelector('select').dispatchEvent(new Event('change'))")
    assert "Hit@K" in page.run(texts)


def test_a_click_in_the_legend_takes_a_row_out_of_all_charts(page: Page) -> None:
    drawn = "[...document.querySelectorAll('figure')].filter(f => f.querySelector('[data-label=BPR]')).length"
    assert page.run(drawn) == 5
    page.run("[...document.querySelectorAll('.legend button')].find(b => b.textContent === 'BPR').click()")
    assert page.run(drawn) == 0


def test_a_point_says_what_it_is(page: Page) -> None:
    page.run(
        "document.querySelector('figure[data-chart=price] [data-label=BPR]')"
        ".dispatchEvent(new PointerEvent('pointermove', {bubbles: true}))"
    )
    assert page.run("document.getElementById('tip').textContent").startswith("BPR\nNDCG@10 ")


def test_settings_lie_behind_a_click(page: Page) -> None:
    assert page.run("document.querySelectorAll('details.run[open]').length") == 0
    assert page.run("document.querySelectorAll('details.run').length") == 1 + len(SKILLS)
    page.run("document.querySelector('details.run').open = true; new Promise(done => setTimeout(done))")
    assert "mask_history" in page.run("document.querySelector('details.run[open]').textContent")


def test_all_pairs_lie_behind_a_click(page: Page) -> None:
    page.run("document.querySelector('details.pairs').open = true; new Promise(done => setTimeout(done))")
    assert page.run("document.querySelectorAll('details.pairs tbody tr').length") == 6
