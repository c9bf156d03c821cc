"""Which runs read which files of ``--vectors``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from recbole_llm.errors import UserError
from recbole_llm.features.vectors import read_vectors
from recbole_llm.registry import find_method, methods, recbole_methods
from recbole_llm.settings.layers import Settings, layer_settings, stage_one_settings
from recbole_llm.settings.rules import vectors_read
from recbole_llm.settings.schema import ITEM, USER


def with_vectors_read(settings: Settings) -> Settings:
    """The settings with only those ``vectors`` files that the run reads, so that others change no result and no name.

    Vectors of items come first, so that the order in which files are given does not make another run.

    Raises:
        UserError: a file cannot be read.
    """
    given = settings.get("vectors") or []
    read = set() if settings["semantics"] == "none" or not given else _read(settings)
    kept = [path for path in given if read and read_vectors(Path(path)).key in read]
    kept.sort(key=lambda path: read_vectors(Path(path)).key)
    return settings.replaced(vectors=kept or None)


def check_vectors_read(runs: Iterable[Settings]) -> None:
    """Refuse a file of vectors that no run of a command reads.

    Runs without semantics (``semantics: none``) ignore vectors on purpose; they count with what they would read.

    Args:
        runs: the settings of all runs as the user gave them.

    Raises:
        UserError: there is such a file.
    """
    of = [(settings, Path(path)) for settings in runs for path in settings.get("vectors") or ()]
    read = {path: set[str]() for _, path in of}
    for settings, path in of:
        read[path] |= _read(settings)
    for path, kinds in read.items():
        if (key := read_vectors(path).key) not in kinds:
            named = ", ".join(dict.fromkeys(one.method.name for one, other in of if other == path))
            raise UserError(
                f"--vectors={path} has one row a {key}, and nothing here reads such vectors ({named}): leave it out or "
                "take another model. Under their default settings vectors of items are read by "
                f"{', '.join(readers(ITEM))}, and by any sequential model with --init=vectors; those of users by "
                f"{', '.join(readers(USER))}."
            )


def readers(key: str) -> list[str]:
    """Models that read vectors of items (``item_id``) or users (``user_id``) under their default settings."""
    rows = [*methods().values(), *recbole_methods().values()]
    names = sorted(row.name for row in rows if row.features and not row.is_external)
    found = (layer_settings(find_method(name), "ml-100k") for name in names)
    return [settings.method.name for settings in found if key in vectors_read(settings.method, settings.values)]


def _read(settings: Settings) -> set[str]:
    """The kinds of vectors (``item_id``, ``user_id``) that a run reads, its stage-one model included."""
    found = vectors_read(settings.method, settings.values)
    if settings.method.stage_one is not None:
        below = stage_one_settings(settings)
        found |= vectors_read(below.method, below.values)
    return found
