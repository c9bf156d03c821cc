"""Live answers: asking an endpoint, bounded, limited, retried, counted, and never twice for the same question."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from aiolimiter import AsyncLimiter

from recbole_llm.errors import UserError
from recbole_llm.llm.budget import Budget, LimitReached, Usage
from recbole_llm.llm.cache import ResponseCache, owner_of_claims
from recbole_llm.llm.chat import ChatAnswer, ChatRequest, Script, follow
from recbole_llm.llm.completion import chat_body, error_words, read_completion, usage_of
from recbole_llm.llm.endpoint import Endpoint, redact
from recbole_llm.llm.wire import MALFORMED, Response, Wire, WireFault

logger = logging.getLogger(__name__)

RETRIED = {408, 409, 425, 429}
THROTTLED = "HTTP 429"
LONGEST_PAUSE = 60.0
LONGEST_WAIT = 300.0  # seconds of a Retry-After; a server that asks for more is left alone
HOPELESS_AFTER = 5  # refused requests in a row, without one success, before all stop
THROTTLED_TIMES = 5  # a request may be told to come later this many times as often as it may fail
DEAD_AFTER = 32  # failed attempts in a row (or two for each place of the client) that a dead server explains
NO_CREDIT = ("insufficient_quota", "insufficient_balance", "billing_hard_limit_reached")
LOOK_AGAIN = 0.2  # seconds between two looks for the answer to a question that another command asks


class _Refusal(Exception):  # noqa: N818 - the server's, not ours
    """A response that no retry mends."""

    def __init__(self, response: Response) -> None:
        super().__init__(error_words(response))
        self.status = response.status


class Client:
    """Answers chat requests from the cache or from an endpoint.

    Args:
        endpoint: where to ask.
        cache: where answers are kept, and the claims of all commands that ask.
        budget: what the whole command may spend; no limit where there is none.
        seed: of the jitter in pauses.
    """

    def __init__(self, endpoint: Endpoint, cache: ResponseCache, budget: Budget | None = None, seed: int = 0) -> None:
        self.endpoint, self.cache = endpoint, cache
        self.budget = budget or Budget()
        self.usage = Usage()
        self._random = random.Random(seed)  # noqa: S311 - jitter, not a secret
        self._resume_at = 0.0
        self._refused_in_a_row = 0
        self._faults_in_a_row = 0
        self._last_success = 0.0
        self._under_way: dict[str, asyncio.Task[ChatAnswer | None]] = {}
        self._owner = owner_of_claims()
        self._wire: Wire | None = None

    # ---- running scripts -----------------------------------------------------------------------

    def run(self, scripts: Iterable[Script], done: Callable[[], None] | None = None) -> Usage:
        """Drive all scripts to their end, ``concurrency`` of them at once.

        Args:
            scripts: taken one by one as places become free, so that a million need no memory.
            done: called after each.

        Raises:
            UserError: the endpoint refuses the key, the model or every request.
        """
        _run_to_the_end(self._run(iter(scripts), done))
        return self.usage

    async def _run(self, scripts: Iterator[Script], done: Callable[[], None] | None) -> None:
        limits = self.endpoint
        self._requests_limit = AsyncLimiter(limits.requests_per_minute, 60) if limits.requests_per_minute else None
        self._tokens_limit = AsyncLimiter(limits.tokens_per_minute, 60) if limits.tokens_per_minute else None
        keeping = asyncio.create_task(self._keep_claims())
        workers = [asyncio.create_task(self._work(scripts, done)) for _ in range(max(1, limits.concurrency))]
        try:
            await asyncio.gather(*workers)
        finally:
            tasks = [keeping, *workers, *self._under_way.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._wire is not None:
                await self._wire.close()
                self._wire = None

    async def _keep_claims(self) -> None:
        """Renew the claims on the questions that are under way, before others take them for abandoned."""
        while True:
            await asyncio.sleep(self.cache.lease / 3)
            if self._under_way:
                self.cache.renew_claims(self._owner)

    async def _work(self, scripts: Iterator[Script], done: Callable[[], None] | None) -> None:
        for script in scripts:
            try:
                await follow(script, self)
            except LimitReached as reason:
                self.usage.stopped = str(reason)
                return
            if done is not None:
                done()

    async def answer(self, request: ChatRequest) -> ChatAnswer | None:
        """From the cache, from the same question under way, or from the endpoint."""
        request = self.endpoint.addressed(request)
        found = self.cache.get(request.key)
        if found is not None:
            self.usage.cached += 1
            await asyncio.sleep(0)  # answers that have come meanwhile are stored before the next one is looked up
            return found
        task = self._under_way.get(request.key)
        if task is None:
            task = self._under_way[request.key] = asyncio.create_task(self._ask_once(request))
            task.add_done_callback(lambda _: self._under_way.pop(request.key))
        return await asyncio.shield(task)

    async def _ask_once(self, request: ChatRequest) -> ChatAnswer | None:
        """Ask, unless another command asks the same: then wait for its answer."""
        claimed = self.cache.claim(request.key, self._owner)
        while not claimed:
            await asyncio.sleep(LOOK_AGAIN)
            claimed = self.cache.get(request.key) is not None or self.cache.claim(request.key, self._owner)
        try:
            found = self.cache.get(request.key)  # answered by the other one, perhaps just before its claim ended
            if found is not None:
                self.usage.cached += 1
                return found
            found = await self._ask(request)
            if found is not None:
                self.cache.put(request, found)
            return found
        finally:
            self.cache.drop_claim(request.key, self._owner)

    # ---- one request ---------------------------------------------------------------------------

    async def _ask(self, request: ChatRequest) -> ChatAnswer | None:
        """Ask until answered, refused for good, or out of attempts (then ``None``, counted as failed)."""
        likely = self.endpoint.price(request.estimated_tokens(), request.max_tokens)
        self.budget.reserve(likely)
        self.usage.requests += 1
        try:
            answer = await self._attempts(request)
            self.usage.failed += answer is None
            return answer
        finally:
            self.budget.release(likely)

    async def _attempts(self, request: ChatRequest) -> ChatAnswer | None:
        faults = 0
        for attempt in range(1, self.endpoint.attempts * THROTTLED_TIMES + 1):
            await self._wait_for_turn(request)
            self.usage.attempts += 1
            try:
                answer = await self._send(request)
            except WireFault as fault:
                self._count_error(fault.kind)
                self.budget.check()  # what was spoilt may have been paid for; what was set aside is for one answer
                throttled = fault.kind == THROTTLED  # a server that throttles is well
                pause = self._pause(attempt, fault.headers, throttled)
            except _Refusal as refusal:
                self._count_error(f"HTTP {refusal.status}")
                self._refused(refusal)
                return None
            else:
                self._refused_in_a_row = self._faults_in_a_row = 0
                self._last_success = time.monotonic()
                return answer
            faults += not throttled
            if faults >= self.endpoint.attempts:
                return None
            self._stop_if_dead(throttled)
            await asyncio.sleep(pause)
        return None

    async def _send(self, request: ChatRequest) -> ChatAnswer:
        """One attempt.

        Raises:
            WireFault: it failed; another one may not.
            _Refusal: it was refused.
            LimitReached: the account is empty.
        """
        response = await self._connected().post({**chat_body(self.endpoint, request), **self.endpoint.extra})
        if response.status != 200:
            self._stop_without_credit(response)
            if response.status in RETRIED or response.status >= 500 or response.status < 300:
                raise WireFault(f"HTTP {response.status}", error_words(response), response.headers)
            raise _Refusal(response)
        try:
            body = response.json()
        except ValueError as error:
            raise WireFault(MALFORMED, f"no JSON: {error_words(response)}") from error
        try:
            answer = read_completion(body, request)
        except ValueError as error:
            self._count_tokens(*(count or 0 for count in usage_of(body)))
            raise WireFault(MALFORMED, f"{error}: {error_words(response)}") from error
        self._count_tokens(answer.tokens_in, answer.tokens_out)
        return answer

    def _connected(self) -> Wire:
        """The connections, made once there is something to ask: answers of the cache need no key.

        Raises:
            UserError: the key is not set.
        """
        if self._wire is None:
            headers = {"Authorization": self.endpoint.authorization()}
            self._wire = Wire(self.endpoint.url, headers, self.endpoint.timeout)
        return self._wire

    def _said(self, words: object) -> str:
        """Words of a server, without the key that it may repeat."""
        return redact(str(words), self.endpoint.key())

    def _count_tokens(self, tokens_in: int, tokens_out: int) -> None:
        """Count what a response says it cost, whether it can be used or not."""
        price = self.endpoint.price(tokens_in, tokens_out)
        self.usage.tokens_in += tokens_in
        self.usage.tokens_out += tokens_out
        self.usage.price += price
        self.budget.spend(price)

    def _stop_without_credit(self, response: Response) -> None:
        """Stop all where the account is empty: no retry mends that.

        Raises:
            LimitReached: it is.
        """
        text = response.body[:4000].decode("utf-8", "replace").casefold()
        if response.status == 402 or any(word in text for word in NO_CREDIT):
            raise LimitReached(f"--llm={self.endpoint.name} has no credit left: {self._said(error_words(response))}")

    def _stop_if_dead(self, throttled: bool) -> None:
        """Stop all where nothing but faults has come for long: the server is gone.

        Raises:
            LimitReached: it is.
        """
        self._faults_in_a_row += not throttled
        patient = self._last_success and time.monotonic() - self._last_success < self.endpoint.patience
        if self._faults_in_a_row >= max(DEAD_AFTER, 2 * self.endpoint.concurrency) and not patient:
            raise LimitReached(
                f"{self.endpoint.address} failed {self._faults_in_a_row} times in a row "
                f"({', '.join(sorted(self.usage.errors))})"
            )

    async def _wait_for_turn(self, request: ChatRequest) -> None:
        while (pause := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        if self._requests_limit is not None:
            await self._requests_limit.acquire()
        if self._tokens_limit is not None:
            likely = request.estimated_tokens() + request.max_tokens
            await self._tokens_limit.acquire(min(likely, self.endpoint.tokens_per_minute))

    def _pause(self, attempt: int, headers: Mapping[str, str], cool_down: bool) -> float:
        """Seconds until the next attempt; after a 429 all requests wait.

        Raises:
            LimitReached: the server asks for a longer pause than anyone waits for.
        """
        asked = _retry_after(headers)
        if asked is not None and asked > LONGEST_WAIT:
            raise LimitReached(f"{self.endpoint.address} asks for a pause of {asked:.0f} seconds")
        backoff = min(LONGEST_PAUSE, 0.5 * 2 ** (attempt - 1)) * (0.5 + self._random.random())
        pause = asked if asked is not None else backoff
        if cool_down:
            self._resume_at = max(self._resume_at, time.monotonic() + pause)
        return pause

    def _refused(self, refusal: _Refusal) -> None:
        """A refusal that no retry mends: one request lost, or all of them.

        Raises:
            UserError: all of them.
        """
        reason = self._said(refusal)
        self._refused_in_a_row += 1
        if refusal.status in (401, 403):
            raise UserError(
                f"--llm={self.endpoint.name} refuses the key in {self.endpoint.key_env or '(none)'}: {reason}"
            )
        if refusal.status == 404:
            raise UserError(f"{self.endpoint.address} knows no model {self.endpoint.model!r}: {reason}")
        if self._refused_in_a_row >= HOPELESS_AFTER:
            raise UserError(f"{self.endpoint.address} refuses every request: {reason}")
        logger.warning("a request was refused: %s", reason)

    def _count_error(self, kind: str) -> None:
        self.usage.errors[kind] = self.usage.errors.get(kind, 0) + 1


def _run_to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine; in a thread of its own where this one has a running loop, as a notebook's has."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    cancel: list[Callable[[], object]] = []

    async def cancellable() -> None:
        task = asyncio.ensure_future(work)
        cancel.append(partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel))
        await task

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, cancellable())
        try:
            running.result()
        except KeyboardInterrupt:  # it reaches this thread alone
            for each in cancel:
                each()
            raise


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a ``Retry-After`` (or ``retry-after-ms``) header asks for."""
    try:
        if headers.get("retry-after-ms"):
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after")
        if not text:
            return None
        try:
            return max(0.0, float(text))
        except ValueError:
            pass  # a date
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (OverflowError, TypeError, ValueError):
        return None
