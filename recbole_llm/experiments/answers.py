"""The verb ``answers``: take in published answers, publish answers, verify a store."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.errors import UserError
from recbole_llm.experiments.candidate_tables import bring, tables_of, told_tables
from recbole_llm.experiments.generate import cache_of, collect, prompts_of
from recbole_llm.experiments.published import open_store
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.features.sources import BatchCollector, chosen_endpoint
from recbole_llm.llm.address import redact
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.store import INDEX, publish, publish_table
from recbole_llm.utils.text import counted


def pull(runs: Sequence[Run], runner: Runner) -> str:
    """Take the answers that some runs need from their store (``answers``) into the caches of their datasets.

    A run that names no ``candidate_table`` asks about the candidates of the store's table, if it has one: with those of
    a model trained here the questions would differ.

    Returns:
        One line that says what was taken.

    Raises:
        UserError: the runs ask no LLM, or a file of the store is not what its index says.
    """
    if any(chosen_endpoint(run.settings, asks=False) is None for run in runs):
        raise UserError("answers pull takes answers of one source: name it with --llm.")
    tables = _bring_tables(runs)
    asking, before = BatchCollector(), _count(runs)
    waiting = collect([_with_table(run, tables.get(run.location.name, [])) for run in runs], runner, asking)
    taken, left = _count(runs) - before, len(asking.pending)
    lacking = f"{counted(left, 'question')} {'has' if left == 1 else 'have'} no answer there"
    rest = f"; {lacking}" if waiting else "; nothing is missing"
    used = told_tables(path for paths in tables.values() for path in paths)
    return f"{redact(str(runs[0].settings['answers']))}: {counted(taken, 'answer')} taken in{rest}{used}"


def _bring_tables(runs: Sequence[Run]) -> dict[str, list[Path]]:
    """Download the tables of candidates of the runs' datasets; returns their paths by dataset."""
    places = {run.location.name: run.location for run in runs if run.settings.method.stage_one}
    found: dict[str, list[Path]] = {}
    if places:
        with tempfile.TemporaryDirectory(prefix="recbole-llm-answers-") as scratch:
            store = open_store(str(runs[0].settings["answers"]), Path(scratch))
            for entry in store.index.tables:
                if entry.dataset in places:
                    table = store.file(entry).read_bytes()
                    found.setdefault(entry.dataset, []).extend(bring([table], places[entry.dataset]))
    return found


def _with_table(run: Run, tables: Sequence[Path]) -> Run:
    """The run with the table of candidates that came with the answers, if it names none itself.

    Raises:
        UserError: there are several tables.
    """
    if not tables or not run.settings.method.stage_one or run.settings.get("candidate_table"):
        return run
    if len(tables) > 1:
        raise UserError(
            f"the store has {len(tables)} tables of candidates for {run.location.name}, which are here now: name one "
            f"with --candidate_table={' or '.join(map(str, tables))}."
        )
    return Run(run.settings.replaced(candidate_table=str(tables[0])), run.location, run.search)


def _count(runs: Sequence[Run]) -> int:
    """Answers in the caches of some runs' datasets."""
    count = 0
    for path in {run.location.answers for run in runs}:
        with ResponseCache(path) as cache:
            count += len(cache)
    return count


def push(runs: Sequence[Run], runner: Runner, folder: Path, licence: str) -> str:
    """Write the answers to the runs' prompts, and the candidates they are about, into the folder of a store.

    All of the model's answers to these prompts are written, whatever the settings were when they were asked for.

    Returns:
        One line that says what was written.

    Raises:
        UserError: there are no answers, or no source is named.
    """
    endpoint = chosen_endpoint(runs[0].settings, asks=False)
    if endpoint is None:
        raise UserError("answers push writes answers of one source: name it with --llm.")
    with cache_of(runs) as cache:
        written = publish(cache, folder, endpoint, prompts_of(runs), licence)
        rows = (row for entry in written for row in cache.rows(entry.prompt, entry.model))
        servers = sorted({row["request"].get("settings", {}).get("server", "") for row in rows} - {""})
    if not written:
        raise UserError("there are no such answers to publish.")
    tables = [publish_table(data, folder, runs[0].location.name) for data in tables_of(runs, runner)]
    size = sum(entry.bytes for entry in (*written, *tables))
    count = sum(entry.answers for entry in written)
    beside = f" and {counted(len(tables), 'table')} of candidates" if tables else ""
    named = f"; they name the server that answered: {', '.join(servers)}" if servers else ""
    whole = f"all of {endpoint.model} to {', '.join(entry.prompt for entry in written)}"
    files = f"{counted(len(written), 'file')}{beside}, {size:,} bytes"
    return f"{folder}: {counted(count, 'answer')} ({whole}) in {files}{named}"


def verify(address: str) -> str:
    """Check a store, file by file and line by line; returns one line about it.

    Raises:
        UserError: something is not what its index says.
    """
    with tempfile.TemporaryDirectory(prefix="recbole-llm-answers-") as scratch:
        store = open_store(address, Path(scratch))
        count = store.verify()
    index = store.index
    held = [f"{counted(count, 'answer')} in {counted(len(index.files), 'file')}"]
    held += [counted(len(index.tables), "table")] if index.tables else []
    held += [f"{counted(sum(each.questions for each in index.pending), 'open question')}"] if index.pending else []
    return f"{redact(address)}: {', '.join(held)}, all as {INDEX} says"
