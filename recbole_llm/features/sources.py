"""How one command gets its answers: by asking, by asking nothing (a dry run), or by collecting for a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from recbole_llm.llm.cache import ChatAnswer, ChatRequest
from recbole_llm.llm.client import Client, Script, replay
from recbole_llm.llm.endpoint import Budget

if TYPE_CHECKING:
    from recbole_llm.features.feature import Context
    from recbole_llm.llm.endpoint import Endpoint
    from recbole_llm.settings.layers import Settings
import json
from dataclasses import dataclass, field

from recbole_llm.features.prompts import load_prompt
from recbole_llm.llm.cache import ResponseCache, guess_tokens
from recbole_llm.llm.endpoint import Endpoint

MakeScript = Callable[[Any, Counter[str]], Script]
Results = Iterator[tuple[Any, Any]]


class AnswersPending(Exception):  # noqa: N818 - a stop, not a fault
    """A feature's questions were collected; it can be made when they are answered."""


def spread(keys: list[Any], limit: int | None) -> list[Any]:
    """At most ``limit`` of the keys, evenly spaced: a trial sees the whole range, not one user's prefixes."""
    if limit is None or limit >= len(keys):
        return keys
    return [keys[number * len(keys) // limit] for number in range(limit)]


class AnswerSource:
    """Asks the endpoint for what the cache lacks. One object serves all features and cells of a command.

    Args:
        budget: of the command.
        limit: keys of each feature that are asked about; ``None`` for all (``--limit``).

    Attributes:
        mends: questions that an earlier command got no answer to are asked again.
        made: what this command has made, by folder and feature: its gaps are left to the next command.
    """

    dry = False  # features are made in a folder that is thrown away
    asks = True  # questions are sent, so that a paid endpoint wants a limit

    def __init__(self, budget: Budget | None = None, limit: int | None = None) -> None:
        self.budget, self.limit = budget or Budget(), limit
        self.mends = True
        self.made: set[tuple[str, str]] = set()

    @classmethod
    def of(cls, settings: Settings, limit: int | None = None) -> Self:
        """With the limits of a command's settings."""
        return cls(Budget(settings.get("max_cost"), settings.get("max_requests")), limit)

    def asks_again(self, folder: str, feature: str, endpoint: Endpoint | None) -> bool:
        """Whether the gaps of a feature are to be asked about, and may be."""
        if endpoint is None or not self.mends or (folder, feature) in self.made or self.budget.asks_nothing:
            return False
        return endpoint.has_key or not self.asks

    def begin(self, feature: str, context: Context) -> None:
        """Called before a feature is made."""

    def results(self, context: Context, keys: list[Any], script: MakeScript, title: str) -> Results:
        """The result of each key's script, in order.

        First all scripts run against the endpoint, each answer going straight into the cache; then they
        are replayed from it one by one. So memory stays flat, and a second run starts at the second step.
        """
        assert context.endpoint is not None and context.cache is not None
        chosen = spread(keys, self.limit)
        client = Client(context.endpoint, context.cache, self.budget)
        bar = iter(context.progress(range(len(chosen)), title))
        client.run((script(key, Counter()) for key in chosen), done=lambda: next(bar, None))
        context.usage.add(client.usage)
        if len(chosen) < len(keys):
            context.limited = f"--limit={self.limit} of {len(keys)} is reached"
        yield from replayed(context, keys, script)


def replayed(context: Context, keys: list[Any], script: MakeScript) -> Results:
    """Results from the cache alone; adds up what the answers cost, whichever run paid for them."""
    assert context.endpoint is not None and context.cache is not None
    counts: Counter[str] = Counter()
    used: dict[str, ChatAnswer] = {}
    for key in keys:
        yield key, replay(script(key, counts), context.cache, context.endpoint, used)
    context.counts = dict(Counter(context.counts) + counts)
    context.used += used
    # A resumed run would look cheaper than the feature was.
    for answer in used.values():
        context.usage.tokens_in += answer.tokens_in
        context.usage.tokens_out += answer.tokens_out
        context.usage.price += context.endpoint.price(answer.tokens_in, answer.tokens_out, answer.via)


class DryRun(AnswerSource):
    """Asks nothing: counts what would be asked. Features are made in a folder that is thrown away.

    Attributes:
        plans: what each feature would take, by its name.
    """

    dry = True
    asks = False

    def __init__(self, budget: Budget | None = None, limit: int | None = None) -> None:
        super().__init__(budget, limit)
        self.plans: list[FeaturePlan] = []

    def begin(self, feature: str, context: Context) -> None:
        """Start a new line of the plan."""
        self.plans.append(FeaturePlan(feature))

    def results(self, context: Context, keys: list[Any], script: MakeScript, title: str) -> Results:
        """Results of the prompts' example answers where there is no answer yet."""
        assert context.endpoint is not None and context.cache is not None
        plan = Plan(context.endpoint, context.cache, self.plans[-1])
        chosen = set(spread(list(range(len(keys))), self.limit))
        for number in context.progress(range(len(keys)), title):
            yield keys[number], plan.drive(script(keys[number], Counter())) if number in chosen else None


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

    def results(self, context: Context, keys: list[Any], script: MakeScript, title: str) -> Results:
        """Results from the cache.

        Raises:
            AnswersPending: some are not there; their questions are in ``pending``.
        """
        assert context.endpoint is not None and context.cache is not None
        waiting = False
        for key in context.progress(spread(keys, self.limit), title):
            waiting = self._collect(script(key, Counter()), context) or waiting
        if waiting:
            raise AnswersPending(title)
        if self.limit is not None and self.limit < len(keys):
            context.limited = f"--limit={self.limit} of {len(keys)} is reached"
        yield from replayed(context, keys, script)

    def _collect(self, script: Script, context: Context) -> bool:
        """Go through a script as far as the answers reach; keep the first question without one, if there is any."""
        assert context.endpoint is not None and context.cache is not None
        try:
            request = next(script)
            while True:
                key = request.key(context.endpoint.model, context.endpoint.temperature)
                answer = context.cache.get(key)
                if answer is None and key not in self.lost:
                    self.pending.setdefault(key, request)
                    script.close()
                    return True
                request = script.send(answer)
        except StopIteration:
            return False


SAMPLE = 200  # cached answers of a prompt from which the length of the others is estimated
ENOUGH = 20  # fewer say nothing


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
    estimated: bool = False


@dataclass(frozen=True)
class _Lengths:
    """How a prompt's tokens are estimated.

    Attributes:
        in_ratio: tokens of a question for each that ``estimated_tokens`` guesses.
        out: tokens of an answer.
        content: the text that stands in for an answer.
    """

    in_ratio: float
    out: float
    content: str


@dataclass
class Plan:
    """Drives scripts without asking, and adds up what they would ask.

    Args:
        endpoint: that would be asked.
        cache: answers that are there already.
    """

    endpoint: Endpoint
    cache: ResponseCache
    current: FeaturePlan = field(default_factory=lambda: FeaturePlan(""))
    _lengths: dict[str, _Lengths] = field(default_factory=dict)
    _seen: set[bytes] = field(default_factory=set)

    def drive(self, script: Script) -> Any:
        """A script's result, with the prompts' examples in the place of answers that are not there."""
        plan = self.current
        plan.state, plan.keys = "asks", plan.keys + 1
        assumed = False
        try:
            request = next(script)
            while True:
                answer = self._answer(request, after_assumed=assumed)
                assumed = assumed or answer.assumed
                request = script.send(answer)
        except StopIteration as end:
            return end.value

    def _answer(self, request: ChatRequest, after_assumed: bool) -> ChatAnswer:
        key = request.key(self.endpoint.model, self.endpoint.temperature)
        lengths = self._lengths_of(request)
        standing = ChatAnswer(lengths.content, "stop", 0, 0, assumed=True)
        if not after_assumed:
            found = self.cache.get(key)
            digest = bytes.fromhex(key)
            if digest in self._seen:
                return found or standing
            self._seen.add(digest)
            if found is not None:
                self.current.cached += 1
                return found
        plan = self.current
        tokens_in, tokens_out = round(request.estimated_tokens() * lengths.in_ratio), round(lengths.out)
        plan.requests += 1
        plan.tokens_in += tokens_in
        plan.tokens_out += tokens_out
        plan.price += self.endpoint.price(tokens_in, tokens_out)
        plan.estimated = plan.estimated or after_assumed
        return standing

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
        rows = self.cache.sample(request.prompt, self.endpoint.model, SAMPLE)
        if len(rows) >= ENOUGH:
            guessed = sum(_guess(row["request"]) for row in rows)
            ratio = sum(row["answer"]["tokens_in"] for row in rows) / max(1, guessed)
            out = sum(row["answer"]["tokens_out"] for row in rows) / len(rows)
        return _Lengths(ratio, out, contents[0] if contents else "{}")


def _guess(body: dict[str, Any]) -> int:
    return ChatRequest(body["prompt"], tuple(body["messages"]), None, body["max_tokens"]).estimated_tokens()
