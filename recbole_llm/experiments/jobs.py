"""Runs as jobs of an executor, and the files that are sent with those that leave this machine."""

from __future__ import annotations

import getpass
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import gethostname
from typing import Any

from recbole_llm.data.parts import PARTS
from recbole_llm.errors import UserError
from recbole_llm.execution.base import Executor
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.lookup import find_feature
from recbole_llm.features.vectors import files_of
from recbole_llm.settings.identity import BY_CONTENTS
from recbole_llm.settings.rules import SEMANTIC_KEYS, features_read
from recbole_llm.utils.files import whole_file

# Settings that name the user's files.
GIVEN_FILES = ("profiles", "vectors", "lists", "candidate_table", *PARTS)
# Settings that may name a model's folder or file, which is too large to be sent.
LOCAL_MODELS = ("encoder", "lm", "pre_model_path")


def run_job(run: Run, results: str, force: bool, ahead: dict[str, float]) -> Record:
    """Make the record of a run in a worker that shares the driver's folders; ``ahead`` as for :func:`run_job_away`."""
    runner = Runner(ResultStore(results), force=force, asks_again=False)
    runner.ahead[run.key] = ahead
    return runner.run(run)


def run_job_away(
    run: Run,
    payload: Payload,
    chosen: Mapping[str, bytes] | None = None,
    ahead: dict[str, float] | None = None,
) -> dict[str, bytes]:
    """Make the record of a run where the driver's files may be missing; returns the record's files.

    Args:
        run: what to run.
        payload: the files that it reads.
        chosen: for a refit, the file of the record that chose its epochs, by its path in the results folder.
        ahead: seconds by phase of features that the driver made for this run.
    """
    with payload.unpacked(run) as (run, results):
        store = ResultStore(results)  # empty, so that only the record that chose the epochs counts as made
        if chosen:
            store.unpack(chosen)
        runner = Runner(store, asks_again=False)
        runner.ahead[run.key] = ahead or {}
        return store.pack(runner.run(run))


def features_of(run: Run, runner: Runner) -> tuple[Any, ...]:
    """Identifies the semantic features of a run: equal for two runs that read the same."""
    method = run.settings.method
    keys = [*SEMANTIC_KEYS, *(key for feature in map(find_feature, method.features) for key in feature.settings_keys)]
    stage = runner.candidate_run(run).key if method.stage_one else None
    values = [str(run.settings.get(key)) for key in keys]
    read = features_read(method, run.settings.values)
    return run.location.name, run.settings["protocol"], method.features, read, stage, *values


def make_features(runs: Sequence[Run], runner: Runner) -> dict[str, str]:
    """Make the semantic features of all runs, each once, before the runs are spread over workers.

    Returns:
        By the keys of runs whose features cannot be made, the reason.

    Raises:
        UserError: the features of the only run cannot be made.
    """
    made: dict[tuple[Any, ...], str] = {}
    for run in runs:
        if run.settings["semantics"] == "none":
            continue
        features = features_of(run, runner)
        if features not in made:
            try:
                runner.make_features(run)
                made[features] = ""
            except UserError as error:
                if len(runs) == 1:
                    raise
                made[features] = str(error)
    reasons = {run.key: made[features_of(run, runner)] for run in runs if run.settings["semantics"] != "none"}
    return {key: reason for key, reason in reasons.items() if reason}


