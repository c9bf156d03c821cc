"""RecBole's ``Interaction`` with columns that are built when first read, so that unread ones cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from recbole.data.interaction import Interaction

Source = Callable[[], torch.Tensor]  # makes one column


class LazyInteraction(Interaction):
    """RecBole's ``Interaction`` made of functions instead of tensors; each is called when its column is first read.

    Args:
        sources: for each column, a function that returns its tensor, first dimension ``length``.
        length: number of rows.
    """

    def __init__(self, sources: Mapping[str, Source], length: int) -> None:
        # The parent's constructor is not called, because it would build every column.
        self._sources = dict(sources)
        self._ready: dict[str, torch.Tensor] = {}
        self.length = length

    @property
    def interaction(self) -> dict[str, torch.Tensor]:
        """All columns, built; code that works on the whole batch pays for the whole batch."""
        for name in list(self._sources):
            self[name]
        return self._ready

    @interaction.setter
    def interaction(self, columns: dict[str, torch.Tensor]) -> None:
        self._sources, self._ready = {}, columns

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if not isinstance(index, str):
            return super().__getitem__(index)
        if index not in self._ready:
            self._ready[index] = self._sources.pop(index)()
        return self._ready[index]

    def __setitem__(self, key: str, value: torch.Tensor) -> None:
        self._sources.pop(key, None)
        self._ready[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(f"{key} is not in this interaction")
        self._sources.pop(key, None)
        self._ready.pop(key, None)

    def __contains__(self, item: str) -> bool:
        return item in self._ready or item in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter([*self._ready, *self._sources])

    def __getattr__(self, item: str) -> torch.Tensor:
        if item.startswith("_") or item not in self:
            raise AttributeError(f"'LazyInteraction' object has no attribute {item!r}")
        return self[item]

    def __deepcopy__(self, memo: dict[int, object]) -> LazyInteraction:
        # The default would copy everything that the sources refer to: the whole dataset.
        copied = LazyInteraction(self._sources, self.length)
        copied._ready = {name: value.clone() for name, value in self._ready.items()}
        return copied

    @property
    def columns(self) -> list[str]:
        """Names of all columns, built or not."""
        return list(self)

    def unread(self, name: str) -> bool:
        """Whether there is a column of that name and nobody has read it yet."""
        return name in self._sources

    def add(self, name: str, source: Source) -> None:
        """Add a column that is built on first use."""
        self._ready.pop(name, None)
        self._sources[name] = source

    def update(self, new_inter: Interaction) -> None:
        """Set the columns of another interaction in this one."""
        for name in new_inter:
            self[name] = new_inter[name]

    def drop(self, column: str) -> None:
        """Remove a column; raises ``ValueError`` if there is no such column, as in RecBole."""
        if column not in self:
            raise ValueError(f"Column [{column}] is not in [{self.columns}].")
        del self[column]
