"""The four sources of a command's answers: live, cached, batch, dry run.

A feature's builder passes its scripts to ``Context.answer_all`` and gets their results. The command decides what
happens in between: live answers are asked for and then read from the cache, cached ones are only read, a batch
collects the questions that the cache cannot answer, and a dry run takes the prompts' examples as answers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Protocol, Self

from recbole_llm.errors import UserError
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import REASONED, UNREADABLE, reasoned_only
from recbole_llm.llm.budget import Budget, Usage
from recbole_llm.llm.cache import Lender, ResponseCache, StoredAnswers
from recbole_llm.llm.chat import ChatAnswer, ChatRequest, Script, at_once, follow, guess_tokens
from recbole_llm.llm.client import Acquaintance, Client
from recbole_llm.llm.endpoint import OFFLINE, Endpoint, load_endpoint
from recbole_llm.settings.layers import Settings
from recbole_llm.utils.text import counted

Progress = Callable[[Iterable[Any], str], Iterable[Any]]
MakeScript = Callable[[Any, Counter[str]], Script]
Results = Iterator[tuple[Any, Any]]

SAMPLE = 200  # cached answers of a prompt from which the length of the others is estimated
ENOUGH = 20  # with fewer, their length is not used
INSPECTED = 20  # requests with unreadable answers that a feature's manifest names

ENDPOINT_KEYS = (
    *("llm_model", "llm_base_url", "llm_concurrency", "llm_price_in", "llm_price_out"),
    *("llm_temperature", "llm_max_tokens", "llm_reasoning_effort", "llm_knowledge_cut"),
)


class Stopped(UserError):  # noqa: N818 - a stop, not a fault
    """No further questions were sent, since a limit was reached or the endpoint is gone; answers so far are kept."""


class AnswersPending(Exception):  # noqa: N818 - a stop, not a fault
    """A feature's questions were collected; it can be made once they are answered."""


