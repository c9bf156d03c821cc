"""Imports follow the package layers, and a command loads no heavy package that it does not need."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recbole_llm"

# A package may import packages of its own line and of the lines above. Top-level modules appear under their own name.
LAYERS = (
    ("errors", "utils"),
    ("evaluation", "registry", "llm", "layers", "lm", "pages"),
    ("settings",),
    ("compat",),
    ("data",),
    ("raw", "features", "training"),
    ("methods",),
    ("execution",),
    ("experiments",),
    ("tuning", "reporting", "listing"),
    ("stages",),
    ("api",),
    ("__init__",),
    ("screen",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# Packages that may import only the named ones: they stay usable without torch, and layers depend on torch alone.
ALONE = {
    "layers": {"layers"},
    "llm": {"errors", "utils", "llm"},
    "pages": {"errors", "utils", "pages"},
    "evaluation": {"errors", "utils", "evaluation"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Modules of this package that a file imports, including inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name, node.lineno
            elif names[0].partition(".")[0] == "recbole_llm":
                yield "recbole_llm.__init__", node.lineno


def package_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_above_it(module: str) -> None:
    own = package_of(module)
    for name, line in imported(MODULES[module]):
        where = f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        other = package_of(name)
        assert RANK[other] <= RANK[own], where
        assert other in ALONE.get(own, {other}), where
        assert RANK[other] < RANK[own] or other == own or RANK[own] in (0, 1), where


def test_no_modules_import_each_other() -> None:
    after = {module: {name for name, _ in imported(path)} - {module} for module, path in MODULES.items()}
    while after:
        free = {module for module, names in after.items() if not names & after.keys()}
        assert free, f"a circle among {sorted(after)}"
        after = {module: names for module, names in after.items() if module not in free}


def test_every_package_has_a_layer() -> None:
    assert {package_of(module) for module in MODULES} == RANK.keys()


HEAVY = "{'torch', 'recbole', 'sklearn', 'transformers', 'sentence_transformers'} & sys.modules.keys()"


# Each command runs in a fork of an interpreter that has loaded the command line alone, and names its heavy packages.
EACH = f"""
import json, os, sys
from recbole_llm.cli import main
for words in json.loads(sys.argv[1]):
    if os.fork() == 0:
        main(words)
        print("loaded", *({HEAVY}), file=sys.stderr, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, words
"""


def loaded_by(commands: Sequence[Sequence[str]], folder: Path) -> list[set[str]]:
    """The heavy packages that each command loads where nothing else has loaded them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(commands)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [set(words[1:]) for words in map(str.split, done.stderr.splitlines()) if words[:1] == ["loaded"]]


LIGHT = {
    "help": ["--help"],
    "list": ["list"],
    "settings": ["list", "settings", "--model=EIMF"],
    "doctor": ["doctor"],
    "table without results": ["table"],
    "verb": ["lst"],
    "model": ["--model=LLMDMRec", "--dataset=tiny"],
    "dataset": ["--model=LLMDMsRec", "--dataset=tinny"],
    "protocol": ["--model=Pop", "--dataset=tiny", "--protocol=lo"],
    "key": ["--model=SRGNN", "--dataset=tiny", "--learnin_rate=1"],
    "choice": ["--model=ISRF", "--dataset=tiny", "--decode=exat"],
    "head": ["--model=DUIP", "--dataset=tiny", "--head=nonsense"],
    "alignment": ["--model=ISRF", "--dataset=tiny", "--alignment=infonse"],
    "soft prompt": ["--model=DUIP", "--dataset=tiny", "--soft_prompt=mpl"],
    "executor": ["--model=Pop", "--dataset=tiny", "--executor=process"],
    "tune": ["tune", "--model=GRU4Rec", "--dataset=tiny", "--trials=0"],
    "price": ["--model=EIMF", "--dataset=tiny", "--llm=openai"],
    "generate": ["generate", "--model=LLMDMsRec", "--dataset=tiny", "--llm=opena"],
}


def test_lists_and_mistakes_load_neither_torch_nor_recbole(tiny: Path, workspace: Path) -> None:
    found = loaded_by([*LIGHT.values()], workspace)
    assert dict(zip(LIGHT, found, strict=True)) == {name: set() for name in LIGHT}


def test_a_table_loads_neither_torch_nor_recbole(workspace: Path) -> None:
    folder = ROOT / "results" / "session-graph"
    assert loaded_by([["table", f"--results_dir={folder}", "--output=table.txt"]], workspace) == [set()]
    assert (workspace / "table.txt").stat().st_size > 0
