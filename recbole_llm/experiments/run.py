"""A run of a grid before it is made: its settings, its data, its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm.data.catalog import DatasetLocation, locate
from recbole_llm.data.parts import part_files
from recbole_llm.data.published import published_file
from recbole_llm.data.split import BY_TIME, SEVERAL_TARGETS
from recbole_llm.evaluation.names import NEED_CATEGORIES, NEED_VECTORS
from recbole_llm.experiments.record import SHOWN_FILE, Record
from recbole_llm.experiments.vector_files import with_vectors_read
from recbole_llm.features.encoder import MINILM
from recbole_llm.features.lookup import feature_versions
from recbole_llm.features.vectors import digest
from recbole_llm.llm.address import redact
from recbole_llm.llm.endpoint import OFFLINE, is_own_file, server_of, source_file
from recbole_llm.lm.contents import contents_of
from recbole_llm.lm.load import SCRATCH
from recbole_llm.registry import Method, reads_graph
from recbole_llm.settings.layers import Settings
from recbole_llm.settings.schema import Role, role_of
from recbole_llm.utils.environment import git_commit, now, versions
from recbole_llm.utils.files import check_file, file_sha256
from recbole_llm.utils.plugins import code_of


@dataclass
class Run:
    """A run before it is made.

    Attributes:
        settings: of the model, its dataset, protocol and seed.
        location: where the dataset lies.
        search: budget of the search that found the settings (``trials``, and ``trial_epochs`` and ``trial_minutes`` if
            they were limited); ``None`` without a search.
        key: hash of everything that can change the results, and of ``search``.
        files: SHA-256 of every file that is read, by a name for what it is.
    """

    settings: Settings
    location: DatasetLocation
    search: Mapping[str, Any] | None = None
    key: str = field(init=False)
    files: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        if self.settings["split"] == "parts":
            read = part_files(self.settings.values, self.location)
        else:
            read = {"inter": self.location.interactions}
        files = {name: file_sha256(path) for name, path in read.items()}
        files |= {name: file_sha256(path) for name, path in self._side_files().items()}
        profiles = self.settings.get("profiles")
        if profiles and Path(profiles).is_file():
            files["profiles"] = file_sha256(Path(profiles))
        files |= {
            f"vectors.{place}": digest(Path(path)) for place, path in enumerate(self.settings.get("vectors") or ())
        }
        for name in ("candidate_table", "lists"):
            if path := self.settings.get(name):
                files[name] = file_sha256(check_file(f"--{name}", Path(path)))
        files |= {name: contents_of(path) for name, path in self._local_models().items()}
        source = self.settings["llm"]
        if source and is_own_file(source):
            files["llm"] = file_sha256(source_file(source))
        if self.settings.method.is_external:
            code = code_of(self.settings.method.load())
            files |= {name if name not in files else f"code.{name}": digest for name, digest in code.items()}
        self.files = files
        more = key_parts(self.settings.method, self.settings.values, files, self.search or {}, self._server())
        self.key = self.settings.key(**more)

    @classmethod
    def of(cls, settings: Settings, search: Mapping[str, Any] | None = None) -> Run:
        """The run with some settings; finds the dataset, and leaves out files of vectors that nothing reads.

        Raises:
            UserError: there is no such dataset.
        """
        settings = with_vectors_read(settings)
        location = locate(settings["dataset"], settings.data_path, settings["dataset_dir"], settings.get("train"))
        return cls(settings, location, search)

    def chooser(self) -> Run | None:
        """For a refit, the run whose validation chooses its epochs; ``None`` for other runs."""
        return Run(self.settings.replaced(refit=False), self.location, self.search) if self.settings["refit"] else None

    def _side_files(self) -> dict[str, Path]:
        """The dataset's files that are read besides ``.inter``, by the names that they have in the key."""
        settings, location = self.settings, self.location
        load, split = settings.get("load_col"), settings["split"]
        named = ("item", "user", *(("kg", "link") if reads_graph(settings.method) else ()))
        suffixes = {suffix: suffix for suffix in named if load is None or suffix in load}
        if settings.method.features or split == "published":
            suffixes["item"] = "item"
        if split in BY_TIME:
            suffixes["user_last_order"] = "user_last_order.tsv"
        suffixes |= {str(name): str(name) for name in settings.get("additional_feat_suffix") or ()}
        found = {name: location.file(suffix) for name, suffix in suffixes.items()}
        if split == "published":
            phases = ("valid", "test")
            found |= {f"published_{phase}": published_file(location, phase, settings.values) for phase in phases}
        return {name: path for name, path in found.items() if path is not None}

    def _local_models(self) -> dict[str, Path]:
        """The encoder, the language model and the initial weights, if settings name them by a path that exists."""
        named = {"encoder": MINILM, "lm": SCRATCH, "pre_model_path": ""}
        given = {name: str(self.settings.get(name) or usual) for name, usual in named.items()}
        return {name: Path(path) for name, path in given.items() if path != named[name] and Path(path).exists()}

    def shown_files(self) -> dict[str, str]:
        """SHA-256 of files that only list metrics read; they change no result that the key stands for."""
        path = self.location.file("item")
        asked = {str(name).lower() for name in self.settings.get("list_metrics") or ()}
        if path is None or not asked & {*NEED_CATEGORIES, *NEED_VECTORS}:
            return {}
        return {f"{SHOWN_FILE}item": file_sha256(path)} if "item" not in self.files else {}

    def _server(self) -> str:
        """The address of the LLM, if it is not the one in the LLM's file: its answers may differ."""
        source = self.settings["llm"]
        if source in (None, OFFLINE) or self.settings["semantics"] == "none":
            return ""
        return server_of(str(source), self.settings.get("llm_base_url"))

    @property
    def folder(self) -> Path:
        """Where the checkpoints are kept."""
        s = self.settings
        name = f"{s.method.name}-s{s['seed']}-{self.key}"
        return Path(s["checkpoint_dir"]) / self.location.name / s["protocol"] / name

    def title(self) -> str:
        """A description of the run for messages."""
        s = self.settings
        semantics = "" if s["semantics"] == "none" else f", {s['semantics']}"
        tuned = "" if self.search is None else ", tuned"
        tuned += ", refit" if s["refit"] else ""
        if s.get("left_out"):
            tuned += f", without fold {s['left_out'][0] + 1} of {s['left_out'][1]}"
        preset = f", preset {s['preset']}" if s.get("preset") else ""
        return f"{s.method.name} on {self.location.name} ({s['protocol']}, seed {s['seed']}{semantics}{preset}{tuned})"

    def blank_record(self) -> Record:
        """A record with what is known before the run."""
        s = self.settings
        # Records are meant to be published, so they name no folders; files are known by their hashes.
        folders = {k for k, owner in s.definitions.items() if role_of(owner.model_fields[k]) is Role.FOLDER}
        shown = {k: v for k, v in s.values.items() if k not in folders}
        if shown.get("llm_base_url"):
            shown["llm_base_url"] = redact(shown["llm_base_url"])  # without credentials
        return Record(
            key=self.key,
            model=s.method.target if s.method.is_external else s.method.name,
            dataset=self.location.name,
            protocol=s["protocol"],
            seed=int(s["seed"]),
            semantics=s["semantics"],
            engine=s["engine"],
            tuned=self.search is not None,
            refit=bool(s["refit"]),
            **(self.search or {}),
            settings=_plain(shown),
            origin={k: v for k, v in s.origin.items() if not v.startswith("RecBole")},
            created=now(),
            versions=versions(),
            commit=git_commit(),
        )


