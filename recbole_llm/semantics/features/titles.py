"""``titles``: the items' own texts (``.itemtext``), for methods that read nothing else."""

from __future__ import annotations

from typing import Any, ClassVar

from recbole_llm.semantics.features.base import Context


class Titles:
    """Titles and categories of the metadata; the hook writes them for every method with features."""

    name: ClassVar[str] = "titles"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = ()
    settings_keys: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ("itemtext",)

    def build(self, context: Context) -> dict[str, Any]:
        """Nothing is left to write; says how many items have a title."""
        return {"coverage": round(context.items.named, 4)}
