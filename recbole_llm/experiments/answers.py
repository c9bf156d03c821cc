"""The verb ``answers``: take what is published, publish, verify."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.errors import UserError
from recbole_llm.experiments.generate import cache_of, collect, prompts_of
from recbole_llm.experiments.published import open_store
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.features.builder import chosen_endpoint
from recbole_llm.features.sources import BatchCollector
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.endpoint import redact
from recbole_llm.llm.store import INDEX, publish, publish_table
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.text import counted


def pull(runs: Sequence[Run], runner: Runner) -> str:
    """Take the answers that some runs need from their store (``answers``) into the caches of their datasets.

    Returns:
        A line about it.

    Raises:
        UserError: the runs ask no LLM, or a file of the store is not what its index says.
    """
    if any(chosen_endpoint(run.settings, asks=False) is None for run in runs):
        raise UserError("answers pull takes answers of one source: name it with --llm.")
    asking, before = BatchCollector(), _count(runs)
    waiting = collect(runs, runner, asking)
    taken = _count(runs) - before
    tables = _bring_tables(runs)
    rest = f"; {len(asking.pending):,} questions have no answer there" if waiting else "; nothing is missing"
    return f"{redact(str(runs[0].settings['answers']))}: {taken:,} answers taken in{rest}{tables}"


def _bring_tables(runs: Sequence[Run]) -> str:
    """Bring the tables of candidates of the runs' datasets here; how they are used, empty where there are none."""
    used = ""
    folders = {run.location.name: run.location.semantics for run in runs if run.settings.method.stage_one}
    if not folders:
        return used
    with tempfile.TemporaryDirectory(prefix="recbole-llm-answers-") as scratch:
        store = open_store(str(runs[0].settings["answers"]), Path(scratch))
        for entry in store.index.tables:
            if entry.dataset in folders:
                target = folders[entry.dataset] / entry.name
                with whole_file(target) as stream:
                    stream.write(store.file(entry).read_bytes())
                used += f"; --candidate_table={target} takes their candidates"
    return used


def _count(runs: Sequence[Run]) -> int:
    """Answers in the caches of some runs' datasets."""
    count = 0
    for path in {run.location.answers for run in runs}:
        with ResponseCache(path) as cache:
            count += len(cache)
    return count


def push(runs: Sequence[Run], folder: Path, licence: str) -> str:
    """Write the answers to the runs' prompts into the folder of a store; a line about it.

    Raises:
        UserError: there are none, or no source is named.
    """
    endpoint = chosen_endpoint(runs[0].settings, asks=False)
    if endpoint is None:
        raise UserError("answers push writes answers of one source: name it with --llm.")
    with cache_of(runs) as cache:
        written = publish(cache, folder, endpoint, prompts_of(runs), licence)
    if not written:
        raise UserError("there are no such answers to publish.")
    tables = {Path(run.settings["candidate_table"]) for run in runs if run.settings.get("candidate_table")}
    for table in sorted(tables):
        publish_table(table, folder, runs[0].location.name)
    size = sum(entry.bytes for entry in written)
    return f"{folder}: {sum(entry.answers for entry in written):,} answers in {len(written)} files, {size:,} bytes"


def verify(address: str) -> str:
    """Check a store, file by file and line by line; a line about it.

    Raises:
        UserError: something is not what its index says.
    """
    with tempfile.TemporaryDirectory(prefix="recbole-llm-answers-") as scratch:
        store = open_store(address, Path(scratch))
        count = store.verify()
    found = len(store.index.tables)
    tables = f" and {counted(found, 'table')}" if found else ""
    return f"{redact(address)}: {count:,} answers in {len(store.index.files)} files{tables}, all as {INDEX} says"
