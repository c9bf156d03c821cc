"""Documentation tables of seconds, memory and prices agree with the kept measurements and with a dry run."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from recbole_llm import generate
from tests.test_tables_of_docs import tables

ROOT = Path(__file__).parents[1]


def tables_of(page: str) -> dict[tuple[str, ...], list[list[str]]]:
    """Rows of a page's tables, keyed by the first two header cells."""
    return {tuple(head[:2]): rows for head, *rows in tables((ROOT / f"docs/{page}.md").read_text(encoding="utf-8"))}


TABLES = tables_of("explanation/speed")


def measured(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}-cpu.json").read_text(encoding="utf-8"))["results"]


def by_model(name: str) -> dict[str, dict[str, Any]]:
    return {each["model"]: each for each in measured(name)}


def shows(text: str, value: float) -> bool:
    """Whether a printed number equals a value rounded to the printed digits."""
    text = text.removesuffix("x").replace(",", "")
    digits = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.501 * 10**-digits


def test_seconds_of_a_training_step() -> None:
    rows, name = TABLES["data", "model"], ""
    assert len(rows) == 6
    for data, model, shipped, off, here, to_shipped, to_off in rows:
        name = {"Beauty, history 50": "train-beauty", "ml-100k, history 20": "train-ml-100k"}.get(data, name)
        found = by_model(name)[model.partition(",")[0]]
        seconds = found["seconds_per_step"]
        assert shows(shipped, seconds["shipped"])
        assert shows(off, seconds["plain"])
        assert shows(here, seconds["ours"])
        assert shows(to_shipped, found["ratio_to_shipped"])
        assert shows(to_off, found["ratio_to_plain"])


def test_where_the_time_of_a_step_goes() -> None:
    rows = TABLES["model", "matrix products"]
    found = by_model("shares-beauty")
    assert [model for model, *_ in rows] == [*found]
    for model, *cells in rows:
        each = found[model]
        values = [*each["shares"].values(), *each["recbole"].values(), *each["ours"].values()]
        for cell, value in zip(cells, values, strict=True):
            assert shows(cell.removesuffix(" %"), 100 * value if cell.endswith("%") else value)


def test_steps_of_models_that_recbole_lacks() -> None:
    rows, found = TABLES["model", "s a step"], by_model("train-multi-interest-ml-100k")
    assert {row[0] for row in rows} == {*found}
    for model, step, epoch, recbole, ratio in rows:
        assert shows(step, found[model]["seconds_per_step"]["ours"])
        assert shows(epoch, found[model]["seconds_per_epoch"]["ours"])
        assert shows(recbole, found[model]["seconds_per_step"]["plain"])
        assert shows(ratio, found[model]["ratio_to_plain"])


def test_seconds_of_a_full_evaluation() -> None:
    rows, found = TABLES["model", "RecBole"], by_model("evaluate-beauty")
    assert {row[0] for row in rows} == {*found}
    for model, recbole, here, ratio, largest in rows:
        assert shows(recbole, found[model]["seconds"]["recbole"])
        assert shows(here, found[model]["seconds"]["ours"])
        assert shows(ratio, found[model]["ratio"])
        assert float(largest) == pytest.approx(found[model]["largest_difference_of_metrics"], rel=0.13)


def test_users_a_second_of_decoding() -> None:
    rows = tables_of("explanation/methods")["decoding", "users a second"]
    found = {each["decoding"]: each for each in measured("decoding-ml-100k")["rows"]}
    assert [way for way, *_ in rows] == [*found]
    for way, users, ranks, lists in rows:
        assert shows(users, found[way]["users per second"])
        assert shows(ranks.removesuffix(" %"), 100 * found[way]["ranks to 20 as exact"])
        # The search for ranks only yields no lists to compare.
        assert (
            lists == ""
            if way == "bounded, ranks"
            else shows(lists.removesuffix(" %"), 100 * found[way]["top 10 as exact"])
        )


