"""Token to id."""

from __future__ import annotations

from typing import Any

import numpy as np


class TokenIndex(dict):
    """Token to id, filled on first use: most runs never look a token up."""

    def __init__(self, tokens: np.ndarray) -> None:
        super().__init__()
        self._tokens: np.ndarray | None = tokens

    def _fill(self) -> None:
        if self._tokens is not None:
            tokens, self._tokens = self._tokens, None
            self.update(zip(tokens.tolist(), range(len(tokens)), strict=True))

    def __missing__(self, token: str) -> int:
        if self._tokens is None:
            raise KeyError(token)
        self._fill()
        return self[token]

    def __contains__(self, token: object) -> bool:
        self._fill()
        return super().__contains__(token)

    def get(self, token: str, default: Any = None) -> Any:
        """The id of a token, or the default."""
        self._fill()
        return super().get(token, default)
