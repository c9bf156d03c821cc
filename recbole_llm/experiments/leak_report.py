"""``doctor --leaks``: the semantic files of a dataset against the rules of evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recbole_llm.data.catalog import locate
from recbole_llm.errors import UserError
from recbole_llm.experiments.doctor import Finding
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.builder import split_identity
from recbole_llm.features.folder import SemanticFolder
from recbole_llm.features.leaks import Files, check_leaks
from recbole_llm.llm.cache import ResponseCache


def examine_leaks(dataset: str, data_path: str | None, dataset_dir: str) -> list[Finding]:
    """Check every folder of semantic files of a dataset.

    Raises:
        UserError: there is no such dataset, or it has no semantic files.
    """
    location = locate(dataset, data_path, dataset_dir)
    folders = sorted(path.parent for path in location.semantics.glob("*/manifest.json"))
    if not folders:
        raise UserError(f"{location.semantics}/ holds no semantic files yet; `recbole-llm generate` makes them.")
    findings = []
    cache = ResponseCache(location.answers) if location.answers.is_file() else None
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
    overrides |= identity.get("cut_by", {})
    try:
        (run,) = expand("Pop", dataset, identity["protocol"], overrides=overrides)
    except UserError as error:  # parts that were given by their paths, or a protocol that is gone
        return [Finding(False, f"{folder.name}: its interactions are not found here ({error})", fatal=False)]
    found = Runner(ResultStore("results")).read_dataset(run)
    told_apart = found.sha256, split_identity(found.split), found.reading()
    if told_apart != (identity["inter_sha256"], identity["split"], identity.get("reading", {})):
        text = f"{folder.name}: made from other data or another split than today's; no run with these settings reads it"
        return [Finding(False, text, fatal=False)]
    files = Files(folder, manifest, found.table, found.split)
    source = manifest["features"].get("itemtext", {}).get("titles_from", "metadata")
    findings = [Finding(True, f"{folder.name}: files, data and split as the manifest says; titles from {source}")]
    asked = cache if identity["llm"]["name"] != "offline" else None
    return findings + [Finding(each.good, f"{folder.name}: {each.text}") for each in check_leaks(files, asked)]