def spread(keys: list[Any], limit: int | None) -> list[Any]:
    """At most ``limit`` of the keys, evenly spaced, so that a trial covers the whole range, not one user's prefixes."""
    if limit is None or limit >= len(keys):
        return keys
    return [keys[number * len(keys) // limit] for number in range(limit)]


def sampled(keys: list[Any], share: float) -> list[int]:
    """Indices of a random share of the keys, at least one; a larger share includes every smaller one."""
    if share >= 1 or not keys:
        return list(range(len(keys)))
    drawn = [hashlib.blake2b(str(key).encode(), digest_size=8).digest() for key in keys]
    places = [place for place, digest in enumerate(drawn) if int.from_bytes(digest, "big") < share * 2**64]
    return places or [min(range(len(keys)), key=drawn.__getitem__)]


def chosen_endpoint(settings: Settings, asks: bool = True) -> Endpoint | None:
    """The endpoint of ``--llm``, ``None`` for the offline rule; only commands that ask need a price and a limit.

    Raises:
        UserError: the source is unknown, states no price, or is paid and there is no ``--max_cost``.
    """
    if settings["llm"] == OFFLINE:
        return None
    endpoint = load_endpoint(settings["llm"], {key: settings.get(key) for key in ENDPOINT_KEYS})
    if asks and settings.get("max_cost") != 0:
        endpoint.check_price()
    if endpoint.paid and settings.get("max_cost") is None and asks:
        raise UserError(
            f"--llm={endpoint.name} costs money ({endpoint.price_in} and {endpoint.price_out} US$ for a million tokens "
            "in and out): give --max_cost=5.00 or another amount; --max_requests alone is not enough."
        )
    return endpoint


@dataclass
class Ledger:
    """What one feature asks an endpoint, and the answers that it got.

    Attributes:
        endpoint: the endpoint that is asked.
        cache: where the answers are kept.
        progress: wraps loops for a progress bar.
        usage: what was asked and paid.
        counts: outcomes of the answers.
        used: keys of the requests whose answers were read, in that order.
        unreadable: request keys of some scripts that had an unreadable answer.
        asked, answered: number of keys asked about, and of those with a result.
        share: share of the keys that are asked about (``answer_share``).
        limited: says that the command's ``--limit`` left keys out; empty if it did not.
    """

    endpoint: Endpoint
    cache: ResponseCache
    progress: Progress
    usage: Usage = field(default_factory=Usage)
    counts: Counter[str] = field(default_factory=Counter)
    used: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    asked: int = 0
    answered: int = 0
    share: float = 1.0
    limited: str = ""

    def add(self, used: dict[str, ChatAnswer], counts: Counter[str]) -> None:
        """Note answers that were read, and their cost, whichever run paid for them."""
        self.counts += counts
        self.used += used
        for answer in used.values():
            self.usage.read(answer, self.endpoint.price_of(answer))

    def check_not_stopped(self, of: str = "so far") -> None:
        """Raise ``Stopped`` if a limit was reached or the endpoint is gone; ``of`` says which answers are kept."""
        if self.usage.stopped:
            verb = "is" if len(self.used) == 1 else "are"
            kept = f"The {counted(len(self.used), 'answer')} {of} {verb} kept; " if self.used else ""
            remedy = self.usage.remedy if kept else self.usage.remedy.capitalize()
            raise Stopped(f"stopped: {self.usage.stopped}. {kept}{remedy}.")

    def nothing_came(self, of: str) -> str:
        """A message that no question got a usable answer, and why; ``of`` says what was asked for."""
        counts = ", ".join(f"{key} {count}" for key, count in sorted(self.counts.items()))
        words = f" Its last words: {self.usage.last_words}." if self.usage.last_words else ""
        hint = " Raise --llm_max_tokens, or lower --llm_reasoning_effort." if self.counts[REASONED] else ""
        return (
            f"--llm={self.endpoint.name} ({self.endpoint.model}) gave no usable answer to any of {self.asked:,} "
            f"questions {of} ({counts}).{words}{hint}"
        )


class Published(Protocol):
    """Answers that others have published."""

    def lender(self, model: str, prompts: Collection[str]) -> Lender:
        """A model's published answers to some prompts (``id@version``)."""


class AnswerSource:
    """Live answers. One object serves all features and runs of a command.

    Args:
        budget: the command's budget.
        limit: most keys of each feature that are asked about (``--limit``); ``None`` for all.

    Attributes:
        mends: whether questions that an earlier command got no answer to are asked again.
        made: folder and feature of everything that this command has made; their gaps are left to the next command.
        met: what the command has learnt about each endpoint.
        published: published answers, which are looked up before a question is asked (``--answers``).
        compared: cache, model and prompt of the answers that the command has compared with the published ones.
    """

    dry = False  # whether features are made in a temporary folder
    asks = True  # whether questions are sent, so that a paid endpoint requires a limit

    def __init__(self, budget: Budget | None = None, limit: int | None = None) -> None:
        self.budget, self.limit = budget or Budget(), limit
        self.mends = True
        self.made: set[tuple[str, str]] = set()
        self.met: dict[tuple[str, str], Acquaintance] = {}
        self.published: Published | None = None
        self.compared: set[tuple[str, str, str]] = set()

    @classmethod
    def of(cls, settings: Settings, limit: int | None = None) -> Self:
        """A source with the limits in a command's settings."""
        return cls(Budget(settings.get("max_cost"), settings.get("max_requests")), limit)

    def asks_again(self, folder: str, feature: str, endpoint: Endpoint | None) -> bool:
        """Whether a feature's gaps should, and can, be asked about again."""
        if endpoint is None or not self.mends or (folder, feature) in self.made or self.budget.asks_nothing:
            return False
        return endpoint.has_key or not self.asks

    def known(self, endpoint: Endpoint) -> Acquaintance:
        """What the command has learnt about an endpoint."""
        return self.met.setdefault((endpoint.url, endpoint.model), Acquaintance())

    def begin(self, feature: str) -> None:
        """Called before a feature is made."""

    def say(self, note: str) -> None:
        """Called with a note for the plan about the feature that is being made."""

    def results(self, ledger: Ledger, keys: list[Any], script: MakeScript, title: str) -> Results:
        """Each key with the result of its script, in order; ``None`` if there is no usable answer.

        All answers first go into the cache; then the scripts run one by one on cached answers. So memory use stays
        flat, and a rerun starts at the second step.
        """
        places = sampled(keys, ledger.share)
        chosen = spread([keys[place] for place in places], self.limit)
        ledger.asked += len(chosen)
        self.fetch(ledger, chosen, script, title)
        if len(chosen) < len(places):
            ledger.limited = f"--limit={self.limit} of {len(places)} is reached"
        answers, counts = StoredAnswers(ledger.endpoint, ledger.cache), Counter[str]()
        drawn = {*places}
        for place, key in enumerate(keys):
            if place not in drawn:
                yield key, None
                continue
            unreadable = counts[UNREADABLE]
            result = answers.result(script(key, counts))
            ledger.answered += result is not None
            yield key, result
            if counts[UNREADABLE] > unreadable and len(ledger.unreadable) < INSPECTED:
                ledger.unreadable += answers.last
        ledger.add(answers.used, counts)

    def fetch(self, ledger: Ledger, keys: list[Any], script: MakeScript, title: str) -> None:
        """Put the answers about some keys into the cache; chains of different keys advance independently."""
        endpoint = ledger.endpoint
        client = Client(endpoint, ledger.cache, self.budget, self.known(endpoint), reasoned_only)
        bar = iter(ledger.progress(range(len(keys)), title))
        client.run((script(key, Counter()) for key in keys), done=lambda: next(bar, None))
        ledger.usage.add(client.usage)


class BatchCollector(AnswerSource):
    """Asks nothing: collects the questions that have no answer, for a batch.

    Attributes:
        pending: the questions by request key.
        lost: request keys of questions that are given up; they are gaps.
    """

    asks = False

    def __init__(self, budget: Budget | None = None, limit: int | None = None) -> None:
        super().__init__(budget, limit)
        self.pending: dict[str, ChatRequest] = {}
        self.lost: set[str] = set()

    def fetch(self, ledger: Ledger, keys: list[Any], script: MakeScript, title: str) -> None:
        """Follow the scripts as far as the cached answers go.

        Raises:
            AnswersPending: some answers are missing; their questions are in ``pending``.
        """
        ledger.usage.parameters |= self.known(ledger.endpoint).dialect.changes
        answers, waiting = _BatchAnswers(self, ledger.endpoint, ledger.cache), False
        for key in ledger.progress(keys, title):
            try:
                at_once(follow(script(key, Counter()), answers))
            except AnswersPending:
                waiting = True
        if waiting:
            raise AnswersPending(title)


class _BatchAnswers(StoredAnswers):
    """Cached answers; a script's first question without one is collected and ends the script."""

    def __init__(self, collector: BatchCollector, endpoint: Endpoint, cache: ResponseCache) -> None:
        super().__init__(endpoint, cache)
        self._collector = collector

    async def answer(self, request: ChatRequest) -> ChatAnswer | None:
        request, found = self.endpoint.addressed(request), await super().answer(request)
        if found is None and request.key not in self._collector.lost:
            self._collector.pending.setdefault(request.key, request)
            raise AnswersPending
        return found


# ---- dry runs -----------------------------------------------------------------------------------


@dataclass
class FeaturePlan:
    """The questions that one feature would ask, and their cost.

    Attributes:
        feature: its name.
        state: ``made`` (nothing to do), ``asks``, or ``by rule`` (no prompt is needed).
        keys: items, users, prefixes... that are asked about.
        requests: distinct requests that would be sent.
        cached: requests whose answer is cached already, or will be when the feature is made: an earlier one asks them.
        tokens_in, tokens_out: estimated tokens of the requests that would be sent.
        price: US dollars for these tokens.
        shared: tokens of the longest beginning that a question has in common with the first one of its prompt.
        saved: US dollars of the price that the endpoint's cache of prefixes may save.
        note: anything else that a reader of the plan must know.
        estimated: the requests depend on something that does not exist yet (an untrained stage I, an earlier
            answer of a chain), so their number and length are estimates.
    """

    feature: str
    state: str = "by rule"
    keys: int = 0
    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    price: float = 0.0
    shared: int = 0
    saved: float = 0.0
    note: str = ""
    estimated: bool = False


class DryRun(AnswerSource):
    """Asks nothing: counts what would be asked. Features are made in a temporary folder.

    Args:
        budget, limit: as for every source.
        asked: questions that other features of the same data ask before, to which this one adds its own.

    Attributes:
        plans: one plan per feature, in build order.
    """

    dry = True
    asks = False

    def __init__(self, budget: Budget | None = None, limit: int | None = None, asked: set[bytes] | None = None) -> None:
        super().__init__(budget, limit)
        self.plans: list[FeaturePlan] = []
        self._asked = set[bytes]() if asked is None else asked

    def begin(self, feature: str) -> None:
        """Start a new line of the plan."""
        self.plans.append(FeaturePlan(feature))

    def say(self, note: str) -> None:
        """Add a note below the plan."""
        self.plans[-1].note = note

    def results(self, ledger: Ledger, keys: list[Any], script: MakeScript, title: str) -> Results:
        """Each key with its result; a prompt's example takes the place of an answer that is not cached."""
        plan = self.plans[-1]
        plan.state = "asks"
        answers = AssumedAnswers(plan, ledger.endpoint, ledger.cache, self._asked)
        chosen = set(spread(sampled(keys, ledger.share), self.limit))
        plan.keys += len(chosen)
        for number in ledger.progress(range(len(keys)), title):
            yield keys[number], answers.result(script(keys[number], Counter())) if number in chosen else None


@dataclass(frozen=True)
class _Lengths:
    """How a prompt's tokens are estimated.

    Attributes:
        in_ratio: actual tokens of a question per token that ``estimated_tokens`` guesses.
        out: tokens of an answer.
        assumed: the prompt's example, which takes the place of an answer.
    """

    in_ratio: float
    out: float
    assumed: ChatAnswer


class AssumedAnswers(StoredAnswers):
    """Cached answers, with the prompts' examples in the place of missing ones.

    Args:
        plan: the plan to which the cost of the missing answers is added.
        endpoint: the endpoint that would be asked.
        cache: the existing answers.
        asked: digests of questions that are asked before, to which those of this plan are added.
    """

    def __init__(self, plan: FeaturePlan, endpoint: Endpoint, cache: ResponseCache, asked: set[bytes]) -> None:
        super().__init__(endpoint, cache)
        self._plan, self._asked = plan, asked
        self._chain = b""  # digest of a script's questions since its first assumed answer; empty before
        self._lengths: dict[str, _Lengths] = {}
        self._seen: set[bytes] = set()
        self._first: dict[str, ChatRequest] = {}

    def result(self, script: Script) -> Any:
        """A script's result; questions after an assumed answer are estimates."""
        self._chain = b""
        return super().result(script)

    async def answer(self, request: ChatRequest) -> ChatAnswer | None:
        """The cached answer, or else the prompt's example, after which no question is asked again."""
        if self._chain and request.again:
            return None
        plan, lengths, before = self._plan, self._lengths_of(request), self._chain
        digest = bytes.fromhex(self.endpoint.addressed(request).key)
        found = None if before else await super().answer(request)
        if before:  # questions about the same assumed answer differ if those before them do
            digest = hashlib.sha256(before + digest).digest()
        new = digest not in self._seen
        self._seen.add(digest)
        if found is not None:
            plan.cached += new
            return found
        self._chain = digest
        if digest in self._asked:
            plan.cached += new
            return lengths.assumed
        self._asked.add(digest)
        tokens_in, tokens_out = round(request.estimated_tokens() * lengths.in_ratio), round(lengths.out)
        plan.requests += 1
        plan.tokens_in += tokens_in
        plan.tokens_out += tokens_out
        plan.price += self.endpoint.price(tokens_in, tokens_out)
        shared = min(tokens_in, round(self._shared(request) * lengths.in_ratio))
        plan.shared = max(plan.shared, shared)
        if 0 < self.endpoint.cache_from <= shared:
            plan.saved += self.endpoint.price(shared, 0) - self.endpoint.price(shared, 0, cached=shared)
        plan.estimated = plan.estimated or bool(before)
        return lengths.assumed

    def _shared(self, request: ChatRequest) -> int:
        """Tokens in which a question begins like the first one of its prompt; 0 for the first one itself."""
        first = self._first.setdefault(request.prompt, request)
        if first is request:
            return 0
        pairs = list(zip(first.messages, request.messages, strict=False))
        same = next((place for place, (one, other) in enumerate(pairs) if one != other), len(pairs))
        begins = [message["content"] for message in request.messages[:same]]
        if same < len(pairs):
            one, other = (message["content"] for message in pairs[same])
            begins.append(
                "".join(sign for sign, _ in takewhile(lambda two: two[0] == two[1], zip(one, other, strict=False)))
            )
        return guess_tokens("".join(begins)) + 4 * same

    def _lengths_of(self, request: ChatRequest) -> _Lengths:
        if request.prompt not in self._lengths:
            self._lengths[request.prompt] = self._measure(request)
        return self._lengths[request.prompt]

    def _measure(self, request: ChatRequest) -> _Lengths:
        """Estimate from cached answers, else from the prompt's examples, else take half of the token limit."""
        examples = load_prompt(request.prompt.partition("@")[0]).examples
        contents = [json.dumps(answer, ensure_ascii=False) for _, answer in examples]
        out = guess_tokens("".join(contents)) / len(contents) if contents else request.max_tokens / 2
        ratio = 1.0
        known = self.cache.sample(request.prompt, self.endpoint.model, SAMPLE)
        if len(known) >= ENOUGH:
            guessed = sum(question.estimated_tokens() for question, _ in known)
            ratio = sum(answer.tokens_in for _, answer in known) / max(1, guessed)
            out = sum(answer.tokens_out for _, answer in known) / len(known)
        return _Lengths(ratio, out, ChatAnswer(contents[0] if contents else "{}", "stop", 0, 0))