def test_seconds_to_the_first_batch() -> None:
    for (_, recbole, first, second), name in zip(
        TABLES["interactions", "RecBole"], ("load-gen-1m", "load-gen-10m"), strict=True
    ):
        seconds = {path: median(each["seconds"] for each in starts) for path, starts in measured(name).items()}
        assert shows(first.partition(" ")[0], seconds["fresh"])
        assert shows(second, seconds["cached"])
        assert recbole == "not run" if "recbole" not in seconds else shows(recbole, seconds["recbole"])


def test_seconds_of_similar_items() -> None:
    (row,) = TABLES["users", "items"]
    found = {each["task"]: each for each in measured("similar-items-generated")}
    seconds = {task: each["processor_seconds"] for task, each in found.items()}
    assert found["here"]["crc32"] == found["recbole"]["crc32"]
    values = [seconds["recbole"], seconds["here"], seconds["recbole"] / seconds["here"]]
    values += [found["recbole"]["mib"], found["here"]["mib"]]
    assert all(shows(cell, value) for cell, value in zip(row[2:], values, strict=True))


def test_validation_of_the_numbers_of_items() -> None:
    (rows,) = (rows for head, rows in tables_of("explanation/methods").items() if head[0] == "--item_numbers=")
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in ROOT.glob("results/item-numbers/ml-100k/loo/ISRF-*.json")
    ]
    found = {(each["settings"]["item_numbers"], each["semantics"]): each["valid_metrics"] for each in records}
    assert len(rows) == 4
    for name, _, value in rows:
        name = name.removesuffix(" (default)")
        assert shows(value, found[name, "llm" if name == "semantic" else "none"]["ndcg@10"])


def test_curves_of_validation() -> None:
    found, model = by_model("curves-ml-100k"), ""
    for name, engine, *values in TABLES["", "engine"]:
        model = name or model
        key = {"RecBole": "recbole", "here": "ours"}[engine]
        assert all(shows(text, each[key]) for text, each in zip(values, found[model]["epochs"], strict=True))


def test_memory_and_seconds_of_losses() -> None:
    found = {each["loss"]: each for each in measured("losses-1000000-items")}
    rows = tables_of("explanation/methods")["loss", "seconds"]
    assert len(rows) == len(found) - 1  # "vectors" is the baseline that the others' memory is counted above
    for loss, seconds, further in rows:
        name = loss.replace("shared negatives", "shared").replace("negatives of each target", "per target")
        assert shows(seconds, found[name]["seconds"])
        assert shows(further, found[name]["mib"] - found["vectors"]["mib"])


def test_seconds_and_memory_of_clusters() -> None:
    rows = tables_of("explanation/methods")["", "users"]
    for (_, users, seconds, peak, result, similarity), each in zip(rows, measured("clusters-beauty"), strict=True):
        assert shows(users, each["users"])
        assert shows(seconds, each["seconds"])
        assert shows(peak, each["mib"])
        assert result.split()[0] == each["result"].split()[0]
        assert similarity == "-" or shows(similarity.split()[0], each["net_similarity"])


@pytest.mark.landing  # slow: encodes all histories and films
@pytest.mark.parametrize("method", ["EIMF", "LDMI", "ISRF"])
def test_what_answers_about_ml_100k_cost(method: str, workspace: Path) -> None:
    (wanted,) = (row for row in tables_of("howto/prices")["method", "questions"] if row[0] == method)
    text = generate(model=method, dataset="ml-100k", llm="gpt-4o-mini", dry_run=True)
    lines = [line.split()[-5:] for line in text.splitlines() if line.startswith("ml-100k")]
    requests, _, tokens_in, tokens_out, _ = (
        sum(float(value.replace(",", "")) for value in column) for column in zip(*lines, strict=True)
    )
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert [f"{value:,.0f}" for value in (requests, tokens_in, tokens_out)] == wanted[1:4]
    assert f"{wanted[4]} US$" in total
