"""Live answers: asking an endpoint, bounded, limited, retried, counted, and never twice for the same question."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.llm.budget import Budget, LimitReached, Usage
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import MOST_TOKENS, ChatAnswer, ChatRequest, Script, follow, guess_tokens
from recbole_llm.llm.endpoint import Endpoint, redact

logger = logging.getLogger(__name__)

RETRIED = {408, 409, 429}
LONGEST_PAUSE = 60.0
LONGEST_WAIT = 300.0  # seconds of a Retry-After; a server that asks for more is left alone
HOPELESS_AFTER = 5  # refused requests in a row, without one success, before all stop
THROTTLED_TIMES = 5  # a request may be told to come later this many times as often as it may fail
DEAD_AFTER = 32  # failed attempts in a row (or two for each place of the client) that a dead server explains
NO_CREDIT = ("insufficient_quota", "insufficient_balance", "billing_hard_limit_reached")


class Client:
    """Answers chat requests from the cache or from an endpoint.

    Args:
        endpoint: where to ask.
        cache: where answers are kept.
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
        self._under_way: dict[str, asyncio.Future[ChatAnswer | None]] = {}
        self._key = ""
        self._api: Any = None

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
        from aiolimiter import AsyncLimiter

        limits = self.endpoint
        self._requests_limit = AsyncLimiter(limits.requests_per_minute, 60) if limits.requests_per_minute else None
        self._tokens_limit = AsyncLimiter(limits.tokens_per_minute, 60) if limits.tokens_per_minute else None
        workers = [asyncio.create_task(self._work(scripts, done)) for _ in range(max(1, limits.concurrency))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            if self._api is not None:
                await self._api.close()
                self._api = None

    def _connect(self) -> None:
        """Look up the key, once there is something to ask: answers of the cache need none.

        Raises:
            UserError: it is not set.
        """
        import openai

        if self._api is None:
            self._key = self.endpoint.key()
            # aiohttp takes a third less processor time a request than the client's own transport.
            self._api = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=self.endpoint.base_url,
                max_retries=0,
                timeout=self.endpoint.timeout,
                http_client=openai.DefaultAioHttpClient(),
            )

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
            return found
        if request.key in self._under_way:
            return await asyncio.shield(self._under_way[request.key])
        future: asyncio.Future[ChatAnswer | None] = asyncio.get_running_loop().create_future()
        self._under_way[request.key] = future
        try:
            answer = await self._ask(request)
            if answer is not None:
                self.cache.put(request, answer)
            future.set_result(answer)
            return answer
        except BaseException as error:
            if not future.done():
                if isinstance(error, Exception):
                    future.set_exception(error)
                    future.exception()  # seen here; others may wait for it or not
                else:
                    future.cancel()
            raise
        finally:
            del self._under_way[request.key]

    # ---- one request ---------------------------------------------------------------------------

    async def _ask(self, request: ChatRequest) -> ChatAnswer | None:
        """Ask until answered, refused for good, or out of attempts (then ``None``, counted as failed)."""
        import openai

        self._connect()
        likely = self.endpoint.price(request.estimated_tokens(), request.max_tokens)
        self.budget.reserve(likely)
        self.usage.requests += 1
        try:
            faults = 0
            for attempt in range(1, self.endpoint.attempts * THROTTLED_TIMES + 1):
                await self._wait_for_turn(request)
                self.usage.attempts += 1
                throttled = False
                try:
                    answer = await self._send(request)
                except openai.APIStatusError as error:
                    self._count_error(f"HTTP {error.status_code}")
                    self._stop_without_credit(error)
                    if error.status_code not in RETRIED and error.status_code < 500:
                        self._refused(error)
                        return None
                    throttled = error.status_code == 429
                    pause = self._pause(attempt, error.response.headers, throttled)
                except (openai.APITimeoutError, openai.APIConnectionError, openai.APIResponseValidationError) as error:
                    self._count_error("time-out" if isinstance(_root(error), TimeoutError) else "broken connection")
                    pause = self._pause(attempt, {}, False)
                except ValueError:
                    self._count_error("malformed response")
                    self.budget.check()  # it was paid for, and what was set aside is for one answer
                    pause = self._pause(attempt, {}, False)
                else:
                    self._refused_in_a_row = self._faults_in_a_row = 0
                    self._last_success = time.monotonic()
                    return answer
                faults += not throttled  # a server that throttles is well
                if faults >= self.endpoint.attempts:
                    break
                self._stop_if_dead(throttled)
                await asyncio.sleep(pause)
            self.usage.failed += 1
            return None
        finally:
            self.budget.release(likely)

    def _count_tokens(self, tokens_in: int, tokens_out: int) -> None:
        """Count what a response says it cost, whether it can be used or not."""
        price = self.endpoint.price(tokens_in, tokens_out)
        self.usage.tokens_in += tokens_in
        self.usage.tokens_out += tokens_out
        self.usage.price += price
        self.budget.spend(price)

    def _stop_without_credit(self, error: Any) -> None:
        """Stop all where the account is empty: no retry mends that.

        Raises:
            LimitReached: it is.
        """
        text = f"{getattr(error, 'code', '')} {getattr(error, 'type', '')} {error}".casefold()
        if error.status_code == 402 or any(word in text for word in NO_CREDIT):
            reason = redact(" ".join(str(error).split()), self._key)[:300]
            raise LimitReached(f"--llm={self.endpoint.name} has no credit left: {reason}")

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

    async def _send(self, request: ChatRequest) -> ChatAnswer:
        # By the client's plain post: its typed method walks through every message and the whole schema, and builds
        # a model of the response, which together cost half of the processor time of a request.
        body = {**chat_body(self.endpoint, request), **self.endpoint.extra}
        response = await self._api.post("/chat/completions", cast_to=object, body=body)
        try:
            answer = read_completion(response, request)
        except ValueError:
            self._count_tokens(*(count or 0 for count in _usage(response)))
            raise
        self._count_tokens(answer.tokens_in, answer.tokens_out)
        return answer

    def _pause(self, attempt: int, headers: Any, cool_down: bool) -> float:
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

    def _refused(self, error: Any) -> None:
        """A 4xx that no retry mends: one request lost, or all of them."""
        reason = redact(" ".join(str(error).split()), self._key)[:300]
        self.usage.failed += 1
        self._refused_in_a_row += 1
        if error.status_code in (401, 403):
            raise UserError(
                f"--llm={self.endpoint.name} refuses the key in {self.endpoint.key_env or '(none)'}: {reason}"
            )
        if error.status_code == 404:
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


