"""The models that exist: ours, with one row each, and RecBole's, by name.

Nothing here imports torch or RecBole: a row names its class as ``module:Class`` and is loaded on use.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, check_known, did_you_mean
from recbole_llm.utils.plugins import load_class, module_folder

SEQUENTIAL = "sequential"
GENERAL = "general"
CONTEXT = "context"
KNOWLEDGE = "knowledge"
EXTERNAL_LIBRARY = "exlib"


@dataclass(frozen=True)
class Method:
    """One row of the registry.

    Attributes:
        name: what ``--model`` takes.
        target: lazy class path, ``module:Class``.
        kind: ``sequential``, ``general``, ``context``, ``knowledge`` or ``exlib``.
        paper: where the method comes from; empty for RecBole's models, whose docstrings say it.
        features: semantic features that the model reads (their names, or ``module:Class``).
        stage_one: the setting that names another model, whose trained checkpoint this one needs; or ``None``.
        backbone: the setting that names the model it is built on, whose settings it takes too; or ``None``.
        protocols: protocols the method supports; empty means all.
        settings_of: for a class from outside, the known model that it extends and whose defaults it takes.
        text: for a method whose features are texts and no answers, what its rows name in place of the LLM:
            ``text`` or ``codes``.
        serves_alone: whether the model uses its features in training only, so that scores need none.
        settings: lazy path of the class that defines its settings; empty if only RecBole's YAML files define them.
    """

    name: str
    target: str
    kind: str
    paper: str = ""
    features: tuple[str, ...] = ()
    stage_one: str | None = None
    backbone: str | None = None
    protocols: tuple[str, ...] = ()
    settings_of: str = ""
    text: str = ""
    serves_alone: bool = False
    settings: str = ""

    @property
    def is_external(self) -> bool:
        """Whether the class comes from neither this package nor RecBole."""
        return not self.target.startswith(("recbole_llm.", "recbole."))

    @property
    def trained_as(self) -> str:
        """The name of the model whose loader, trainer, dataset and stages it has: the known one that it extends."""
        return self.settings_of if self.is_external and self.settings_of else self.name

    def load(self) -> type:
        """Import and return the model class.

        Raises:
            UserError: the module or class does not exist, or a library that it needs is missing.
        """
        return load_class(self.target, f"--model={self.target if self.is_external else self.name}")

    @property
    def properties(self) -> Path | None:
        """``properties/`` beside the module of a class from outside; ``None`` where there is none."""
        if not self.is_external:
            return None
        try:
            folder = module_folder(self.target.partition(":")[0], f"--model={self.target}") / "properties"
        except UserError:
            return None  # load() reports the error
        return folder if folder.is_dir() else None


_METHODS: dict[str, Method] = {}
_FEATURES: dict[str, str] = {
    "itemtext": "recbole_llm.features.item_texts:ItemTextIds",
    "codes": "recbole_llm.features.item_texts:TextCodes",
}
_PACKAGES = Path(__file__).parent / "methods"


@cache
def _register_built_in() -> None:
    """Import the packages of the built-in methods, which register themselves; they import neither torch nor RecBole.

    The five methods come first and the baselines last, which is also the order of lists.
    """
    names = sorted(folder.name for folder in _PACKAGES.iterdir() if (folder / "__init__.py").is_file())
    for name in sorted(names, key=lambda name: name == "baselines"):
        importlib.import_module(f"recbole_llm.methods.{name}")


def methods() -> dict[str, Method]:
    """The registered models by name: the built-in ones, and those that were added from outside."""
    _register_built_in()
    return _METHODS


def features() -> dict[str, str]:
    """Lazy class paths of the semantic features that have a short name."""
    _register_built_in()
    return _FEATURES


# RecBole's models that can be trained here at every position and with other losses too (``compat/fast.py``).
NEXT_ITEM = ("SASRec", "GRU4Rec")
_NEXT_ITEM_SETTINGS = "recbole_llm.settings.core:NextItemSettings"

# RecBole's models that read item features get the clusters of the items' texts as a column.
TEXT_CODE = "text_code"
CODED = ("SASRecF", "GRU4RecF", "FDSA", "S3Rec")

_RECBOLE_FOLDERS = {
    "general_recommender": GENERAL,
    "sequential_recommender": SEQUENTIAL,
    "context_aware_recommender": CONTEXT,
    "knowledge_aware_recommender": KNOWLEDGE,
    "exlib_recommender": EXTERNAL_LIBRARY,
}


@cache
def recbole_folder() -> Path:
    """Folder of the installed RecBole, found without importing it."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("RecBole is not installed: pip install 'recbole>=1.2.0,<1.3'")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def recbole_methods() -> dict[str, Method]:
    """RecBole's models by name, read from its files (class definitions), not imported."""
    rows: dict[str, Method] = {}
    for folder, kind in _RECBOLE_FOLDERS.items():
        for file in sorted((recbole_folder() / "model" / folder).glob("*.py")):
            if file.stem == "__init__":
                continue
            for name in re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), flags=re.M):
                if name.lower() == file.stem:
                    row = Method(name, f"recbole.model.{folder}.{file.stem}:{name}", kind)
                    row = replace(row, features=("codes",), text="codes") if name in CODED else row
                    rows[name] = replace(row, settings=_NEXT_ITEM_SETTINGS) if name in NEXT_ITEM else row
    return rows