@dataclass(frozen=True)
class Payload:
    """What a run reads: dataset, semantic features and the user's files.

    Attributes:
        digest: of the contents; names the folder on the other machine.
        files: contents by path under that folder.
        config_files: which of the files are the user's settings files, in order.
        given: by setting, the files that it names (profiles, vectors, parts, ...).
        local: by setting, the absolute path of a model that every machine must have itself.
    """

    digest: str
    files: dict[str, bytes]
    config_files: tuple[str, ...]
    given: Mapping[str, str | list[str]] = field(default_factory=dict)
    local: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """The folder on the other machine."""
        return Path(tempfile.gettempdir()) / f"recbole_llm-{getpass.getuser()}" / self.digest

    @contextmanager
    def unpacked(self, run: Run) -> Iterator[tuple[Run, Path]]:
        """The run over the unpacked files, and a folder for its results; results and checkpoints go at the end.

        Raises:
            UserError: another version of this package runs here, or a model that is not sent is missing.
        """
        for name, model in self.local.items():
            if not Path(model).exists():
                raise UserError(
                    f"--{name}={model}: {gethostname()} has no such file or folder, and it is not sent; put it under "
                    "the same path on every machine, or in a folder that they share."
                )
        for name, content in self.files.items():
            path = self.place / name
            if not path.is_file() or path.stat().st_size != len(content):
                with whole_file(path) as stream:
                    stream.write(content)
        aside = Path(tempfile.mkdtemp(prefix="run-", dir=self.place))
        try:
            moved = self._moved(run, aside / "saved")
            if moved.key != run.key:
                raise UserError(
                    "the machines of the cluster run other versions of recbole_llm or of your model, or hold something "
                    "else where --encoder, --lm or pre_model_path names a folder or file; put the same everywhere."
                )
            yield moved, aside / "results"
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _moved(self, run: Run, checkpoints: Path) -> Run:
        location, place = run.location, self.place
        home = place / "dataset"
        folder = place / "data" / location.stem
        paths: dict[str, Any] = {
            "data_path": str(folder),
            "dataset_dir": str(home),
            "checkpoint_dir": str(checkpoints),
            **{key: _below(place, names) for key, names in self.given.items()},
            **self.local,
        }
        settings = replace(
            run.settings,
            values={**run.settings.values, **paths},
            origin={**run.settings.origin, "data_path": "command line"},
            overrides={**run.settings.overrides, **paths},
            config_files=tuple(place / name for name in self.config_files),
        )
        moved = replace(location, folder=folder, home=home / location.name)
        return replace(run, settings=settings, location=moved)


class PayloadSender:
    """Packs what runs read, each dataset with its features once.

    Args:
        executor: keeps what is sent to many jobs.
        runner: knows where the features lie.
    """

    def __init__(self, executor: Executor, runner: Runner) -> None:
        self._executor, self._runner = executor, runner
        self._sent: dict[Any, Any] = {}

    def __call__(self, run: Run) -> Any:
        """The payload of a run, as an argument of a job."""
        given = [str(run.settings.get(name)) for name in (*GIVEN_FILES, *LOCAL_MODELS)]
        key = (run.location.folder, run.settings.config_files, *given, features_of(run, self._runner))
        if key not in self._sent:
            self._sent[key] = self._executor.put(pack(run, self._runner.make_features(run)))
        return self._sent[key]


def pack(run: Run, features: Path | None) -> Payload:
    """Everything a run reads.

    Args:
        run: what will be trained.
        features: folder of its semantic features, if it reads any.
    """
    location = run.location
    files = {
        f"data/{location.stem}/{path.name}": path.read_bytes()
        for path in sorted(location.folder.glob(f"{location.stem}.*"))
        if path.is_file()
    }
    if features is not None:
        for path in sorted(features.iterdir()):
            files[f"dataset/{location.name}/semantics/{features.name}/{path.name}"] = path.read_bytes()
    config = {f"config/{number}-{file.name}": file for number, file in enumerate(run.settings.config_files)}
    files |= {name: file.read_bytes() for name, file in config.items()}
    given: dict[str, str | list[str]] = {}
    for key in (*GIVEN_FILES, *(["llm"] if "llm" in run.files else [])):
        value = run.settings.get(key)
        paths = [Path(path).expanduser() for path in ([value] if isinstance(value, str) else value or ())]
        # A part in the dataset's folder stays in it, since the folder may be found through the part.
        at_home = [key in PARTS and path.parent == location.folder for path in paths]
        folders = [f"data/{location.stem}" if home else f"{key}/{number}" for number, home in enumerate(at_home)]
        names = [f"{folder}/{path.name}" for folder, path in zip(folders, paths, strict=True)]
        for path, folder in zip(paths, folders, strict=True):
            parts = files_of(path) if key == "vectors" else [path]
            files |= {f"{folder}/{part.name}": part.read_bytes() for part in parts}
        if paths:
            given[key] = names[0] if isinstance(value, str) else names
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    local = {name: str(Path(run.settings[name]).absolute()) for name in LOCAL_MODELS if name in run.files}
    return Payload(digest.hexdigest()[:16], files, tuple(config), given, local)


def received(run: Run, files: Mapping[str, bytes], store: ResultStore) -> Record:
    """Store a record from another machine, with the user's files named as they are here."""
    record = store.unpack(files)
    here = {name: run.settings[name] for name in BY_CONTENTS if name in run.files}
    if here:
        record = Record.model_validate({**record.model_dump(), "settings": record.settings | here})
        store.put(record)
    return record


def _below(place: Path, names: str | list[str]) -> str | list[str]:
    return str(place / names) if isinstance(names, str) else [str(place / name) for name in names]