def key_parts(
    method: Method, settings: Mapping[str, Any], files: Mapping[str, str], search: Mapping[str, Any], server: str
) -> dict[str, Any]:
    """What enters a run's key besides the identity of its settings.

    Args:
        method: the model's registry row under these settings.
        settings: of the run.
        files: SHA-256 of every file that is read, by a name for what it is.
        search: budget of the search that found the settings; empty without a search.
        server: address of the LLM, if it is not the one in the LLM's file.
    """
    more = {**_changes_of_meaning(settings), **search, **({"server": server} if server else {})}
    return {"files": files, "features": feature_versions(method.features), **more}


def _changes_of_meaning(settings: Mapping[str, Any]) -> dict[str, str]:
    """What enters the key because older versions behaved differently under the same settings.

    If ``intent_stride`` was set, they used the answers of earlier prefixes for tested positions. Refits did not train
    on repeats at the end of a case with several targets, nor on the validation data of users without training data.
    """
    found = {"tested_positions": "asked"} if settings.get("intent_stride", 1) != 1 else {}
    if settings.get("refit"):
        found |= {"repeats": "train"} if settings.get("split") in SEVERAL_TARGETS else {}
        found |= {"validation": "whole"} if settings.get("split") == "parts" else {}
    return found


def _plain(values: Any) -> Any:
    """Values as JSON has them."""
    if isinstance(values, dict):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_plain(value) for value in values]
    return values if values is None or isinstance(values, (bool, int, float, str)) else str(values)
