"""The four sources of a command's answers: live, cached, batch, dry run.

A feature's builder hands its scripts to ``Context.answer_all`` and is given their results. What lies between is the
command's affair: live answers are asked for and then read from the cache, cached ones are only read, a batch collects
what the cache lacks, and a dry run goes on with the prompts' examples.
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

Progress = Callable[[Iterable[Any], str], Iterable[Any]]
MakeScript = Callable[[Any, Counter[str]], Script]
Results = Iterator[tuple[Any, Any]]

SAMPLE = 200  # cached answers of a prompt from which the length of the others is estimated
ENOUGH = 20  # fewer say nothing
INSPECTED = 20  # unreadable answers of a feature that its manifest names

ENDPOINT_KEYS = (
    *("llm_model", "llm_base_url", "llm_concurrency", "llm_price_in", "llm_price_out"),
    *("llm_temperature", "llm_max_tokens", "llm_reasoning_effort", "llm_knowledge_cut"),
)


class Stopped(UserError):  # noqa: N818 - a stop, not a fault
    """No further question was sent, since a limit was reached or the endpoint is gone; what was answered is kept."""


class AnswersPending(Exception):  # noqa: N818 - a stop, not a fault
    """A feature's questions were collected; it can be made when they are answered."""


def spread(keys: list[Any], limit: int | None) -> list[Any]:
    """At most ``limit`` of the keys, evenly spaced: a trial sees the whole range, not one user's prefixes."""
    if limit is None or limit >= len(keys):
        return keys
    return [keys[number * len(keys) // limit] for number in range(limit)]


def sampled(keys: list[Any], share: float) -> list[int]:
    """Places of a random share of the keys, at least one; a larger share holds all of a smaller one's."""
    if share >= 1 or not keys:
        return list(range(len(keys)))
    drawn = [hashlib.blake2b(str(key).encode(), digest_size=8).digest() for key in keys]
    places = [place for place, digest in enumerate(drawn) if int.from_bytes(digest, "big") < share * 2**64]
    return places or [min(range(len(keys)), key=drawn.__getitem__)]


def chosen_endpoint(settings: Settings, asks: bool = True) -> Endpoint | None:
    """The endpoint of ``--llm``, ``None`` for the offline rule; what asks nothing may name a paid one without a limit.

    Raises:
        UserError: an unknown source, or a paid one without ``--max_cost``.
    """
    if settings["llm"] == OFFLINE:
        return None
    endpoint = load_endpoint(settings["llm"], {key: settings.get(key) for key in ENDPOINT_KEYS})
    if asks and settings.get("max_cost") != 0:
        endpoint.check_price()
    if endpoint.paid and settings.get("max_cost") is None and asks:
        raise UserError(
            f"--llm={endpoint.name} costs money ({endpoint.price_in} and {endpoint.price_out} US$ for a million tokens "
            "in and out): give --max_cost=5.00 or another limit."
        )
    return endpoint


@dataclass
class Ledger:
    """What one feature asks, of whom, and what it was answered.

    Attributes:
        endpoint: that is asked.
        cache: where the answers are kept.
        progress: wraps loops for a progress bar.
        usage: what was asked and paid.
        counts: outcomes of the answers.
        used: keys of the requests whose answers were read, in that order.
        unreadable: keys of the requests of scripts with an answer that a reader stumbled over, a few of them.
        asked, answered: keys that were asked about, and those of them with a result.
        share: of the keys that are asked about (``answer_share``).
        limited: that only some keys were asked about, as the command wanted; empty where all were.
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
        """Note answers that were read, and what they cost, whichever run paid for them."""
        self.counts += counts
        self.used += used
        for answer in used.values():
            self.usage.read(answer, self.endpoint.price_of(answer))

    def check_not_stopped(self, of: str = "so far") -> None:
        """Raise ``Stopped`` where a limit was reached or the endpoint is gone; ``of`` says which answers are kept."""
        if self.usage.stopped:
            kept = f"The {len(self.used):,} answers {of} are kept; " if self.used else ""
            remedy = self.usage.remedy if kept else self.usage.remedy.capitalize()
            raise Stopped(f"stopped: {self.usage.stopped}. {kept}{remedy}.")

    def nothing_came(self, of: str) -> str:
        """That no question had a usable answer, and why; ``of`` says what was asked for."""
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
        """Those of a model to some prompts (``id@version``)."""


class AnswerSource:
    """Live answers. One object serves all features and runs of a command.

    Args:
        budget: of the command.
        limit: keys of each feature that are asked about; ``None`` for all (``--limit``).

    Attributes:
        mends: questions that an earlier command got no answer to are asked again.
        made: what this command has made, by folder and feature: its gaps are left to the next command.
        met: what the command has learnt of each endpoint.
        published: answers of others, taken where there are any before a question is asked (``--answers``).
    """

    dry = False  # features are made in a folder that is thrown away
    asks = True  # questions are sent, so that a paid endpoint wants a limit

    def __init__(self, budget: Budget | None = None, limit: int | None = None) -> None:
        self.budget, self.limit = budget or Budget(), limit
        self.mends = True
        self.made: set[tuple[str, str]] = set()
        self.met: dict[tuple[str, str], Acquaintance] = {}
        self.published: Published | None = None

    @classmethod
    def of(cls, settings: Settings, limit: int | None = None) -> Self:
        """With the limits of a command's settings."""
        return cls(Budget(settings.get("max_cost"), settings.get("max_requests")), limit)

    def asks_again(self, folder: str, feature: str, endpoint: Endpoint | None) -> bool:
        """Whether the gaps of a feature are to be asked about, and may be."""
        if endpoint is None or not self.mends or (folder, feature) in self.made or self.budget.asks_nothing:
            return False
        return endpoint.has_key or not self.asks

    def known(self, endpoint: Endpoint) -> Acquaintance:
        """What the command has learnt of an endpoint."""
        return self.met.setdefault((endpoint.url, endpoint.model), Acquaintance())

    def begin(self, feature: str) -> None:
        """Called before a feature is made."""

    def say(self, note: str) -> None:
        """Called with what a reader of the plan must know of the feature that is being made."""

    def results(self, ledger: Ledger, keys: list[Any], script: MakeScript, title: str) -> Results:
        """The result of each key's script, in order; ``None`` where there is no usable answer.

        Answers go straight into the cache, and the scripts are then followed through it one by one. So memory stays
        flat, and a second run starts at the second step.
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
        """Put the answers about some keys into the cache, chains of different keys apart from each other."""
        endpoint = ledger.endpoint
        client = Client(endpoint, ledger.cache, self.budget, self.known(endpoint), reasoned_only)
        bar = iter(ledger.progress(range(len(keys)), title))
        client.run((script(key, Counter()) for key in keys), done=lambda: next(bar, None))
        ledger.usage.add(client.usage)


class BatchCollector(AnswerSource):
    """Asks nothing: collects the questions that have no answer, for a batch.

    Attributes:
        pending: the questions by their key.
        lost: keys of questions that are given up; they are gaps.
    """

    asks = False

    def __init__(self, budget: Budget | None = None, limit: int | None = None) -> None:
        super().__init__(budget, limit)
        self.pending: dict[str, ChatRequest] = {}
        self.lost: set[str] = set()

    def fetch(self, ledger: Ledger, keys: list[Any], script: MakeScript, title: str) -> None:
        """Go through the scripts as far as the answers reach.

        Raises:
            AnswersPending: some are not there; their questions are in ``pending``.
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
    """Cached answers; the first question of a script without one is collected, and ends it."""

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
    """What one feature would take.

    Attributes:
        feature: its name.
        state: ``made`` (nothing to do), ``asks``, or ``by rule`` (no prompt is needed).
        keys: items, users, prefixes... that are asked about.
        requests: distinct requests that would be sent.
        cached: requests whose answer is there already.
        tokens_in, tokens_out: of the requests that would be sent, estimated.
        price: US dollars for them.
        shared: tokens with which a question and an earlier one of its prompt begin, at most.
        saved: US dollars that the endpoint's cache of prefixes may save of the price.
        note: what else a reader of the plan must know.
        estimated: the requests stand on something that is not there yet (an untrained stage I, an earlier
            answer of a chain), so that their number and length are estimates.
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
    """Asks nothing: counts what would be asked. Features are made in a folder that is thrown away.

    Attributes:
        plans: what each feature would take, in the order of making.
    """

    dry = True
    asks = False

    def __init__(self, budget: Budget | None = None, limit: int | None = None) -> None:
        super().__init__(budget, limit)
        self.plans: list[FeaturePlan] = []

    def begin(self, feature: str) -> None:
        """Start a new line of the plan."""
        self.plans.append(FeaturePlan(feature))

    def say(self, note: str) -> None:
        """Put it below the plan."""
        self.plans[-1].note = note

    def results(self, ledger: Ledger, keys: list[Any], script: MakeScript, title: str) -> Results:
        """Results of the prompts' example answers where there is no answer yet."""
        plan = self.plans[-1]
        plan.state = "asks"
        answers = AssumedAnswers(plan, ledger.endpoint, ledger.cache)
        chosen = set(spread(sampled(keys, ledger.share), self.limit))
        plan.keys += len(chosen)
        for number in ledger.progress(range(len(keys)), title):
            yield keys[number], answers.result(script(keys[number], Counter())) if number in chosen else None


@dataclass(frozen=True)
class _Lengths:
    """How a prompt's tokens are estimated.

    Attributes:
        in_ratio: tokens of a question for each that ``estimated_tokens`` guesses.
        out: tokens of an answer.
        assumed: the prompt's example, in the place of an answer.
    """

    in_ratio: float
    out: float
    assumed: ChatAnswer


class AssumedAnswers(StoredAnswers):
    """Cached answers, and the prompts' examples in the place of those that are not there.

    Args:
        plan: takes what the others would cost.
        endpoint: that would be asked.
        cache: answers that are there already.
    """

    def __init__(self, plan: FeaturePlan, endpoint: Endpoint, cache: ResponseCache) -> None:
        super().__init__(endpoint, cache)
        self._plan = plan
        self._guessing = False
        self._lengths: dict[str, _Lengths] = {}
        self._seen: set[bytes] = set()
        self._first: dict[str, ChatRequest] = {}

    def result(self, script: Script) -> Any:
        """A script's result; questions after an assumed answer are estimates."""
        self._guessing = False
        return super().result(script)

    async def answer(self, request: ChatRequest) -> ChatAnswer | None:
        """The answer that is there, or else the example of the prompt; an example is never asked about again."""
        if self._guessing and request.again:
            return None
        plan, lengths = self._plan, self._lengths_of(request)
        if not self._guessing:
            found, digest = await super().answer(request), bytes.fromhex(self.endpoint.addressed(request).key)
            known = digest in self._seen
            self._seen.add(digest)
            plan.cached += found is not None and not known
            if found is not None:
                return found
            if known:
                self._guessing = True
                return lengths.assumed
        tokens_in, tokens_out = round(request.estimated_tokens() * lengths.in_ratio), round(lengths.out)
        plan.requests += 1
        plan.tokens_in += tokens_in
        plan.tokens_out += tokens_out
        plan.price += self.endpoint.price(tokens_in, tokens_out)
        shared = min(tokens_in, round(self._shared(request) * lengths.in_ratio))
        plan.shared = max(plan.shared, shared)
        if 0 < self.endpoint.cache_from <= shared:
            plan.saved += self.endpoint.price(shared, 0) - self.endpoint.price(shared, 0, cached=shared)
        plan.estimated = plan.estimated or self._guessing
        self._guessing = True
        return lengths.assumed

    def _shared(self, request: ChatRequest) -> int:
        """Tokens that a question begins with as the first one of its prompt does; none for that one itself."""
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
        """From the answers that are there; else from the prompt's examples; else half of what is allowed."""
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
