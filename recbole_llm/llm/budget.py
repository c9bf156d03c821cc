"""What one command may spend: shared by all features and cells that it asks for."""

from __future__ import annotations


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
