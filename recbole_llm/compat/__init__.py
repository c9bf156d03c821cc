"""Everything that works around RecBole: compatibility fixes, its configuration, faster subclasses.

RecBole 1.2 does not run on today's numpy, pandas, scipy and torch. :mod:`~recbole_llm.compat.mends` fixes it in
memory. The fixes must be applied when RecBole is imported, whether by this package, a user's own model or a
notebook. Importing ``recbole_llm`` therefore installs an import hook for ``recbole``; RecBole itself, and torch, are
imported only when needed.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType


class _MendingLoader(Loader):
    """Loads the package ``recbole`` with its own loader and applies the fixes before the import returns."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """The module that the package's own loader creates."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run ``recbole/__init__.py``, then apply the fixes."""
        self._loader.exec_module(module)
        _mend()


class _MendingFinder(MetaPathFinder):
    """Finds ``recbole`` and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The package's usual spec, with a loader that applies the fixes."""
        if fullname != "recbole":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _MendingLoader(spec.loader)
        return spec


def mend_on_import() -> None:
    """Apply the fixes as soon as RecBole is imported, or at once if it already is."""
    if "recbole" in sys.modules:
        _mend()
    elif not any(isinstance(finder, _MendingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MendingFinder())


def _mend() -> None:
    from recbole_llm.compat import mends  # imports torch, which most commands never need

    mends.apply()
