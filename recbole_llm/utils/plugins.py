"""A user's code from outside the package: classes named ``module:Class``, and files beside their modules."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.utils.files import file_sha256
from recbole_llm.utils.text import one_line
from recbole_llm.utils.typed_code import file_of, hash_of_typed


def _module(name: str, where: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the console script does not look in the current folder by itself
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name + ".").startswith(error.name + "."):
            raise UserError(
                f"{where}: there is no module {error.name!r}. Give package.module:Name, importable from here."
            ) from error
        raise UserError(
            f"{where} needs the package {error.name!r}, which is not installed: pip install {error.name}"
        ) from error
    except SyntaxError as error:
        raise UserError(f"{where}: {error.filename}, line {error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:  # the module can raise anything, or call exit()
        raise UserError(f"{where}: importing {name} fails: {type(error).__name__}: {one_line(error, 200)}") from error


def load_class(target: str, where: str) -> type:
    """The class that ``module:Class`` names.

    Args:
        target: the lazy path.
        where: what to blame in a message, such as ``--model=package.module:Class``.

    Raises:
        UserError: the module or class does not exist or cannot be imported, or a library that it needs is missing.
    """
    module_name, _, name = target.partition(":")
    module = _module(module_name, where)
    found: Any = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(f"{where}: {module_name} has no class {name!r}.{did_you_mean(name, classes)}")
    return found


def code_of(model_class: type) -> dict[str, str]:
    """SHA-256, by module, of the code of a class and of its bases in the same package.

    It is that of the modules' source files, or of the classes themselves if they were typed into a session.
    """
    package = model_class.__module__.partition(".")[0]
    classes = [one for one in model_class.__mro__ if one.__module__.partition(".")[0] == package]
    modules = sorted({one.__module__ for one in classes})
    return {name: _hash_of_file(model_class, name) or hash_of_typed(classes) for name in modules}


@cache  # from the first call: the files may be edited while they run
def _hash_of_file(model_class: type, module: str) -> str | None:
    file = file_of(module)
    return None if file is None else file_sha256(file)


def module_folder(name: str, where: str) -> Path:
    """The folder of a module's file or of a package; the current one for an interactive session.

    Raises:
        UserError: there is no such module, or it cannot be imported.
    """
    module = _module(name, where)
    file = getattr(module, "__file__", None)
    return (Path(file).parent if file else Path(next(iter(getattr(module, "__path__", ["."]))))).resolve()
