"""Reading records and making tables needs neither torch nor RecBole nor scikit-learn."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import recbole_llm.evaluation
import recbole_llm.reporting

PACKAGES = (recbole_llm.evaluation, recbole_llm.reporting)
MODULES = [f"{package.__name__}.{row.name}" for package in PACKAGES for row in pkgutil.iter_modules(package.__path__)]


def loaded_by(*modules: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after importing these modules."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_evaluation_and_reporting_load_neither_torch_nor_recbole() -> None:
    assert {"recbole_llm.evaluation.significance", "recbole_llm.reporting.tables"} < set(MODULES)
    assert not loaded_by(*MODULES) & {"torch", "recbole", "sklearn", "torch_geometric", "transformers"}


@pytest.mark.parametrize("module", ["recbole_llm.reporting.tables", "recbole_llm.evaluation.metrics"])
def test_tables_start_without_what_they_may_not_need(module: str) -> None:
    """Statistics packages take half a second to load, and a table without a comparison needs none."""
    assert not loaded_by(module) & {"statsmodels", "pandas", "jinja2"}
