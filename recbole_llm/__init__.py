"""recbole_llm: does an LLM-enhanced recommender beat a well-tuned ordinary one, by how much, at what cost?

The Python API::

    import recbole_llm

    records = recbole_llm.run(model="SRGNN,LLMDMsRec", dataset="ml-100k", seeds=[1, 2])
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llm.compat import mend_on_import
from recbole_llm.utils.environment import prepare_threads

prepare_threads()  # before anything imports torch
mend_on_import()

if TYPE_CHECKING:
    from recbole_llm.experiments.record import Record

__version__ = (Path(__file__).parent / "VERSION").read_text(encoding="utf-8").strip()
__all__ = ["__version__", "run"]


def run(model: Any, dataset: str, **settings: Any) -> list[Record]:
    """Train and evaluate; see :func:`recbole_llm.experiments.grid.run`."""
    from recbole_llm.experiments.launch import run as run_grid

    return run_grid(model=model, dataset=dataset, **settings)
