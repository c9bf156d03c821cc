"""Checks of the machine before time or money is spent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from recbole_llm.data.catalog import known_datasets
from recbole_llm.errors import UserError
from recbole_llm.features.encoder import minilm_folder
from recbole_llm.utils.environment import available_cores, versions
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

PATIENCE = 120.0  # seconds; a first import on a network file system is slow
PROBE = """
import json, recbole_llm, torch
error = ""
try:
    import recbole
except Exception as reason:
    error = f"{type(reason).__name__}: {reason}"
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
names = [torch.cuda.get_device_name(number) for number in range(count)]
print(json.dumps({"error": error, "threads": torch.get_num_threads(), "gpus": names}))
"""


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
        *_libraries(),
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


def _libraries() -> list[Finding]:
    """Import RecBole and torch in a separate process, since a broken library may crash it."""
    words = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return [Finding(False, f"RecBole and torch cannot be used: not imported after {PATIENCE:g} seconds")]
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return [Finding(False, f"RecBole and torch cannot be used: {reason[0]}")]
    error, policy = found["error"], os.environ.get("OMP_WAIT_POLICY", "")
    loads = f"cannot be used: {error}" if error else "loads (compatibility fixes applied)"
    threads = f"{found['threads']} threads on {available_cores()} cores, OMP_WAIT_POLICY={policy}"
    return [
        Finding(not error, f"RecBole {loads}"),
        Finding(policy.upper() == "PASSIVE", threads, fatal=False),
        Finding(True, f"GPU: {', '.join(found['gpus'])}" if found["gpus"] else "no GPU; --device=cpu is used"),
    ]


def _encoder() -> Finding:
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