def register(method: Method, features: Mapping[str, str] | None = None) -> None:
    """Add a model under a name, so that grids and tables can use it.

    Args:
        method: the model's row.
        features: lazy class paths (``module:Class``) of features, by the short names that the row may use for them.

    Raises:
        UserError: the name is taken by another class.
    """
    known = _METHODS.get(method.name) or recbole_methods().get(method.name)
    if known is not None and known.target != method.target:
        raise UserError(f"the model name {method.name!r} is taken by {known.target}; choose another.")
    _METHODS[method.name] = method
    _FEATURES.update(features or {})


# The keys that ``registry_row`` of a class from outside may have; the other fields follow from the class.
ROW_KEYS = ("paper", "features", "stage_one", "backbone", "protocols", "text", "serves_alone", "settings")


def _by_path(target: str) -> Method:
    """The row of the model at a class path: one of ours, one of RecBole's, or a class from outside.

    A class from outside takes the row of its nearest base class that is a known model, and replaces what its
    ``registry_row`` names.

    Raises:
        UserError: the class cannot be loaded, or its ``registry_row`` has an unknown key or a text in place of a list.
    """
    row = Method(target.rpartition(":")[2], target, GENERAL)
    model_class = row.load()
    known = {row.target: row for row in {**recbole_methods(), **methods()}.values()}
    itself, *bases = (known.get(f"{one.__module__}:{one.__name__}") for one in model_class.__mro__)
    if itself is not None and not itself.is_external:
        return itself
    base = next(filter(None, bases), None)
    if base is not None:
        row = replace(base, name=row.name, target=target, paper="", settings_of=base.settings_of or base.name)
    given = getattr(model_class, "registry_row", {})
    for key, value in dict(given).items():
        check_known(f"--model={target}, registry_row: there is no {key!r}", key, ROW_KEYS)
        if key in ("features", "protocols") and isinstance(value, str):
            raise UserError(f"--model={target}, registry_row: {key} is a list, such as ({value!r},).")
    lists = {key: tuple(given[key]) for key in ("features", "protocols") if key in given}
    return replace(row, **{**given, **lists}, kind=kind_of(model_class))


def reads_graph(method: Method) -> bool:
    """Whether RecBole's dataset for the model reads ``.kg`` and ``.link``; asking RecBole would import it and torch."""
    return method.kind == KNOWLEDGE or method.trained_as in ("GRU4RecKG", "KSR")


def find_method(name: str) -> Method:
    """The row for ``--model=name``; ``package.module:Class`` names a class from outside.

    Raises:
        UserError: no such model, with the nearest names.
    """
    if name in methods():
        return methods()[name]
    if name in recbole_methods():
        return recbole_methods()[name]
    if ":" in name:
        return _by_path(name)
    known = [*methods(), *recbole_methods()]
    raise UserError(
        f"--model={name}: there is no such model.{did_you_mean(name, known)} "
        "`recbole-llm list models` shows all; package.module:Class names a class of your own."
    )


def kind_of(model_class: Any) -> str:
    """Kind of a loaded RecBole model class, from its ``type`` attribute."""
    value = getattr(getattr(model_class, "type", None), "name", "")
    kinds = {"SEQUENTIAL": SEQUENTIAL, "CONTEXT": CONTEXT, "KNOWLEDGE": KNOWLEDGE, "DECISIONTREE": EXTERNAL_LIBRARY}
    return kinds.get(value, GENERAL)
