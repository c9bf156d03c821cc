"""Finished runs in an experiment tracker: ``--track=wandb|mlflow|trackio|tensorboard``.

A run is sent when its record arrives in the driver, wherever it was trained, so that workers need no tracker and no
account. Its settings, curves, metrics and costs come from the record, which is attached as a file. Runs that differ
only in the seed share a group. Trials of a search are not sent, as they are kept in the search's own storage; the tuned
runs are.

Each tracker is configured by its own variables (``MLFLOW_TRACKING_URI``, ``WANDB_MODE``, ``TRACKIO_DIR``, ...) and
handles its own keys. If a tracker fails, there is one warning, and the runs continue.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from recbole_llm.errors import UserError, check_choice
from recbole_llm.experiments.record import Record, loss_of
from recbole_llm.experiments.store import ResultStore
from recbole_llm.llm.address import redact
from recbole_llm.settings.definitions import definitions_of_name
from recbole_llm.settings.identity import hash_of, identity
from recbole_llm.utils.text import one_line

logger = logging.getLogger(__name__)

PROJECT = "recbole_llm"
MLFLOW_PARAMETERS, MLFLOW_LENGTH = 100, 500  # most parameters of a call, most characters of a value


class Tracker(Protocol):
    """One tracker; its library is imported when the object is made."""

    def log(self, name: str, group: str, record: Record, path: Path) -> None:
        """Send a finished run.

        Args:
            name: of the run.
            group: name shared by runs that differ only in the seed.
            record: of the run.
            path: its file.
        """


class Tracking:
    """Sends records to a tracker, without letting its failures end a run.

    Args:
        tracker: where they go.
        store: where their files lie.
    """

    def __init__(self, tracker: Tracker, store: ResultStore) -> None:
        self._tracker, self._store, self._failed = tracker, store, False

    def __call__(self, record: Record) -> None:
        """Send a record of a run that succeeded."""
        if record.status != "ok":
            return
        name = f"{record.model}-s{record.seed}-{record.key}"
        try:
            # Trackers print to the screen, which belongs to the command line.
            with contextlib.redirect_stdout(io.StringIO()):
                self._tracker.log(name, group_of(record), record, self._store.path(record))
        except Exception as error:
            logger.debug("tracking %s", name, exc_info=error)
            if not self._failed:
                why = redact(one_line(error, 300))
                logger.warning("the tracker failed (%s: %s); runs and records go on", type(error).__name__, why)
            self._failed = True


def open_tracking(name: str | None, store: ResultStore) -> Tracking | None:
    """A tracker by its name; ``None`` where none is named.

    Raises:
        UserError: an unknown name, or a library that is not installed.
    """
    if name is None:
        return None
    check_choice("--track", name, TRACKERS)
    try:
        return Tracking(TRACKERS[name](), store)
    except ImportError as error:
        raise UserError(
            f"--track={name}: its library is missing ({error.name}); pip install 'recbole-llm[{name}]'."
        ) from error


def group_of(record: Record) -> str:
    """A name shared by runs that differ only in the seed."""
    definitions = definitions_of_name(record.model, record.settings.get("backbone"))
    own = {key: v for key, v in identity(record.settings, definitions, record.model).items() if key != "seed"}
    return f"{record.model}-{record.dataset}-{record.protocol}-{hash_of([own, record.source, record.reads])[:8]}"


# ---- what is sent ----------------------------------------------------------------------------------


def parameters(record: Record) -> dict[str, Any]:
    """Settings, hardware and versions, without anything that looks like a secret key."""
    found = {
        "model": record.model, "dataset": record.dataset, "protocol": record.protocol, "seed": record.seed,
        "semantics": record.source, "key": record.key, "tuned": record.tuned,
        **{f"settings/{name}": value for name, value in sorted(record.settings.items())},
        **{f"hardware/{name}": value for name, value in record.hardware.items()},
        **{f"version/{name}": value for name, value in record.versions.items()},
    }  # fmt: skip
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact(value if isinstance(value, str) else json.dumps(value, default=str))


def summary(record: Record) -> dict[str, float]:
    """Test metrics, best validation metrics and costs."""
    found = {f"test/{name}": metric.value for name, metric in (record.metrics | record.list_metrics).items()}
    found |= {f"best_valid/{name}": value for name, value in record.valid_metrics.items()}
    found |= {f"seconds/{name}": value for name, value in record.seconds.items()}
    if record.features is not None:
        found |= {"price": record.features.price, "requests": float(record.features.requests)}
    return found


def curve(record: Record) -> Iterator[tuple[int, dict[str, float]]]:
    """Loss and validation metrics of each epoch."""
    for number, point in enumerate(record.curve, start=1):
        loss = loss_of(point)
        found = {f"valid/{name}": value for name, value in point.get("valid", {}).items() if value is not None}
        if loss is not None:
            found["train/loss"] = loss
        yield int(point.get("epoch", number)), found


# ---- trackers: each library is an extra, imported where it was asked for ---------------------------


class WandbTracker:
    """Weights & Biases."""

    def __init__(self) -> None:
        self._wandb = importlib.import_module("wandb")

    def log(self, name: str, group: str, record: Record, path: Path) -> None:
        """Send a finished run."""
        settings = self._wandb.Settings(console="off", silent=True)
        run = self._wandb.init(
            project=PROJECT, name=name, group=group, config=parameters(record), settings=settings, reinit="create_new"
        )
        try:
            for epoch, values in curve(record):
                run.log(values, step=epoch)
            run.summary.update(summary(record))
            artifact = self._wandb.Artifact(f"record-{record.key}", type="record")
            artifact.add_file(str(path))
            run.log_artifact(artifact)
        finally:
            run.finish()


class MlflowTracker:
    """MLflow; its names cannot contain ``@``, so ``ndcg@10`` becomes ``ndcg_at_10``."""

    def __init__(self) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._entities = importlib.import_module("mlflow.entities")

    def log(self, name: str, group: str, record: Record, path: Path) -> None:
        """Send a finished run."""
        client, entities = self._mlflow.MlflowClient(), self._entities
        found = client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else client.create_experiment(PROJECT)
        run = client.create_run(experiment, run_name=name, tags={"group": group}).info
        try:
            values = [
                entities.Param(self._name(key), str(value)[:MLFLOW_LENGTH]) for key, value in parameters(record).items()
            ]
            for part in _parts(values, MLFLOW_PARAMETERS):
                client.log_batch(run.run_id, params=part)
            points = [*curve(record), (record.epochs or 0, summary(record))]
            metrics = [
                entities.Metric(self._name(key), value, run.start_time, epoch)
                for epoch, some in points for key, value in some.items()
            ]  # fmt: skip
            for part in _parts(metrics, 1000):
                client.log_batch(run.run_id, metrics=part)
            client.log_artifact(run.run_id, str(path))
        except BaseException:
            client.set_terminated(run.run_id, "FAILED")
            raise
        client.set_terminated(run.run_id)

    @staticmethod
    def _name(key: str) -> str:
        return key.replace("@", "_at_")


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


class TrackioTracker:
    """Trackio."""

    def __init__(self) -> None:
        self._trackio = importlib.import_module("trackio")

    def log(self, name: str, group: str, record: Record, path: Path) -> None:
        """Send a finished run."""
        trackio = self._trackio
        trackio.init(project=PROJECT, name=name, group=group, config=parameters(record))
        try:
            for epoch, values in curve(record):
                trackio.log(values, step=epoch)
            trackio.log(summary(record), step=(record.epochs or 0) + 1)
            trackio.log_artifact(path, name=f"record-{record.key}", type="record")
        finally:
            trackio.finish()


class TensorboardTracker:
    """TensorBoard, whose event files go to ``log_tensorboard/GROUP/RUN/``; its library comes with RecBole."""

    def __init__(self) -> None:
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter

    def log(self, name: str, group: str, record: Record, path: Path) -> None:
        """Write a finished run."""
        folder = Path("log_tensorboard") / _folder(group) / _folder(name)
        with self._writer(str(folder)) as writer:
            for key, value in parameters(record).items():
                writer.add_text(key, str(value))
            for epoch, values in curve(record):
                for key, value in values.items():
                    writer.add_scalar(key, value, epoch)
            for key, value in summary(record).items():
                writer.add_scalar(key, value, record.epochs or 0)
        shutil.copyfile(path, folder / path.name)


def _folder(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


TRACKERS: dict[str, type[WandbTracker | MlflowTracker | TrackioTracker | TensorboardTracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
    "tensorboard": TensorboardTracker,
}
