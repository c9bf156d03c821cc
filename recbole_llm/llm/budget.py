"""What a command may spend, and what it has spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recbole_llm.llm.chat import ChatAnswer

HIGHER = "run the same command with a higher limit to go on"
AGAIN = "run the same command to go on"
TOP_UP = "top up the account, then run the same command to go on"


@dataclass
class Usage:
    """What was asked and what it cost; answers found in the cache are not paid for again.

    Attributes:
        requests: questions that were sent, each counted once however often it was tried.
        cached: questions whose answer was in the cache.
        failed: questions without an answer.
        attempts: requests that were sent, retries included.
        tokens_in, tokens_out, price: tokens and US dollars of the answers, hidden reasoning included.
        cached_in, reasoning: of these, tokens read from the server's cache of prefixes, and tokens of reasoning.
        spoilt, spoilt_price: responses that were billed and could not be read, and what they cost.
        errors: failed attempts by kind.
        parameters: parameters that the endpoint turned out not to take, and what was sent instead.
        last_words: the last message of an endpoint or a connection that failed.
        stopped, remedy: why no further question was sent, and what to do; empty if all were sent.
    """

    requests: int = 0
    cached: int = 0
    failed: int = 0
    attempts: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    price: float = 0.0
    cached_in: int = 0
    reasoning: int = 0
    spoilt: int = 0
    spoilt_price: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    last_words: str = ""
    stopped: str = ""
    remedy: str = ""

    def add(self, other: Usage) -> None:
        """Add what another client sent; the cost of its answers is counted when they are read."""
        for name in ("requests", "cached", "failed", "attempts", "spoilt", "spoilt_price"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.price += other.spoilt_price
        for kind, count in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + count
        self.parameters |= other.parameters
        self.last_words = other.last_words or self.last_words
        if not self.stopped:
            self.stopped, self.remedy = other.stopped, other.remedy

    def add_spoilt(self, earlier: Mapping[str, Any]) -> None:
        """Add the spoilt responses among the :meth:`facts` of an earlier command; its answers are read again."""
        price = float(earlier.get("spoilt_price", 0.0))
        self.spoilt += int(earlier.get("spoilt", 0))
        self.spoilt_price += price
        self.price += price

    def read(self, answer: ChatAnswer, price: float) -> None:
        """Add an answer's tokens and price."""
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out
        self.cached_in += answer.cached
        self.reasoning += answer.reasoning
        self.price += price

    def facts(self) -> dict[str, Any]:
        """For the manifest: without messages, and without the newer counts where they are zero."""
        newer = ("cached_in", "reasoning", "spoilt", "spoilt_price", "parameters")
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("last_words", "stopped", "remedy") and (value or name not in newer)
        }


class LimitReached(Exception):  # noqa: N818 - a stop, not a fault
    """No further request may be sent; those in progress are finished.

    Args:
        reason: why.
        remedy: what to do to go on.
    """

    def __init__(self, reason: str, remedy: str = AGAIN) -> None:
        super().__init__(reason)
        self.remedy = remedy


class Budget:
    """The requests and US dollars that one command may spend, and has spent.

    Args:
        max_cost: US dollars that may be spent; ``None`` for no limit, 0 to send no request, not even a free one.
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
            raise LimitReached(f"--max_requests={self.max_requests} is reached", HIGHER)
        self.check(likely)
        self._reserved += likely
        self.requests += 1

    def check(self, likely: float = 0.0) -> None:
        """Check that spent money, money set aside and a further price stay within the limit.

        Raises:
            LimitReached: together they could exceed it.
        """
        if self.max_cost is not None and (not self.max_cost or self.spent + self._reserved + likely > self.max_cost):
            coming = f", the next request may cost {likely:.2g}" if likely else ""
            raise LimitReached(f"--max_cost={self.max_cost} is reached ({self.spent:.4f} US$ spent{coming})", HIGHER)

    def spend(self, price: float) -> None:
        """Count what an answer really cost."""
        self.spent += price

    def release(self, likely: float) -> None:
        """Give back what was set aside for a request that has ended."""
        self._reserved = max(0.0, self._reserved - likely)
