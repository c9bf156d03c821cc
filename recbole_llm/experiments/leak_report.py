"""``doctor --leaks``: check the semantic files of a dataset against the rules of evaluation."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm.data.catalog import check_data_path, derived, locate
from recbole_llm.data.parts import PARTS
from recbole_llm.data.split import split_identity
from recbole_llm.errors import UserError, check_known
from recbole_llm.experiments.doctor import Finding
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.folder import SemanticFolder
from recbole_llm.features.leaks import Files, LeakCheck, check_leaks
from recbole_llm.features.reading import READING, replayed
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.utils.files import is_no_room
from recbole_llm.utils.text import counted, one_line


class _UncheckedError(Exception):
    """A folder cannot be checked; the message says why, and what the user can do."""


def examine_leaks(
    dataset: str, data_path: str | None, dataset_dir: str, settings: Mapping[str, Any] | None = None
) -> list[Finding]:
    """Check every folder of semantic files of a dataset.

    Args:
        dataset: its name.
        data_path: folder of its atomic files.
        dataset_dir: folder of datasets.
        settings: how interactions are read and split, where a folder's manifest does not say so.

    Returns:
        What was found. A folder that cannot be checked is a fault, like a leak; the last line counts the folders that
        were and were not checked.

    Raises:
        UserError: there is no such dataset, it has no semantic files, or a setting has nothing to do with reading.
    """
    check_data_path(data_path)
    for key in settings or {}:
        wrong = f"--{key}: doctor --leaks takes only settings that say how interactions are read and divided"
        check_known(wrong, key.partition(".")[0], READING)
    place = derived(dataset, dataset_dir)
    folders = sorted(path.parent for path in place.semantics.glob("*/manifest.json"))
    if not folders:
        locate(dataset, data_path, dataset_dir)  # raises if there is no such dataset at all
        raise UserError(f"{place.semantics}/ holds no semantic files yet; `recbole-llm generate` makes them.")
    examination = _Examination(dataset, data_path, dataset_dir, dict(settings or {}))
    findings, unchecked = [], 0
    cache = ResponseCache(place.answers) if place.answers.is_file() else None
    try:
        for folder in folders:
            try:
                found = examination.of(folder, cache)
                unchecked += any(not each.checked for each in found)
                findings += [Finding(each.good, f"{folder.name}: {each.text}") for each in found]
            except _UncheckedError as error:
                unchecked += 1
                findings.append(Finding(False, f"{folder.name}: not checked: {error}"))
    finally:
        if cache is not None:
            cache.close()
    checked = f"{len(folders) - unchecked} checked, {unchecked} not" if unchecked else "checked"
    return [*findings, Finding(not unchecked, f"{counted(len(folders), 'folder')} of features: {checked}")]


@dataclass
class _Examination:
    """What the command was given.

    Attributes:
        dataset, data_path, dataset_dir: where the files lie.
        settings: how they are read, where a manifest does not say so.
        runner: reads them.
    """

    dataset: str
    data_path: str | None
    dataset_dir: str
    settings: dict[str, Any]
    runner: Runner = field(default_factory=lambda: Runner(ResultStore("results")))

    def of(self, folder: Path, cache: ResponseCache | None) -> list[LeakCheck]:
        """The checks of one folder.

        Raises:
            _UncheckedError: its files, or the data that they were made from, are missing or have changed.
        """
        manifest = self._manifest(folder)
        found = self._dataset(manifest)
        source = manifest["features"]["itemtext"].get("titles_from", "metadata")
        first = LeakCheck(True, f"files, data and split as the manifest says; titles from {source}")
        asked = cache if manifest["identity"]["llm"]["name"] != "offline" else None
        return [first, *check_leaks(Files(folder, manifest, found.table, found.split), asked)]

    def _manifest(self, folder: Path) -> dict[str, Any]:
        """The manifest of a folder, after checking that the folder's files have not changed."""
        path = folder / "manifest.json"
        again = f"Make its features again and run `{self._command()}`"
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if "itemtext" not in manifest["features"]:
                raise _UncheckedError(f"no feature of it is finished. {again}, or remove the folder.")
            text = folder / manifest["files"]["text"]["name"]
            if not text.is_file():
                raise _UncheckedError(f"{text} is gone. {again}, or remove the folder.")
            SemanticFolder(folder, text.name.removesuffix(".text"), manifest["identity"]).check()
            replayed(manifest)
        except UserError as error:
            raise _UncheckedError(f"{error} {again}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _UncheckedError(f"{path} is damaged; remove the folder. {again}.") from error
        return manifest

    def _dataset(self, manifest: Mapping[str, Any]) -> Any:
        """The interactions and the split that a folder was made from, read with the settings in its manifest.

        The command's settings are tried only if that fails: they may belong to another folder.
        """
        model, noted = replayed(manifest)
        try:
            return self._read(manifest, model, noted)
        except _UncheckedError:
            if not self.settings:
                raise
        return self._read(manifest, model, {**noted, **self.settings})

    def _read(self, manifest: Mapping[str, Any], model: str, noted: Mapping[str, Any]) -> Any:
        identity = manifest["identity"]
        overrides = {**noted, "dataset_dir": self.dataset_dir}
        overrides |= {"data_path": self.data_path} if self.data_path else {}
        of_parts = noted.get("split", identity["protocol"]) == "parts"
        elsewhere = [f"--{part}=FILE" for part in PARTS] if of_parts else ["--data_path=FOLDER"]
        try:
            (run,) = expand(model, self.dataset, identity["protocol"], overrides=overrides)
            found = self.runner.read_dataset(run)
        except Exception as error:  # settings of another time can lead to anything
            if is_no_room(error):
                raise
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            words = elsewhere if of_parts or not self._is_here() else ["--KEY=VALUE"]
            raise _UncheckedError(
                f"its interactions cannot be read as they were: {kind}{one_line(error)} Run `{self._command(*words)}` "
                f"with {'the files' if words == elsewhere else 'the settings'} that it was made from."
            ) from error
        if found.sha256 != identity["inter_sha256"]:
            raise _UncheckedError(
                f"it was made from other interactions (SHA-256 {identity['inter_sha256'][:12]}...) than those here "
                f"({found.sha256[:12]}...). Run `{self._command(*elsewhere)}` with the files that it was made from, or "
                "remove the folder."
            )
        if (split_identity(found.split), found.reading()) != (identity["split"], identity.get("reading", {})):
            raise _UncheckedError(
                "it was made from the same files, read or divided by other settings. Run "
                f"`{self._command('--KEY=VALUE')}` with those settings, such as --rm_dup_inter=first, or remove the "
                "folder."
            )
        return found

    def _is_here(self) -> bool:
        """Whether the dataset's files are found."""
        try:
            locate(self.dataset, self.data_path, self.dataset_dir)
        except UserError:
            return False
        return True

    def _command(self, *more: str) -> str:
        """The same command with more options."""
        words = ["recbole-llm", "doctor", "--leaks", f"--dataset={self.dataset}"]
        named = {word.partition("=")[0] for word in more}
        given = {"--data_path": self.data_path, "--dataset_dir": self.dataset_dir}
        usual = {"--data_path": None, "--dataset_dir": "dataset"}
        words += [f"{key}={value}" for key, value in given.items() if value != usual[key] and key not in named]
        return shlex.join([*words, *more])
