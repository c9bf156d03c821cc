"""Ask what an LLM remembers of a dataset, before its answers are trusted.

Public datasets are in the training data of language models. Four probes ask for what none of a method's prompts shows:
the rest of a title (``title``), a user's test item without a history (``next``), the title behind an id in the file of
items (``item``), and the next row of the file of interactions (``row``). The measure is the share that is reproduced
exactly, as in Carlini et al. (ICLR 2023), Bordt et al. (COLM 2024) and Di Palma et al. (SIGIR 2025).

The chance level needs no second model: the same answers are compared with the truths of the other questions.
"""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import binomtest
from tabulate import tabulate

from recbole_llm.data.atomic import TAB, explain_row, open_text, read_header
from recbole_llm.data.interactions import token_hashes
from recbole_llm.data.split import split_identity
from recbole_llm.errors import UserError
from recbole_llm.experiments.probe_record import PROBES, ProbeRecord, Recall
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.features.items import ItemTexts, item_texts, title_key
from recbole_llm.features.prompts import Prompt, load_prompt
from recbole_llm.features.pseudonyms import REAL, pseudonymous
from recbole_llm.features.questions import ask
from recbole_llm.features.sources import AnswerSource, Ledger, chosen_endpoint
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import Script
from recbole_llm.settings.identity import hash_of
from recbole_llm.utils.environment import git_commit, now, versions
from recbole_llm.utils.text import clean, percent

SETTINGS_OF = "EIMF"  # a model that asks an LLM: its settings include those of data, protocol and questions
SHOWN_ROWS = 3  # that a prompt shows before the row that is asked for
NAMED = 5  # how many titles of an answer count for a user's next item
SHORTEST_TITLE = 6  # characters; a shorter one cannot be split into a beginning and a rest


# The docstrings of answer classes are part of their JSON schemas, and so of the keys of cached answers.
class TitleAnswer(BaseModel):
    """A title; empty where the model knows none."""

    model_config = ConfigDict(extra="ignore")

    title: str = Field(max_length=400)


class TitlesAnswer(BaseModel):
    """Titles, the likeliest first."""

    model_config = ConfigDict(extra="ignore")

    titles: list[str]


