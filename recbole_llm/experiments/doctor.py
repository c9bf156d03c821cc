"""Checks of the machine before time or money is spent."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.data.catalog import known_datasets, locate
from recbole_llm.errors import UserError
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.builder import split_identity
from recbole_llm.features.folder import SemanticFolder
from recbole_llm.features.leaks import Files, look
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.utils.environment import available_cores, versions
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``fatal`` findings that are not good make the command fail."""

    good: bool
    text: str
    fatal: bool = True


def examine(dataset_dir: Path, results_dir: Path) -> list[Finding]:
    """Look at Python, packages, device, threads, encoder, keys (by name only), datasets and folders."""
    return [
        *_python(),
        _recbole(),
        *_torch(),
        _encoder(),
        *_keys(),
        Finding(True, f"datasets: {', '.join(known_datasets(dataset_dir))}"),
        *[_writable(folder) for folder in (dataset_dir, results_dir)],
    ]


def _python() -> list[Finding]:
    found = versions()
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    packages = ", ".join(f"{name} {version}" for name, version in found.items() if name != "python")
    return [Finding(good, f"Python {found['python']} (3.11 to 3.13 are tested)"), Finding(True, packages)]


def _recbole() -> Finding:
    try:
        import recbole_llm.compat.mends

        recbole_llm.compat.mends.apply()
    except Exception as error:
        return Finding(False, f"RecBole cannot be used: {type(error).__name__}: {error}")
    return Finding(True, "RecBole imports and is mended for these packages")


def _torch() -> list[Finding]:
    import torch

    policy = os.environ.get("OMP_WAIT_POLICY", "")
    threads = f"{torch.get_num_threads()} threads on {available_cores()} cores, OMP_WAIT_POLICY={policy}"
    findings = [Finding(policy.upper() == "PASSIVE", threads, fatal=False)]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        findings.append(Finding(True, f"GPU: {', '.join(names)}"))
    else:
        findings.append(Finding(True, "no GPU; --device=cpu is used"))
    return findings


def _encoder() -> Finding:
    from recbole_llm.features.encoder import minilm_folder

    try:
        return Finding(True, f"offline sentence encoder: {minilm_folder()} (SHA-256 as published)")
    except UserError as error:
        return Finding(False, str(error), fatal=False)


def _keys() -> list[Finding]:
    sources: dict[str, list[str]] = {}
    for name in property_names("llm"):
        variable = read_yaml(properties_folder() / "llm" / f"{name}.yaml").get("key_env")
        if variable:
            sources.setdefault(variable, []).append(name)
    found = []
    for variable, names in sources.items():
        present = bool(os.environ.get(variable))
        text = f"--llm={', '.join(names)}: {variable} is {'set' if present else 'not set'}"
        found.append(Finding(present, text, fatal=False))
    return found


def _writable(folder: Path) -> Finding:
    place = folder
    while not place.exists():
        place = place.parent
    good = place.is_dir() and os.access(place, os.W_OK)
    return Finding(good, f"{folder}/ is {'writable' if good else 'not writable'}")


def examine_leaks(dataset: str, data_path: str | None, dataset_dir: str) -> list[Finding]:
    """Look at every folder of semantic files of a dataset.

    Raises:
        UserError: there is no such dataset, or it has no semantic files.
    """
    home = locate(dataset, data_path, dataset_dir).home / "semantics"
    folders = sorted(path.parent for path in home.glob("*/manifest.json"))
    if not folders:
        raise UserError(f"{home}/ holds no semantic files yet; `recbole-llm generate` makes them.")
    findings = []
    cache = ResponseCache(home / "responses.sqlite") if (home / "responses.sqlite").is_file() else None
    try:
        for folder in folders:
            findings += _examine(folder, dataset, data_path, dataset_dir, cache)
    finally:
        if cache is not None:
            cache.close()
    return findings


def _examine(
    folder: Path, dataset: str, data_path: str | None, dataset_dir: str, cache: ResponseCache | None
) -> list[Finding]:
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        identity = manifest["identity"]
        stem = manifest["files"]["text"]["name"].removesuffix(".text")
        SemanticFolder(folder, stem, identity).check()
    except UserError as error:
        return [Finding(False, str(error))]
    except (ValueError, KeyError, TypeError):
        return [Finding(False, f"{folder}/manifest.json is damaged; remove the folder.")]
    overrides = {"dataset_dir": dataset_dir, **({"data_path": data_path} if data_path else {})}
    (cell,) = expand("Pop", dataset, identity["protocol"], overrides=overrides)
    found = Runner(ResultStore("results")).read_dataset(cell)
    told_apart = found.sha256, split_identity(found.split), found.reading()
    if told_apart != (identity["inter_sha256"], identity["split"], identity.get("reading", {})):
        text = f"{folder.name}: made from other data or another split than today's; no run with these settings reads it"
        return [Finding(False, text, fatal=False)]
    files = Files(folder, manifest, found.table, found.split)
    source = manifest["features"].get("itemtext", {}).get("titles_from", "metadata")
    findings = [Finding(True, f"{folder.name}: files, data and split as the manifest says; titles from {source}")]
    asked = cache if identity["llm"]["name"] != "offline" else None
    return findings + [Finding(each.good, f"{folder.name}: {each.text}") for each in look(files, asked)]
