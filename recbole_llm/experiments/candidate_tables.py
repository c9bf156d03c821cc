"""Tables of candidates that are exported with the answers about them.

The questions of LLM-DMsRec contain candidates of a trained model. Trained on another machine, that model does not
repeat its scores to the last bit, so its questions may differ. There, answers are of use only with the table of the
candidates that they are about.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.errors import UserError
from recbole_llm.experiments.candidate_model import read_candidates
from recbole_llm.experiments.generate import feature_builders
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.features.sources import DryRun
from recbole_llm.llm.store import packed_table, table_name
from recbole_llm.settings.rules import features_read
from recbole_llm.utils.files import whole_file

SUFFIX = "candidates"


def tables_of(runs: Sequence[Run], runner: Runner) -> list[bytes]:
    """The gzipped tables of candidates that some runs' questions are about; nothing is trained for them.

    A run's table is the one in ``candidate_table``, else the one that its features were made from here.
    """
    found: dict[bytes, None] = {}
    made_here = []
    for run in runs:
        settings = run.settings
        if settings.get("candidate_table"):
            found.setdefault(packed_table(Path(settings["candidate_table"])))
        elif settings["semantics"] != "none" and settings.method.stage_one:
            made_here += [run] if features_read(settings.method, settings.values) else []
    if made_here:
        for builder in feature_builders(made_here, runner, DryRun()):
            if builder.folder.has(SUFFIX):
                found.setdefault(packed_table(builder.folder.file(SUFFIX)))
            if builder.scratch is not None:
                builder.scratch.cleanup()
    return list(found)


def export_tables(runs: Sequence[Run], runner: Runner, answers: Path) -> list[Path]:
    """Write the tables beside a file of exported answers, each named by its hash."""
    paths = []
    for data in tables_of(runs, runner):
        paths.append(answers.with_name(table_name(_stem(answers), data)))
        with whole_file(paths[-1]) as stream:
            stream.write(data)
    return paths


def tables_beside(runs: Sequence[Run], answers: Path) -> list[bytes]:
    """The tables, gzipped, beside a file of exported answers.

    Raises:
        UserError: the hash of a table is not the one in its name.
    """
    found = []
    if any(run.settings.method.stage_one for run in runs):
        for path in sorted(answers.parent.glob(f"{glob.escape(_stem(answers))}.*.{SUFFIX}.gz")):
            data = path.read_bytes()
            if path.name != table_name(_stem(answers), data):
                raise UserError(
                    f"{path} is not the table that was exported: its hash is another. Nothing was taken in."
                )
            found.append(data)
    return found


def bring(tables: Iterable[bytes], location: DatasetLocation) -> list[Path]:
    """Put gzipped tables that may come from strangers into the folder of a dataset; returns their paths.

    They get new names from their hashes, since a name chosen by a stranger could replace an existing file.

    Raises:
        UserError: one of them is no table of candidates; it is not kept.
    """
    paths = []
    for data in tables:
        path = location.semantics / table_name(location.name, data)
        with tempfile.TemporaryDirectory(prefix="recbole-llm-table-") as scratch:
            look = Path(scratch) / path.name
            look.write_bytes(data)
            read_candidates(look)
        with whole_file(path) as stream:
            stream.write(data)
        paths.append(path)
    return paths


def told_tables(paths: Iterable[Path]) -> str:
    """How to use tables, as the end of a message; empty if there are none."""
    return "".join(f"; --candidate_table={path} takes their candidates" for path in paths)


def _stem(answers: Path) -> str:
    """``mine`` of ``mine.jsonl.gz``."""
    name = answers.name
    for suffix in (".gz", ".xz", ".jsonl", ".json"):
        name = name.removesuffix(suffix)
    return name or answers.name