class RowAnswer(BaseModel):
    """The values of a row."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    row: list[str]


@dataclass(frozen=True)
class Probe:
    """One kind of question.

    Attributes:
        name: one of ``PROBES``.
        questions: data of each prompt, and the truth in the form in which answers are compared.
        read: from an answer, what it names, in that form.
    """

    name: str
    questions: Sequence[tuple[dict[str, Any], str]]
    read: Callable[[Any], set[str]]

    @property
    def prompt(self) -> Prompt:
        """The prompt of the probe."""
        return load_prompt(f"{__name__}:probe_{self.name}")


def probe(run: Run, runner: Runner, questions: int) -> ProbeRecord:
    """Ask an LLM what it remembers of a dataset, and record the result.

    Args:
        run: gives dataset, protocol, endpoint and titles.
        runner: reads the data; its store takes the result.
        questions: of each probe at most.

    Raises:
        UserError: there is no LLM to ask or nothing to ask about, a limit was reached, or no answer was usable.
    """
    settings = run.settings
    endpoint = chosen_endpoint(settings)
    if endpoint is None:
        raise UserError(
            "probe asks an LLM what it remembers: give --llm=NAME (recbole-llm list, docs/explanation/leaks.md)."
        )
    dataset = runner.read_dataset(run)
    probes = list(_probes(run, dataset, questions))
    if not probes:
        raise UserError(f"--dataset={run.location.name}: no titles and no file of interactions to ask about.")
    asking = runner.asking = runner.asking or AnswerSource.of(settings)  # one budget for all datasets of the command
    found: dict[str, Recall] = {}
    with ResponseCache(run.location.answers) as cache:
        ledgers = []
        for each in probes:
            ledger = Ledger(endpoint, cache, runner.bars)
            ledgers.append(ledger)
            found[each.name] = _recall(each, asking, ledger)
    usages = [ledger.usage for ledger in ledgers]
    prompts = {each.name: f"{each.prompt.version}:{each.prompt.sha256[:8]}" for each in probes}
    titles = {"titles": settings["titles"]}
    if settings["titles"] != REAL:
        titles["titles_seed"] = settings["titles_seed"]
    data = [run.location.name, run.files, dataset.reading(), settings["protocol"], split_identity(dataset.split)]
    record = ProbeRecord(
        key=hash_of([data, questions, prompts, titles, endpoint.identity]),
        dataset=run.location.name,
        protocol=settings["protocol"],
        data_sha256=dataset.sha256,
        llm=endpoint.name,
        llm_model=endpoint.model,
        **titles,
        questions=questions,
        probes=found,
        requests=sum(usage.requests for usage in usages),
        tokens_in=sum(usage.tokens_in for usage in usages),
        tokens_out=sum(usage.tokens_out for usage in usages),
        price=round(sum(usage.price for usage in usages), 6),
        prompts=prompts,
        versions=versions(),
        commit=git_commit(),
        created=now(),
    )
    runner.store.put_probe(record)
    return record


def _recall(each: Probe, asking: AnswerSource, ledger: Ledger) -> Recall:
    """Ask all questions of a probe and count.

    Raises:
        UserError: a limit was reached, or no answer was usable.
    """

    def script(number: int, counts: Counter[str]) -> Script:
        return (yield from ask(each.prompt, each.questions[number][0], each.read, counts))

    named: list[tuple[str, set[str]]] = []
    for number, answer in asking.results(ledger, list(range(len(each.questions))), script, f"probe: {each.name}"):
        if answer is not None:
            named.append((each.questions[number][1], answer))
    ledger.check_not_stopped("of this probe")
    if not named:
        raise UserError(ledger.nothing_came(f"of the probe {each.name}"))
    return recall_of(named, len(each.questions))


def recall_of(named: Sequence[tuple[str, set[str]]], asked: int) -> Recall:
    """The recall of some answers and its chance level.

    Args:
        named: for each answer the truth and what it names.
        asked: questions.
    """
    truths = Counter(truth for truth, _ in named)
    count = len(named)
    hits = sum(truth in names for truth, names in named)
    others = sum(sum(truths[name] for name in names) - (truth in names) for truth, names in named)
    pairs = count * (count - 1)
    chance = others / pairs if pairs else 0.0
    at_most = (others + 1) / (pairs + 1)  # few pairs without a match do not show that chance is 0
    interval = binomtest(hits, count).proportion_ci(0.95, "wilson")
    return Recall(
        asked=asked,
        answered=count,
        hits=hits,
        recall=hits / count,
        chance=chance,
        low=float(interval.low),
        high=float(interval.high),
        p=float(binomtest(hits, count, min(1.0, at_most), alternative="greater").pvalue),
    )


# ---- what is asked ------------------------------------------------------------------------------


def _probes(run: Run, dataset: Any, questions: int) -> Iterator[Probe]:
    """The probes for which the data have something to ask."""
    settings, table = run.settings, dataset.table
    items = item_texts(settings.values, run.location, table)
    titled = items.titled(table.item_tokens)
    items = pseudonymous(items, str(settings["titles"]), int(settings["titles_seed"]))
    about = settings.get("about")
    title = about.get("title") if isinstance(about, dict) else None
    place = {"dataset": str(title or run.location.name)}
    found = [
        Probe("title", _title_questions(items, titled, table, questions, place), _title_named),
        Probe("next", _next_questions(items, titled, dataset, questions, place), _titles_named),
        Probe("item", _item_questions(items, titled, table, questions, place), _title_named),
        Probe("row", _row_questions(run, questions, place), _row_named),
    ]
    yield from (each for each in found if each.questions)


def _sample(tokens: np.ndarray, count: int) -> list[int]:
    """Places of the tokens with the smallest hashes, ascending: a fixed sample, whatever other tokens there are."""
    order = np.argsort(token_hashes(tokens), kind="stable")[:count] if len(tokens) else np.empty(0, dtype=np.int64)
    return sorted(order.tolist())


def _form(title: str) -> str:
    """A title in the form in which answers are compared, without its year."""
    return title_key(title).rpartition(":")[0]


def _bare(title: str) -> str:
    """A title without its year and its other names."""
    head, bracket, _ = title.partition(" (")
    return head if bracket and head.strip() else title


def _title_questions(
    items: ItemTexts, titled: Sequence[int], table: Any, count: int, place: dict[str, Any]
) -> list[tuple[dict[str, Any], str]]:
    """The first half of each title's words, or of its letters if it has one word."""
    long = [item for item in titled if len(_form(items.title[item])) >= SHORTEST_TITLE]
    found = []
    for number in _sample(np.asarray(table.item_tokens)[long], count):
        title = _bare(items.title[long[number]])
        words = title.split()
        begins = " ".join(words[: len(words) // 2]) if len(words) > 1 else title[: len(title) // 2]
        found.append((place | {"begins": begins}, _form(title)))
    return found


def _next_questions(
    items: ItemTexts, titled: Sequence[int], dataset: Any, count: int, place: dict[str, Any]
) -> list[tuple[dict[str, Any], str]]:
    """Users by their ids, with the number of their interactions up to the test item: no item is shown."""
    table, cases = dataset.table, dataset.split.test
    users, first = np.unique(cases.user, return_index=True)
    rows = np.asarray(cases.target_rows)[np.asarray(cases.target_offsets)[first]]
    asked = np.isin(np.asarray(table.item)[rows], titled)
    users, rows = users[asked], rows[asked]
    found = []
    for number in _sample(np.asarray(table.user_tokens)[users], count):
        user, row = int(users[number]), int(rows[number])
        position = row - int(table.offsets[user]) + 1
        data = place | {"user": str(table.user_tokens[user]), "interactions": position}
        found.append((data, _form(items.title[int(table.item[row])])))
    return found


def _item_questions(
    items: ItemTexts, titled: Sequence[int], table: Any, count: int, place: dict[str, Any]
) -> list[tuple[dict[str, Any], str]]:
    """Rows of ids and titles in the order of ids, and the next id."""
    tokens = np.asarray(table.item_tokens)
    whole = all(token.isdecimal() for token in tokens[1:].tolist())
    order = sorted(titled, key=lambda n: (int(tokens[n]), "") if whole else (0, str(tokens[n])))
    rows = [(str(tokens[n]), items.title[n]) for n in order]
    found = []
    for number in _sample(np.array([token for token, _ in rows[SHOWN_ROWS:]]), count):
        shown = [list(row) for row in rows[number : number + SHOWN_ROWS]]
        token, title = rows[number + SHOWN_ROWS]
        found.append((place | {"rows": shown, "next_id": token}, _form(title)))
    return found


def _row_questions(run: Run, count: int, place: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Consecutive rows of the file of interactions."""
    path = run.location.file("inter")
    if path is None:
        return []
    separator = str(run.settings["field_separator"])
    columns = [column.name for column in read_header(path, separator)]
    total = sum(1 for _ in _lines(path, separator))
    free = max(0, total - SHOWN_ROWS)
    chosen = {*np.random.default_rng(0).choice(free, min(count, free), replace=False).tolist()}
    found = []
    shown: deque[list[str]] = deque(maxlen=SHOWN_ROWS)
    for number, cells in enumerate(_lines(path, separator)):
        if number - SHOWN_ROWS in chosen:
            found.append((place | {"columns": columns, "rows": [*shown]}, _row_form(cells)))
        shown.append(cells)
    return found


def _lines(path: Path, separator: str) -> Iterator[list[str]]:
    """The rows of a file as they are written: numbers keep their digits.

    Raises:
        UserError: Python's csv module cannot read a row of a CSV file.
    """
    with open_text(path) as stream:
        if TAB in next(stream, ""):
            rows = (line.rstrip("\r\n") for line in stream)
            yield from (row.split(TAB) for row in rows if row)
            return
        reader = csv.reader(stream, delimiter=separator)
        number = 2  # line of the row
        try:
            for row in reader:
                if row:
                    yield row
                number = reader.line_num + 2
        except csv.Error as error:
            raise explain_row(path, number, error) from error


# ---- what is answered ---------------------------------------------------------------------------


def _title_named(answer: TitleAnswer) -> set[str]:
    return _forms([answer.title])


def _titles_named(answer: TitlesAnswer) -> set[str]:
    return _forms(answer.titles[:NAMED])


def _forms(titles: Sequence[str]) -> set[str]:
    """The forms of some titles, each with and without what is in brackets, since an answer may have either."""
    return {form for title in map(clean, titles) for each in (title, _bare(title)) if (form := _form(each))}


def _row_named(answer: RowAnswer) -> set[str]:
    return {_row_form(answer.row)} if answer.row else set()


def _row_form(cells: Sequence[str]) -> str:
    """A row in the form in which rows are compared: ``3`` and ``3.0`` are the same number."""
    return "\t".join(_cell(cell) for cell in cells)


def _cell(cell: str) -> str:
    try:
        return f"{float(cell):.12g}"
    except ValueError:
        return cell.strip()


# ---- what is shown ------------------------------------------------------------------------------

MEANING = {
    "title": "completes titles",
    "next": f"names a user's test item among {NAMED}, without a history",
    "item": "knows the title behind an id",
    "row": "recites the next row of interactions",
}


def render_probes(records: Sequence[ProbeRecord]) -> str:
    """The table of some probes."""
    header = ["dataset", "LLM", "titles", "probe", "asked", "answered", "recall", "95 %", "chance", "p"]
    lines = []
    for record in records:
        for name in PROBES:
            found = record.probes.get(name)
            if found is None:
                continue
            interval = f"[{percent(found.low)}, {percent(found.high)}]"
            shares = [percent(found.recall), interval, percent(found.chance), f"{found.p:.3g}"]
            head = [record.dataset, record.llm_model, record.titles, MEANING[name]]
            lines.append([*head, f"{found.asked:,}", f"{found.answered:,}", *shares])
    text = tabulate(lines, header, disable_numparse=True, colalign=("left",) * 4 + ("right",) * 6)
    notes = ["chance: how often the same answers fit the other questions; p: as many hits by that chance"]
    spent = sum(record.price for record in records)
    return "\n".join([text, "", *notes, *([f"US$ {spent:.4f}"] if spent else [])])
