"""What a command may spend, and what it has spent."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Usage:
    """What was asked and what it cost; answers found in the cache cost nothing again."""

    requests: int = 0
    cached: int = 0
    failed: int = 0
    attempts: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    price: float = 0.0
    stopped: str = ""
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, other: Usage) -> None:
        """Add what another client sent, not what its answers cost: that is counted when they are read."""
        for name in ("requests", "cached", "failed", "attempts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind, count in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + count
        self.stopped = self.stopped or other.stopped


class LimitReached(Exception):  # noqa: N818 - a stop, not a fault
    """No further request may be sent (budget, count); what is under way is finished."""


class Budget:
    """Requests and US dollars of one command.

    Args:
        max_cost: US dollars that may be spent; ``None`` for no limit, 0 for no request, a free one neither.
        max_requests: requests that may be sent; ``None`` for no limit.
    """

    def __init__(self, max_cost: float | None = None, max_requests: int | None = None) -> None:
        self.max_cost, self.max_requests = max_cost, max_requests
        self.spent = 0.0
        self.requests = 0
        self._reserved = 0.0

    @property
    def asks_nothing(self) -> bool:
        """Whether the limits allow no request at all."""
        return self.max_cost == 0 or self.max_requests == 0

    def reserve(self, likely: float) -> None:
        """Count a request and set its likely price aside.

        Raises:
            LimitReached: it could exceed a limit.
        """
        if self.max_requests is not None and self.requests >= self.max_requests:
            raise LimitReached(f"--max_requests={self.max_requests} is reached")
        self.check(likely)
        self._reserved += likely
        self.requests += 1

    def check(self, likely: float = 0.0) -> None:
        """Hold what is spent, what is set aside and a further price against the limit.

        Raises:
            LimitReached: they could exceed it.
        """
        if self.max_cost is not None and (not self.max_cost or self.spent + self._reserved + likely > self.max_cost):
            raise LimitReached(f"--max_cost={self.max_cost} is reached ({self.spent:.4f} US$ spent)")

    def spend(self, price: float) -> None:
        """Count what an answer really cost."""
        self.spent += price

    def release(self, likely: float) -> None:
        """Give back what was set aside for a request that has ended."""
        self._reserved = max(0.0, self._reserved - likely)
