"""Live answers: ask an endpoint with bounds, limits, retries and accounting, and never twice for the same question."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import re
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from aiolimiter import AsyncLimiter

from recbole_llm.errors import UserError
from recbole_llm.llm.address import redact
from recbole_llm.llm.batch import OPEN, SUBMITTING
from recbole_llm.llm.budget import HIGHER, TOP_UP, Budget, LimitReached, Usage
from recbole_llm.llm.cache import ResponseCache, owner_of_claims
from recbole_llm.llm.chat import ChatAnswer, ChatRequest, Script, follow
from recbole_llm.llm.completion import (
    LEFT_OUT,
    Dialect,
    error_words,
    read_completion,
    spoilt_answer,
    unsupported_parameter,
    with_stated_status,
)
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.llm.wire import MALFORMED, NO_SERVER, TIME_OUT, Response, Wire, WireFault
from recbole_llm.utils.text import counted

logger = logging.getLogger(__name__)

RETRIED = {408, 409, 425, 429}
THROTTLED = "HTTP 429"
OF_THE_SERVER = {402, *RETRIED, *range(500, 600)}  # statuses that say nothing about the question
LONGEST_PAUSE = 60.0
LONGEST_WORDS = 600  # characters of a fault's message
LONGEST_WAIT = 300.0  # seconds of a Retry-After; if a server asks for more, no further question is sent
HOPELESS_AFTER = 5  # refused requests in a row, without one success, before everything stops
THROTTLED_TIMES = 5  # a request may be throttled this many times as often as it may fail
DEAD_AFTER = 32  # failed attempts in a row (at least two per concurrent request) that mean a dead server
NO_CREDIT = (
    *("insufficient_quota", "insufficient_balance", "billing_hard_limit_reached"),
    "credit balance is too low",  # Anthropic, as a bad request
)
FIRST_ATTEMPTS = {NO_SERVER: 2, TIME_OUT: 2, MALFORMED: 3}  # at the first question, before everything stops
FIRST_QUESTIONS = 2  # that may end without an answer before everything stops
POLL_SECONDS = 0.2  # between two checks for the answer to a question that another command asks


class _Refusal(Exception):  # noqa: N818 - the server's, not ours
    """A response that a retry would not change."""

    def __init__(self, response: Response, secrets: Collection[str]) -> None:
        super().__init__(error_words(response, secrets))
        self.status = response.status
        self.location = redact(response.headers.get("location", ""), *secrets)[:200]


@dataclass
class Acquaintance:
    """What a command has learnt about an endpoint.

    Attributes:
        answered: whether it has answered a question; until then questions are asked one by one.
        dialect: parameters that it turned out not to take.
    """

    answered: bool = False
    dialect: Dialect = field(default_factory=Dialect)


class Client:
    """Answers chat requests from the cache or from an endpoint.

    The first question is asked alone, so that a wrong address, key or account is reported before the others are sent.

    Args:
        endpoint: the endpoint to ask.
        cache: where answers are kept, and the claims of all commands that ask.
        budget: what the whole command may spend; ``None`` for no limit.
        known: what earlier clients of the command have learnt about the endpoint.
        lost: tells whether an answer is nothing but reasoning that was cut off; the default only recognises hidden
            reasoning, not reasoning in the answer's text.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: ResponseCache,
        budget: Budget | None = None,
        known: Acquaintance | None = None,
        lost: Callable[[ChatAnswer], bool] = lambda answer: answer.lost_in_thought,
    ) -> None:
        self.endpoint, self.cache = endpoint, cache
        self.budget, self.known = budget or Budget(), known or Acquaintance()
        self._lost, self._secrets = lost, endpoint.secrets
        self.usage = Usage()
        self._random = random.Random(0)  # noqa: S311 - jitter, not a secret
        self._over: LimitReached | UserError | None = None
        self._kept = self._unanswered = 0
        self._resume_at = 0.0
        self._refused_in_a_row = 0
        self._faults_in_a_row = 0
        self._last_success = 0.0
        self._under_way: dict[str, asyncio.Task[ChatAnswer | None]] = {}
        self._owner = owner_of_claims()
        self._wire: Wire | None = None

    # ---- running scripts -----------------------------------------------------------------------

    def run(self, scripts: Iterable[Script], done: Callable[[], None] | None = None) -> Usage:
        """Run all scripts to their end, ``concurrency`` of them at once.

        Args:
            scripts: taken one by one as places become free, so that a million need no memory.
            done: called after each script.

        Raises:
            UserError: the endpoint refuses the key, the model or every request.
        """
        try:
            _run_to_the_end(self._run(iter(scripts), done))
        except UserError as error:
            if not self._kept:
                raise
            kept = f"{counted(self._kept, 'answer')} before that {'is' if self._kept == 1 else 'are'} kept"
            raise UserError(f"{str(error).rstrip('.')}. {kept}.") from error
        finally:
            if self.usage.attempts:  # an earlier client may have learnt what this one left out
                self.usage.parameters = dict(self.known.dialect.changes)
        return self.usage

    async def _run(self, scripts: Iterator[Script], done: Callable[[], None] | None) -> None:
        limits = self.endpoint
        self._requests_limit = AsyncLimiter(limits.requests_per_minute, 60) if limits.requests_per_minute else None
        self._tokens_limit = AsyncLimiter(limits.tokens_per_minute, 60) if limits.tokens_per_minute else None
        self._one_by_one = asyncio.Lock()
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
        """Renew the claims on questions in progress before other commands consider them abandoned."""
        while True:
            await asyncio.sleep(self.cache.lease / 3)
            if self._under_way:
                self.cache.renew_claims(self._owner)

    async def _work(self, scripts: Iterator[Script], done: Callable[[], None] | None) -> None:
        for script in scripts:
            try:
                await follow(script, self)
            except LimitReached as reason:
                self.usage.stopped, self.usage.remedy = str(reason), reason.remedy
                return
            if done is not None:
                done()

    async def answer(self, request: ChatRequest) -> ChatAnswer | None:
        """The answer from the cache, from the same question in progress, or from the endpoint."""
        request = self.endpoint.addressed(request)
        found = self.cache.get(request.key)
        if found is not None:
            self.usage.cached += 1
            await asyncio.sleep(0)  # lets answers that have arrived be stored before the next look-up
            return found
        task = self._under_way.get(request.key)
        if task is None:
            task = self._under_way[request.key] = asyncio.create_task(self._ask_once(request))
            task.add_done_callback(lambda _: self._under_way.pop(request.key))
        return await asyncio.shield(task)

    async def _ask_once(self, request: ChatRequest) -> ChatAnswer | None:
        """Ask, unless another command is asking the same question: then wait for its answer."""
        claimed = self.cache.claim(request.key, self._owner)
        while not claimed:
            await asyncio.sleep(POLL_SECONDS)
            claimed = self.cache.get(request.key) is not None or self.cache.claim(request.key, self._owner)
        try:
            found = self.cache.get(request.key)  # answered by the other command, perhaps just before its claim ended
            if found is not None:
                self.usage.cached += 1
                return found
            return await self._ask(request)
        finally:
            self.cache.drop_claim(request.key, self._owner)

    # ---- one request ---------------------------------------------------------------------------

    async def _ask(self, request: ChatRequest) -> ChatAnswer | None:
        """Ask until answered, refused for good, or out of attempts (then ``None``, counted as failed).

        Until the endpoint has answered a question, questions are asked one at a time.
        """
        if not self.known.answered:
            async with self._one_by_one:
                if not self.known.answered:
                    return await self._ask_now(request)
        return await self._ask_now(request)

    async def _ask_now(self, request: ChatRequest) -> ChatAnswer | None:
        if self._over is not None:
            raise self._over
        try:
            return await self._ask_paid(request)
        except (LimitReached, UserError) as reason:
            # If a limit was reached, a cheaper question may still fit; any other reason stops the other questions, too.
            if not isinstance(reason, LimitReached) or reason.remedy != HIGHER:
                self._over = reason
            raise

    async def _ask_paid(self, request: ChatRequest) -> ChatAnswer | None:
        if self.cache.waits_in_batch(request.key, self.endpoint.base_url, (OPEN, SUBMITTING)):
            raise UserError(
                f"a batch at {self.endpoint.address} that has not been fetched holds these questions, and asked live "
                "they would be paid for twice: `recbole-llm generate --batch` with the same settings waits for it and "
                "takes in its answers. A batch that was cancelled at the server ends at once."
            )
        if self.endpoint.published:
            self.endpoint.key()  # raises: there is no server, and a higher limit would not help
        likely = self.endpoint.highest_price(request)
        self.budget.reserve(likely)
        self.usage.requests += 1
        try:
            answer = await self._attempts(request)
        finally:
            self.budget.release(likely)
        if answer is None:
            self.usage.failed += 1
        else:
            self.cache.put(request, answer)
            self._meet(answer)
            self._kept += 1
        return answer

    async def _attempts(self, request: ChatRequest) -> ChatAnswer | None:
        faults = 0
        for attempt in range(1, self.endpoint.attempts * THROTTLED_TIMES + 1):
            await self._wait_for_turn(request)
            try:
                answer = await self._send(request)
            except WireFault as fault:
                self._count_error(fault.kind, fault)
                self.budget.check()  # a bad response may be billed, and only one answer's price is set aside
                throttled = fault.kind == THROTTLED  # a server that throttles is healthy
                pause = self._pause(attempt, fault.headers, throttled)
                if not self.known.answered and attempt >= FIRST_ATTEMPTS.get(fault.kind, attempt + 1):
                    raise UserError(self._unreachable(fault)) from fault
            except _Refusal as refusal:
                self._count_error(f"HTTP {refusal.status}", refusal)
                self._refused(refusal)
                return None
            else:
                self._refused_in_a_row = self._faults_in_a_row = 0
                self._last_success = time.monotonic()
                return answer
            faults += not throttled
            if faults >= self.endpoint.attempts:
                break
            self._stop_if_dead(throttled)
            await asyncio.sleep(pause)
        self._check_first_questions()
        return None

    async def _send(self, request: ChatRequest) -> ChatAnswer:
        """One attempt, repeated with a changed body if the server names a parameter that it does not take.

        Raises:
            WireFault: the attempt failed; another one may succeed.
            _Refusal: the request was refused.
            LimitReached: the account is empty.
        """
        while True:
            self.usage.attempts += 1
            body = self.known.dialect.body(self.endpoint, request)
            response = with_stated_status(await self._connected().post(body), OF_THE_SERVER)
            if response.status == 200:
                return self._read(response, request)
            self._stop_without_credit(response)
            if response.status in RETRIED or response.status >= 500 or response.status < 300:
                raise WireFault(f"HTTP {response.status}", self._words(response), response.headers)
            name = unsupported_parameter(response, body)
            if not name:
                raise _Refusal(response, self._secrets)
            self._count_error(f"HTTP {response.status}", self._words(response))
            if body == self.known.dialect.body(self.endpoint, request):  # no other request has changed it meanwhile
                instead = self.known.dialect.change(name, body)
                logger.warning(
                    "--llm=%s does not take %s; %s from now on. It says: %s",
                    self.endpoint.name,
                    name,
                    "it is left out" if instead == LEFT_OUT else f"{instead} is sent",
                    self._words(response),
                )

    def _read(self, response: Response, request: ChatRequest) -> ChatAnswer:
        """The answer in a response; an unreadable one that was billed is counted, too.

        Raises:
            WireFault: the response cannot be read.
        """
        try:
            body = response.json()
        except ValueError as error:
            raise WireFault(MALFORMED, f"no JSON: {self._words(response)}") from error
        try:
            answer = read_completion(body, request)
        except ValueError as error:
            if (spoilt := spoilt_answer(body, request)) is not None:
                self._pay(spoilt, spoilt=True)
            raise WireFault(MALFORMED, f"{error}: {self._words(response)}") from error
        self._pay(answer)
        return answer

    def _connected(self) -> Wire:
        """The connections, made once there is something to ask: cached answers need no key.

        Raises:
            UserError: the key is not set.
        """
        if self._wire is None:
            headers = {"Authorization": self.endpoint.authorization()}
            self._wire = Wire(self.endpoint.url, headers, self.endpoint.timeout)
        return self._wire

    def _words(self, response: Response) -> str:
        """The message of a response, without the key that it may repeat."""
        return error_words(response, self._secrets)

    def _redacted(self, words: object) -> str:
        """The message of a fault, without the key that a server may repeat, and cut if it is long."""
        return redact(str(words), *self._secrets)[:LONGEST_WORDS]

    def _pay(self, answer: ChatAnswer, spoilt: bool = False) -> None:
        """Count what a response cost."""
        price = self.endpoint.price_of(answer)
        self.usage.read(answer, price)
        self.usage.spoilt += spoilt
        self.usage.spoilt_price += price * spoilt
        self.budget.spend(price)

    # ---- what stops all ------------------------------------------------------------------------

    def _meet(self, answer: ChatAnswer) -> None:
        """Note the first answer, after which the other questions may be sent.

        Raises:
            UserError: it was cut off in its reasoning, as all others would be.
        """
        if not self.known.answered and self._lost(answer):
            raise UserError(
                f"the first answer of {self.endpoint.model} ended in its reasoning, before its first word (after "
                f"{answer.tokens_out} tokens): raise --llm_max_tokens, or lower --llm_reasoning_effort."
            )
        self.known.answered = True

    def _check_first_questions(self) -> None:
        """Stop if the first questions, with all their attempts, had no answer.

        Raises:
            UserError: they had none.
        """
        self._unanswered += not self.known.answered
        if self._unanswered >= FIRST_QUESTIONS:
            kinds = ", ".join(f"{kind} {count} times" for kind, count in sorted(self.usage.errors.items()))
            raise UserError(
                f"{self.endpoint.address} answered none of the first questions ({kinds}). Its last words: "
                f"{self.usage.last_words or 'none'}"
            )

    def _unreachable(self, fault: WireFault) -> str:
        """The message about a first question that got no answer: why, and what to do."""
        where = f"--llm={self.endpoint.name} ({self.endpoint.address})"
        words = self._redacted(fault)
        if fault.kind == NO_SERVER:
            return (
                f"{where} cannot be reached: {words}. Is the server running, and is this its address (--llm_base_url)?"
            )
        if fault.kind == TIME_OUT:
            return (
                f"{where} did not answer the first question within {self.endpoint.timeout:.0f} seconds, twice. A slow "
                "server wants a longer `timeout` in its file."
            )
        return (
            f"{where} answers, but not as a chat API does: {words}. Its address usually ends in /v1 (--llm_base_url); "
            f"questions are sent to {redact(self.endpoint.url)}."
        )

    def _stop_without_credit(self, response: Response) -> None:
        """Stop everything if the account is empty: no retry helps.

        Raises:
            LimitReached: the account is empty.
        """
        text = response.body[:4000].decode("utf-8", "replace").casefold()
        if response.status == 402 or any(word in text for word in NO_CREDIT):
            raise LimitReached(f"--llm={self.endpoint.name} has no credit left: {self._words(response)}", TOP_UP)

    def _stop_if_dead(self, throttled: bool) -> None:
        """Stop everything if there were only faults for a long time: the server is gone.

        Raises:
            LimitReached: the server is gone.
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
            LimitReached: the server asks for a pause longer than ``LONGEST_WAIT``.
        """
        asked = _retry_after(headers)
        if asked is not None and asked > LONGEST_WAIT:
            raise LimitReached(f"{self.endpoint.address} asks for a pause of {asked:.0f} seconds")
        backoff = min(LONGEST_PAUSE, 0.5 * 2 ** (attempt - 1)) * (0.5 + self._random.random())
        pause = asked or backoff  # no pause at all, or a date that has passed on this clock, would use up the attempts
        if cool_down:
            self._resume_at = max(self._resume_at, time.monotonic() + pause)
        return pause

    def _refused(self, refusal: _Refusal) -> None:
        """Handle a refusal: only this request is lost, or all of them would be.

        Raises:
            UserError: every request would be refused.
        """
        words, name = self._redacted(refusal), self.endpoint.name
        self._refused_in_a_row += 1
        # Later on, OpenRouter's 403 is about the question: its moderation has flagged it.
        if refusal.status == 401 or (refusal.status == 403 and not self.known.answered):
            key = f"the key in {self.endpoint.key_env}" if self.endpoint.key_env else "a request without a key"
            key = "the name and the password in its address" if urlsplit(self.endpoint.base_url).username else key
            raise UserError(f"--llm={name} refuses {key}: {words}")
        if refusal.status == 404 and "model" in words.casefold():
            raise UserError(f"{self.endpoint.address} knows no model {self.endpoint.model!r}: {words}")
        if refusal.status in (404, 405):
            raise UserError(
                f"there is no chat API at {redact(self.endpoint.url)} (HTTP {refusal.status}: {words}). The address "
                f"usually ends in /v1; is {self.endpoint.address} right (--llm_base_url)? Or there is no model "
                f"{self.endpoint.model!r}."
            )
        if refusal.status < 400:
            raise UserError(
                f"{self.endpoint.address} redirects (HTTP {refusal.status}, to {refusal.location or 'nowhere'}); "
                "redirects are not followed. Give the new address with --llm_base_url."
            )
        if self._refused_in_a_row >= HOPELESS_AFTER:
            schema = re.search(r"schema|response_format|grammar", words, re.I)
            hint = " Where it cannot keep to a schema, its file states `response_format: json_object` or `none`."
            raise UserError(f"{self.endpoint.address} refuses every request: {words}.{hint if schema else ''}")
        logger.warning("a request was refused: %s", words)

    def _count_error(self, kind: str, words: object) -> None:
        self.usage.errors[kind] = self.usage.errors.get(kind, 0) + 1
        self.usage.last_words = self._redacted(words)


def _run_to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine; in a separate thread if this one already runs an event loop, as a notebook's does."""
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
        except KeyboardInterrupt:  # it only reaches this thread
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
