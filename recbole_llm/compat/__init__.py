"""Everything that knows RecBole's faults: mends, its configuration, faster subclasses.

RecBole 1.2 does not run on today's numpy, pandas, scipy and torch. :mod:`~recbole_llm.compat.mends` mends it in
memory. That has to happen when RecBole is imported, be it by this package, a model of the user's own, or a
notebook. So importing ``recbole_llm`` puts a hook before the import of ``recbole``; RecBole itself, and torch, are
imported only where they are needed.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType


class _MendingLoader(Loader):
    """Loads the package ``recbole`` as its own loader does, and mends it before anyone gets it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """What the package's own loader creates."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run ``recbole/__init__.py``, then the mends."""
        self._loader.exec_module(module)
        _mend()


class _MendingFinder(MetaPathFinder):
    """Finds ``recbole`` and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The package's usual place, with a loader that mends."""
        if fullname != "recbole":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _MendingLoader(spec.loader)
        return spec


def mend_on_import() -> None:
    """Mend RecBole as soon as anything imports it; at once where something has."""
    if "recbole" in sys.modules:
        _mend()
    elif not any(isinstance(finder, _MendingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MendingFinder())


def _mend() -> None:
    from recbole_llm.compat import mends  # brings torch along, which most commands never need

    mends.apply()
