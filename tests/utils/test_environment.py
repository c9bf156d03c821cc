"""Thread settings, and the facts about the environment that records hold."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.utils import environment

ROOT = Path(__file__).resolve().parents[2]
THREAD_VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "THP_MEM_ALLOC_ENABLE")


def python(code, **variables):
    """Run code in a fresh interpreter whose only thread settings are ``variables``; returns its output's words."""
    env = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SHOW = f"import os; print(*[os.environ.get(name) for name in {THREAD_VARIABLES}])"


def test_importing_the_package_sets_the_thread_policy():
    wait, threads, pages = python(f"import recbole_llm; {SHOW}")
    assert (wait, pages) == ("PASSIVE", "1")
    assert int(threads) == environment.available_cores()


def test_importing_the_package_does_not_import_torch_or_recbole():
    loaded = python("import recbole_llm, sys; print('torch' in sys.modules, 'recbole' in sys.modules)")
    assert loaded == ["False", "False"]


def test_what_the_user_has_set_is_kept():
    found = python(f"import recbole_llm; {SHOW}", OMP_WAIT_POLICY="ACTIVE", OMP_NUM_THREADS="7")
    assert found[:2] == ["ACTIVE", "7"]


def test_nothing_is_set_once_torch_is_imported(monkeypatch):
    import torch  # noqa: F401

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    environment.prepare_threads()
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cores_are_those_the_process_may_use():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from recbole_llm.utils.environment import available_cores; print(available_cores())"
    )
    assert python(code) == ["1"]


def test_versions_are_those_of_the_installed_packages():
    found = environment.versions()
    assert found.pop("python") == platform.python_version()
    assert {"recbole", "torch", "numpy", "pandas", "scipy"} <= set(found)
    assert all(importlib.metadata.version(name) == version for name, version in found.items())


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(environment, "TESTED_PACKAGES", ("numpy", "no-such-package-at-all"))
    assert set(environment.versions()) == {"python", "numpy"}


def test_hardware_names_the_processor_and_counts():
    facts = environment.hardware("cpu")
    assert facts["cpu"]
    assert facts["system"] == platform.system()
    assert facts["cores"] >= 1
    assert facts["threads"] >= 1
    assert "gpu" not in facts


def test_peak_memory_of_the_host_is_in_mib():
    peak = environment.peak_memory_mib("cpu")
    assert set(peak) == {"host"}
    assert 10 < peak["host"] < 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="one peak a process elsewhere")
def test_a_forgotten_peak_is_not_counted_with_what_comes():
    large = np.ones(2**28, dtype=np.uint8)
    before = environment.peak_memory_mib()["host"]
    del large
    environment.forget_peak_memory()
    assert environment.peak_memory_mib()["host"] < before - 200


@pytest.mark.skipif(sys.platform != "linux", reason="one peak a process elsewhere")
@pytest.mark.parametrize("in_cycle", [True, False], ids=["in a reference cycle", "below a block in use"])
def test_memory_that_an_earlier_model_has_left_is_not_counted_with_what_comes(in_cycle):
    left = [np.ones(2**13) for _ in range(4_000)]  # 64 KiB each, below what the C library maps alone
    above = np.ones(2**13)
    before = environment.peak_memory_mib()["host"]
    if in_cycle:
        left.append(left)
    del left
    environment.forget_peak_memory()
    assert environment.peak_memory_mib()["host"] < before - 200
    assert above.sum() == 2**13


@pytest.fixture
def checkout(tmp_path):
    """A copy of the module in a folder that can become a git checkout."""
    package = tmp_path / "recbole_llm" / "utils"
    package.mkdir(parents=True)
    shutil.copy(environment.__file__, package / "environment.py")
    spec = importlib.util.spec_from_file_location("environment_elsewhere", package / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, tmp_path


def git(folder, *words):
    subprocess.run(["git", "-C", folder, "-c", "user.name=T", "-c", "user.email=t@example.org", *words], check=True)


def commit_all(folder):
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")


def test_outside_a_checkout_there_is_no_commit(checkout):
    module, _ = checkout
    assert module.git_commit() is None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_clean_checkout_gives_its_commit(checkout):
    module, folder = checkout
    commit_all(folder)
    assert re.fullmatch("[0-9a-f]{12}", module.git_commit())


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_local_changes_are_marked(checkout):
    module, folder = checkout
    commit_all(folder)
    with (folder / "recbole_llm" / "utils" / "environment.py").open("a") as stream:
        stream.write("# changed\n")
    assert re.fullmatch(r"[0-9a-f]{12}\+", module.git_commit())


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_what_changes_after_the_first_look_is_not_the_code_that_runs(checkout):
    module, folder = checkout
    commit_all(folder)
    commit = module.git_commit()
    with (folder / "recbole_llm" / "utils" / "environment.py").open("a") as stream:
        stream.write("# changed\n")
    assert module.git_commit() == commit


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_checkout_without_a_commit_gives_none(checkout):
    module, folder = checkout
    git(folder, "init", "--quiet")
    assert module.git_commit() is None
