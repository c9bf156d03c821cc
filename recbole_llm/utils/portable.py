"""Values that can be shown to others: without the paths of the machine that they come from."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

_WHOLE = re.compile(r"(?:/|~/|[A-Za-z]:[\\/]|\\\\)[^\n]*")
# A path in a sentence: at least two names deep, and not part of an address (https://a/b), of a relative path (a/b) or
# of a path that is portable already (…/0a1b2c/b).
_WITHIN = re.compile(r"(?<![\w.:/~-])(?!(?<=…)/[0-9a-f]{6}/)~?(?:/[\w.+@=-]+){2,}/?|\b[A-Za-z]:\\[\w.+@=\\-]+")


def portable(value: Any) -> Any:
    """A JSON value with its absolute paths made relative to the working folder.

    A path outside that folder becomes ``…/0a1b2c/name``, with digits of its hash, so that different paths stay so.
    """
    if isinstance(value, dict):
        return {key: portable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(part) for part in value]
    if not isinstance(value, str) or not ("/" in value or "\\" in value):
        return value
    whole = _WHOLE.fullmatch(value) and " /" not in value
    found = _short(value) if whole else _WITHIN.sub(lambda path: _short(path[0]), value)
    return found if found == value else portable(found)  # records are converted each time they are read


def _short(text: str) -> str:
    if text.startswith("/"):
        path: PurePosixPath | PureWindowsPath = PurePosixPath(text)
        if path == PurePosixPath("/"):
            return text
        here = PurePosixPath(Path.cwd().as_posix())
        if here != PurePosixPath("/") and path.is_relative_to(here):
            return str(path.relative_to(here))
    else:
        path = PurePosixPath(text) if text.startswith("~") else PureWindowsPath(text)
    return f"…/{hashlib.sha256(text.encode()).hexdigest()[:6]}/{path.name}"
