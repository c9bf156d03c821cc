"""What asking would take: requests, cache hits, tokens and price, without asking."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from recbole_llm.features.prompts import load_prompt
from recbole_llm.llm.cache import ChatAnswer, ChatRequest, ResponseCache, guess_tokens
from recbole_llm.llm.client import Script
from recbole_llm.llm.endpoint import Endpoint

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
