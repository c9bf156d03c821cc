"""recbole_llm: does an LLM-enhanced recommender beat a well-tuned ordinary one, by how much, at what cost?

The Python API has the verbs of the command line::

    import recbole_llm

    records = recbole_llm.run(model="SRGNN,LLMDMsRec", dataset="ml-100k", seeds=[1, 2])
    frame = recbole_llm.results("results")
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from recbole_llm.compat import mend_on_import
from recbole_llm.utils.environment import package_version, prepare_threads

prepare_threads()  # before anything imports torch
mend_on_import()

if TYPE_CHECKING:
    from recbole_llm.api import (
        advise,
        answers,
        board,
        doctor,
        estimate,
        estimate_suite,
        generate,
        prepare,
        probe,
        recommend,
        report,
        run,
        submit,
        suite,
        table,
        tune,
    )
    from recbole_llm.api import list_ as list
    from recbole_llm.registry import Method, register
    from recbole_llm.reporting.frames import curves, per_user, results, table_rows

__version__ = package_version()
__all__ = [
    "Method",
    "__version__",
    "advise",
    "answers",
    "board",
    "curves",
    "doctor",
    "estimate",
    "estimate_suite",
    "generate",
    "list",
    "per_user",
    "prepare",
    "probe",
    "recommend",
    "register",
    "report",
    "results",
    "run",
    "submit",
    "suite",
    "table",
    "table_rows",
    "tune",
]
_HOMES = dict.fromkeys(__all__, "api") | {
    **dict.fromkeys(("Method", "register"), "registry"),
    **dict.fromkeys(("curves", "per_user", "results", "table_rows"), "reporting.frames"),
}


def __getattr__(name: str) -> Any:
    """Import a name of the API on first use, so that importing one part of the package loads only what it needs."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), "list_" if name == "list" else name)


def __dir__() -> Iterable[str]:
    """The names of the API, which notebooks complete, though they are imported on first use."""
    return sorted({*globals(), *__all__})