def chat_body(endpoint: Endpoint, request: ChatRequest) -> dict[str, Any]:
    """The body of a chat completion, without the endpoint's ``extra`` fields."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": list(request.messages),
        "temperature": request.temperature,
        endpoint.max_tokens_field: request.max_tokens,
    }
    if request.schema is not None and endpoint.response_format == "json_schema":
        schema = {"name": "answer", "schema": request.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.schema is not None and endpoint.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def _usage(response: Any) -> list[int | None]:
    """Tokens in and out as the server counted them, ``None`` where it did not."""
    usage = response.get("usage") if isinstance(response, dict) else None
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    return [count if type(count) is int and 0 <= count < MOST_TOKENS else None for count in counts]


def read_completion(response: Any, request: ChatRequest) -> ChatAnswer:
    """The answer in the JSON of a response; servers that do not count tokens have them estimated.

    Raises:
        ValueError: the response is no chat completion (proxies answer 200 with all sorts of bodies).
    """
    try:
        choice = response["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
        reason = str(choice.get("finish_reason") or "")
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("the response is no chat completion") from error
    if not text and isinstance(refusal, str) and refusal:
        text, reason = f"I cannot: {refusal}", "refusal"
    text = text or ""
    if not isinstance(text, str):
        raise ValueError("the response's content is no text")
    text = text.encode("utf-8", "replace").decode("utf-8")  # half an emoji cannot be stored
    tokens_in, tokens_out = _usage(response)
    return ChatAnswer(
        content=text,
        finish_reason=reason,
        tokens_in=request.estimated_tokens() if tokens_in is None else tokens_in,
        tokens_out=guess_tokens(text) if tokens_out is None else tokens_out,
    )


def _root(error: BaseException) -> BaseException:
    """What an error stems from: the layers above aiohttp call a refused connection a time-out."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _retry_after(headers: Any) -> float | None:
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
    except (TypeError, ValueError):
        return None
