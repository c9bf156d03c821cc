"""Checks of the machine before time or money is spent."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from recbole_llm.data.catalog import known_datasets
from recbole_llm.errors import UserError
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
    findings = []
    for name in property_names("llm"):
        variable = read_yaml(properties_folder() / "llm" / f"{name}.yaml").get("key_env")
        if variable:
            present = bool(os.environ.get(variable))
            findings.append(
                Finding(present, f"--llm={name}: {variable} is {'set' if present else 'not set'}", fatal=False)
            )
    return findings


def _writable(folder: Path) -> Finding:
    place = folder
    while not place.exists():
        place = place.parent
    good = place.is_dir() and os.access(place, os.W_OK)
    return Finding(good, f"{folder}/ is {'writable' if good else 'not writable'}")
