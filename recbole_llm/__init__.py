"""recbole_llm: does an LLM-enhanced recommender beat a well-tuned ordinary one, by how much, at what cost?

The Python API has the verbs of the command line::

    import recbole_llm

    records = recbole_llm.run(model="SRGNN,LLMDMsRec", dataset="ml-100k", seeds=[1, 2])
    frame = recbole_llm.results("results")
"""

from __future__ import annotations

from recbole_llm.compat import mend_on_import
from recbole_llm.utils.environment import package_version, prepare_threads

prepare_threads()  # before anything imports torch
mend_on_import()

from recbole_llm.api import (  # noqa: E402
    doctor,
    generate,
    per_user,
    prepare,
    recommend,
    report,
    results,
    run,
    suite,
    table,
    tune,
)
from recbole_llm.api import list_ as list  # noqa: E402
from recbole_llm.registry import Method, register  # noqa: E402

__version__ = package_version()
__all__ = [
    "Method",
    "__version__",
    "doctor",
    "generate",
    "list",
    "per_user",
    "prepare",
    "recommend",
    "register",
    "report",
    "results",
    "run",
    "suite",
    "table",
    "tune",
]
