"""The built wheel, and the package installed from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import recbole_llm
from recbole_llm.utils.yaml import property_names

pytestmark = pytest.mark.landing
ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "recbole_llm", "properties")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, checkout / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(checkout)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """The files in the wheel."""
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the installed package, outside the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_wheel_is_named_after_package_and_version(wheel: Path) -> None:
    assert wheel.name == f"recbole_llm-{recbole_llm.__version__}-py3-none-any.whl"


def test_the_wheel_holds_every_module(names: set[str]) -> None:
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "recbole_llm").rglob("*.py")}
    assert wanted <= names


def test_the_wheel_holds_every_file_of_settings(names: set[str]) -> None:
    wanted = {f"recbole_llm/{path.relative_to(ROOT)}" for path in (ROOT / "properties").rglob("*.yaml")}
    assert "recbole_llm/properties/overall.yaml" in wanted
    assert wanted <= names


def test_the_wheel_holds_prompts_templates_version_and_type_marker(names: set[str]) -> None:
    package = ROOT / "recbole_llm"
    prompts = {str(path.relative_to(ROOT)) for path in package.rglob("prompts/*.yaml")}
    templates = {str(path.relative_to(ROOT)) for path in package.rglob("templates/*")}
    assert prompts
    assert templates
    assert prompts | templates | {"recbole_llm/VERSION", "recbole_llm/py.typed"} <= names


def test_the_wheel_holds_nothing_else(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert tops == {"recbole_llm", f"recbole_llm-{recbole_llm.__version__}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".sqlite", ".npy", ".pt"))]


def test_the_wheel_brings_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "recbole-llm = recbole_llm.cli:main" in archive.read(path).decode()


def test_the_installed_package_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    found = run(installed, tmp_path, "-c", "import recbole_llm; print(recbole_llm.__file__)")
    assert Path(found.stdout.strip()).is_relative_to(installed)


def test_the_installed_package_finds_its_settings(installed: Path, tmp_path: Path) -> None:
    found = run(installed, tmp_path, "-m", "recbole_llm", "list")
    assert (found.returncode, found.stderr) == (0, "")
    assert "LLMDMsRec" in found.stdout
    assert all(name in found.stdout for name in (*property_names("dataset"), *property_names("protocol")))


def test_the_installed_package_runs_a_model(installed: Path, tmp_path: Path, tiny: Path) -> None:
    found = run(installed, Path.cwd(), "-m", "recbole_llm", "--model=Pop", "--dataset=tiny")
    assert found.returncode == 0, found.stderr
    assert "Pop" in found.stdout
    assert list(Path("results").rglob("*.json"))


def test_the_installed_package_has_its_prompts(installed: Path, tmp_path: Path) -> None:
    code = "from recbole_llm.features.prompts import load_prompt; print(load_prompt('llmdmsrec_intent').id)"
    assert run(installed, tmp_path, "-c", code).stdout == "llmdmsrec_intent\n"


def test_nothing_is_written_into_the_installed_package(installed: Path, tmp_path: Path) -> None:
    before = {path for path in installed.rglob("*") if "__pycache__" not in path.parts}
    run(installed, tmp_path, "-m", "recbole_llm", "doctor")
    assert {path for path in installed.rglob("*") if "__pycache__" not in path.parts} == before
