"""Run one row of a submission again and compare."""

from __future__ import annotations

import logging
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_llm.data.catalog import locate
from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.names import metric_title, parse_metric
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.rerun import rerun_command
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.submission import Entry, Submission
from recbole_llm.registry import methods, recbole_methods
from recbole_llm.settings.layers import parse_assignment
from recbole_llm.utils.progress import Bars

logger = logging.getLogger(__name__)

# Settings of a foreign record that could make a run read a file, load other code, or pay for requests. So could those
# that end in _path: RecBole unpickles the weights that they name, or warm_up.
_REACH_OUT = (
    *("warm_up", "xgb_model", "additional_feat_suffix", "benchmark_filename"),
    *("llm", "llm_model", "encoder", "lm"),
)


@dataclass(frozen=True)
class Verified:
    """A row that was run again.

    Attributes:
        record: as submitted.
        again: record of the run here.
        largest: largest difference of a metric between the two.
        metric: the metric with that difference.
    """

    record: Record
    again: Record
    largest: float
    metric: str

    def __str__(self) -> str:
        record = self.record
        found = f"largest difference {self.largest:.2g} ({self.metric})" if self.largest else "every metric is the same"
        return f"{record.label} on {record.dataset} ({record.protocol}, seed {record.seed}): {found}"


def verify(submission: Submission, dataset_dir: Path) -> Verified:
    """Run the cheapest row again that asks no LLM and needs no external code.

    Raises:
        UserError: there is no such row, it fails, or a metric differs by more than its standard error over the test
            cases. The same code on another processor may differ in the last digits, and in more after long trainings.
    """
    entry = min(
        _candidates(submission, dataset_dir),
        key=lambda each: each.record.seconds.get("total", float("inf")),
        default=None,
    )
    if entry is None:
        raise UserError(
            f"{submission.name}: no row can be run again here: its datasets are not in {dataset_dir}/, or all rows ask "
            "an LLM or need code or files from outside."
        )
    record = entry.record
    again = _again(record, dataset_dir)
    if again.status != "ok":
        raise UserError(f"{record.label}, seed {record.seed} failed when it was run again: {again.error}")
    ranks = Ranks.load(entry.ranks)
    differences = {name: abs(again.metrics[name].value - metric.value) for name, metric in record.metrics.items()}
    for name, difference in differences.items():
        values = per_case(ranks, name)
        if difference > float(values.std()) / np.sqrt(len(values)):
            raise UserError(
                f"{record.label}, seed {record.seed}: {name} was handed in as {record.metrics[name].value:.4f} and "
                f"came out as {again.metrics[name].value:.4f}, further apart than its standard error."
            )
    worst = max(differences, key=lambda name: differences[name])
    return Verified(record, again, differences[worst], worst)


def _candidates(submission: Submission, dataset_dir: Path) -> list[Entry]:
    known = {**recbole_methods(), **methods()}
    found = []
    for entry in submission.entries:
        record = entry.record
        row = known.get(record.model)
        if row is None or row.features or record.features is not None or record.lists is not None:
            continue
        if record.tuned and record.trials is None:
            continue
        words = {word.partition("=")[0].lstrip("-") for word in _words(record)}
        if not any(_reaches_out(word) for word in words) and _has_data(record, dataset_dir):
            found.append(entry)
    return found


def _reaches_out(setting: str) -> bool:
    return setting in _REACH_OUT or setting.endswith("_path")


def _has_data(record: Record, dataset_dir: Path) -> bool:
    """Whether the dataset is here; its files are compared later."""
    try:
        locate(record.dataset, None, str(dataset_dir))
    except UserError:
        return False
    return True


def _words(record: Record) -> list[str]:
    """The arguments of the command that runs a record again."""
    return shlex.split(rerun_command([record]))[3:]


def _again(record: Record, dataset_dir: Path) -> Record:
    """The record of a new run in a temporary folder."""
    given = dict(parse_assignment(word[2:]) for word in _words(record))
    # The command omits these settings, since they do not change the training. All metrics of the record are compared,
    # which need not be those of its settings: others follow from its ranks too.
    parsed = [parse_metric(name) for name in record.metrics]
    given["metrics"] = list(dict.fromkeys(metric_title(name) for name, _ in parsed))
    given["topk"] = sorted({cut for _, cut in parsed if cut}) or [1]
    model, dataset, protocol, seeds = (given.pop(name) for name in ("model", "dataset", "protocol", "seeds"))
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        given |= {"dataset_dir": str(dataset_dir), "results_dir": folder, "checkpoint_dir": str(Path(folder) / "saved")}
        (run,) = expand(model, dataset, protocol, seeds, None, (), given)
        if record.data is not None and record.data.files and run.files != record.data.key_files():
            raise UserError(f"{record.dataset} here has other files than those that {record.label} was run on.")
        logger.info("running %s again", run.title())
        return Runner(ResultStore(folder), Bars(False), force=True).run(run)
