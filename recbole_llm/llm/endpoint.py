"""An OpenAI-compatible endpoint, described by a file in ``properties/llm/`` or by one of the user's."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from pydantic import TypeAdapter, ValidationError

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.llm.address import check_base_address, redact, server_identity
from recbole_llm.llm.chat import ChatAnswer, ChatRequest
from recbole_llm.utils.bounds import Amount, Count, Positive, Whole
from recbole_llm.utils.files import check_file
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

logger = logging.getLogger(__name__)

OFFLINE = "offline"
OWN_FIELDS = ("messages", "model", "stream")  # of a request; ``extra`` would replace the question, or break the answer


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Attributes:
        name: the source's name: that of its file without the ending.
        base_url: address of the API, with ``/v1`` if the server has it.
        model: name that the server knows the model by.
        key_env: environment variable that holds the key; empty for servers without one.
        price_in, price_out: US dollars for a million tokens; ``None`` if the file states none.
        price_cached, price_written: US dollars for a million tokens of the question that the server reads from, or
            writes to, its cache of prefixes; as ``price_in`` unless stated.
        cache_from: length in tokens from which such a prefix is cached; 0 if that is not known.
        requests_per_minute, tokens_per_minute: limits to keep; 0 for none.
        concurrency: requests in progress at once.
        timeout: seconds for one attempt.
        attempts: tries of one request, the first included.
        patience: seconds without an answer after which a server that only fails counts as gone.
        batch_price: price through the Batch API, as a share of the usual one; 0 if there is no such API.
        response_format: ``json_schema``, ``json_object`` or ``none``; not part of an answer's key, since a server may
            turn out to take only a weaker one, and every answer is validated against its class when it is read.
        temperature: sampling temperature; 0 for answers that repeat, ``None`` to leave it to the server.
        max_tokens: token limit of an answer, instead of the prompts' own limits; hidden reasoning counts.
        max_tokens_field: ``max_tokens``, or ``max_completion_tokens`` for servers that renamed it.
        reasoning_effort: effort of a reasoning model; ``None`` to leave it to the server.
        reasoning_efforts: efforts that the server knows, empty if it ignores them all; ``None`` if not known.
        extra: further fields of the request body.
        knowledge_cut: the last day that the model can know about; ``None`` if it is not public.
        published: whether all its answers are published ones, without a server that gives others.
        server: the address if it is not the file's, since another server may have another model of the same name.
    """

    name: str
    base_url: str
    model: str
    key_env: str = ""
    # Amounts, since a negative price, or NaN, would never reach --max_cost.
    price_in: Amount | None = 0.0
    price_out: Amount | None = 0.0
    price_cached: Amount | None = None
    price_written: Amount | None = None
    cache_from: Whole = 0
    requests_per_minute: Whole = 0
    tokens_per_minute: Whole = 0
    concurrency: Count = 16
    timeout: Positive = 120.0
    attempts: Count = 6
    patience: Amount = 120.0
    batch_price: Amount = 0.0
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    temperature: float | None = 0.0
    max_tokens: Count | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    reasoning_effort: str | None = None
    reasoning_efforts: tuple[str, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    knowledge_cut: date | None = None
    published: bool = False
    server: str = ""

    @property
    def url(self) -> str:
        """The address of chat completions, without a login; a query of ``base_url`` stays at the end."""
        parts = urlsplit(self.base_url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=host, path=parts.path.rstrip("/") + "/chat/completions", fragment=""))

    def authorization(self) -> str:
        """The ``Authorization`` header: the key, or the name and password in the address.

        Raises:
            UserError: a key is needed and missing, or the address has a name and password besides the key.
        """
        parts, key = urlsplit(self.base_url), self.key()
        if parts.username is None:
            return f"Bearer {key}"
        if self.key_env:
            raise UserError(
                f"--llm={self.name}: the address holds a name and a password, and the key in {self.key_env} is sent in "
                f"their place. Leave them out of --llm_base_url, or use a source without a key, such as --llm=vllm."
            )
        return f"Basic {self._pair}"

    @property
    def _pair(self) -> str:
        """Name and password in the address, in the form in which they are sent."""
        parts = urlsplit(self.base_url)
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        return base64.b64encode(pair.encode("utf-8")).decode("ascii")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What a server may repeat and no message may show: the key, and the address's password in all its forms.

        A long value in the address's query may be a key, too, unless it is that of ``api-version``.
        """
        key = os.environ.get(self.key_env, "").strip() if self.key_env else ""
        parts = urlsplit(self.base_url)
        own = (parts.password, unquote(parts.password), self._pair) if parts.password else ()
        query = (value for name, value in parse_qsl(parts.query) if len(value) > 7 and name != "api-version")
        return tuple(filter(None, (key, *own, *query)))

    @property
    def address(self) -> str:
        """``base_url`` for messages, without a name and password that it may contain."""
        return redact(self.base_url)

    @property
    def paid(self) -> bool:
        """Whether answers cost, or may cost, money."""
        return self.price_in != 0 or self.price_out != 0

    @property
    def priced(self) -> bool:
        """Whether both prices are known."""
        return self.price_in is not None and self.price_out is not None

    def check_price(self) -> None:
        """Check that both prices are known.

        Raises:
            UserError: one is not.
        """
        if not self.priced:
            raise UserError(
                f"--llm={self.name}: its file states no price for {self.model}. Give --llm_price_in=... and "
                "--llm_price_out=... (US$ for a million tokens; 0 where it is free)."
            )

    def price(self, tokens_in: int, tokens_out: int, via: str = "", cached: int = 0, written: int = 0) -> float:
        """US dollars for some tokens; 0 if no price is stated.

        Args:
            tokens_in, tokens_out: tokens of question and answer, hidden reasoning included.
            via: ``batch`` for answers of the Batch API.
            cached, written: tokens among ``tokens_in`` that the server read from, or wrote to, its cache of prefixes.
        """
        share = self.batch_price if via == "batch" and self.batch_price else 1.0
        full, out = self.price_in or 0.0, self.price_out or 0.0
        read = full if self.price_cached is None else self.price_cached
        wrote = full if self.price_written is None else self.price_written
        cost = (tokens_in - cached - written) * full + cached * read + written * wrote + tokens_out * out
        return share * cost / 1e6

    def highest_price(self, request: ChatRequest, via: str = "") -> float:
        """US dollars for a request if its answer is as long as it may be; ``extra`` may set another limit."""
        limits = [self.extra[name] for name in ("max_tokens", "max_completion_tokens") if name in self.extra]
        most = max([limit for limit in limits if type(limit) is int], default=request.max_tokens)
        return self.price(request.estimated_tokens(), most, via)

    def price_of(self, answer: ChatAnswer) -> float:
        """US dollars for an answer."""
        return self.price(answer.tokens_in, answer.tokens_out, answer.via, answer.cached, answer.written)

    @property
    def has_key(self) -> bool:
        """Whether questions can be asked: there is a server, and the environment holds the key if one is needed."""
        if self.published:
            return False
        return not self.key_env or bool(os.environ.get(self.key_env, "").strip())

    @property
    def settings(self) -> dict[str, Any]:
        """What an answer depends on besides model, temperature and token limit; empty if nothing of it is set."""
        found = dict(self.extra)
        if self.reasoning_effort is not None:
            found["reasoning_effort"] = self.reasoning_effort
        return found | ({"server": self.server} if self.server else {})

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes the answers of endpoints; unset fields are left out, which keeps older identities."""
        found: dict[str, Any] = {"name": self.name, "model": self.model, "temperature": self.temperature}
        if self.max_tokens is not None:
            found["max_tokens"] = self.max_tokens
        return found | ({"settings": self.settings} if self.settings else {})

    def addressed(self, request: ChatRequest) -> ChatRequest:
        """A script's request, completed with this endpoint's model and parameters."""
        return replace(
            request,
            model=self.model,
            temperature=self.temperature,
            max_tokens=self.max_tokens or request.max_tokens,
            settings=self.settings,
        )

    def key(self) -> str:
        """The API key from the environment.

        Raises:
            UserError: the variable is not set or holds a character that no key has, or there is no server.
        """
        if self.published:
            raise UserError(
                f"--llm={self.name}: the answers of {self.model} are published ones, and an answer that these settings "
                "need is not among those taken in so far. Take them in (recbole-llm answers pull, or generate "
                "--import=FILE); where they do not cover these settings, choose another source with --llm."
            )
        if not self.key_env:
            return "none"
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise UserError(f"--llm={self.name} needs a key: set the environment variable {self.key_env}.")
        if not re.fullmatch(r"[!#-&(-~]+", key):
            raise UserError(
                f"--llm={self.name}: {self.key_env} holds a character that no key has: a quotation mark, a blank, or "
                "one beyond ASCII. Set it to the key alone, without a word processor's quotation marks."
            )
        return key


def is_own_file(source: str) -> bool:
    """Whether ``--llm`` is the path of a file rather than a name."""
    return Path(source).suffix in (".yaml", ".yml")


def source_file(source: str) -> Path:
    """The file that describes a source.

    Raises:
        UserError: there is none.
    """
    if is_own_file(source):
        return check_file("--llm", Path(source))
    known = [OFFLINE, *property_names("llm")]
    if source not in known[1:]:
        hint = did_you_mean(source, known)
        raise UserError(f"--llm={source}: there is no such source.{hint} Known: {', '.join(known)}; or a .yaml file.")
    return properties_folder() / "llm" / f"{source}.yaml"


@cache
def _shipped_addresses() -> list[str]:
    files = (read_yaml(properties_folder() / "llm" / f"{name}.yaml") for name in property_names("llm"))
    return [server_identity(file.get("base_url") or "") for file in files]


@cache
def _published_models() -> dict[str, str]:
    """Names of the shipped sources that have published answers only, by their model."""
    files = {name: read_yaml(properties_folder() / "llm" / f"{name}.yaml") for name in property_names("llm")}
    return {str(file["model"]): name for name, file in files.items() if file.get("published")}


def server_of(source: str, base_url: str | None) -> str:
    """The server's address, if answers have to be kept apart by it.

    It is empty for a shipped source at its own address, and for a user's file at the address of any shipped source.

    Args:
        source: name or path of its file.
        base_url: the address, if not that of the file.

    Raises:
        UserError: there is no such file, or the address is invalid.
    """
    path = source_file(source)
    own = str(read_yaml(path).get("base_url") or "")
    if base_url or own:
        check_base_address(base_url or own, path.stem)
    address = server_identity(base_url or own)
    # Answers from a shipped source's address are kept without it. Two files of a user's may have the same name.
    return "" if address in (_shipped_addresses() if is_own_file(source) else [server_identity(own)]) else address


def load_endpoint(source: str, changes: Mapping[str, Any] | None = None) -> Endpoint:
    """The endpoint of ``--llm=source``; ``changes`` (``llm_model``, ``llm_base_url``, ...) win over the file.

    Args:
        source: name of a file in ``properties/llm/``, or the path of a file like those.
        changes: settings of the run.

    Raises:
        UserError: no such file, an unknown field, an invalid value, or a server's model with the name of published
            answers.
    """
    path = source_file(source)
    name = path.stem
    own = {key: value for key, value in read_yaml(path).items() if key != "about"}
    given = {key.removeprefix("llm_"): value for key, value in (changes or {}).items() if value is not None}
    allowed = {item.name for item in fields(Endpoint)} - {"name", "server"}
    for key in (*own, *given):
        if key not in allowed:
            raise UserError(f"{path}: endpoints have no field {key!r}.{did_you_mean(key, allowed)}")
    values = own | given
    if values.get("published"):
        if given.get("base_url"):
            raise UserError(f"--llm={name}: its answers are published ones; leave --llm_base_url out.")
        values["base_url"] = ""
    for key in ("base_url", "model"):
        if not values.get(key) and not (key == "base_url" and values.get("published")):
            raise UserError(f"--llm={name}: give --llm_{key}=... (it is not in {path.name}).")
    values["server"] = server_of(source, str(values["base_url"]))  # a number is no address
    address, own_address = server_identity(values["base_url"]), server_identity(own.get("base_url") or "")
    if "knowledge_cut" in given:
        values["knowledge_cut"] = _day(given["knowledge_cut"])
    elif values["model"] != own.get("model") or address != own_address:
        values["knowledge_cut"] = None  # the file's day is that of another model
    try:
        json.dumps(values.get("extra"))
        found = _ENDPOINT.validate_python({"name": name, **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path}, {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}."
        ) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}, extra: what goes into a request is plain JSON ({error}).") from None
    if not re.fullmatch(r"\w*", found.key_env):
        raise UserError(f"{path}, key_env: give the name of the environment variable that holds the key, not the key.")
    if own_fields := [name for name in OWN_FIELDS if name in found.extra]:
        raise UserError(f"{path}, extra: leave {', '.join(own_fields)} out; a request has its own, or cannot have it.")
    if not found.published and found.model in _published_models():
        raise UserError(
            f"--llm={name}: {found.model} is the name of published answers, which would be read in the place of a "
            f"server's. Name the server's model otherwise, or give --llm={_published_models()[found.model]}."
        )
    _check_effort(found, "reasoning_effort" in given)
    priced = own.get("model")  # a file without a model states prices for any model
    if found.paid and priced and priced != found.model and not {"price_in", "price_out"} <= given.keys():
        _say_whose_prices(found.model, path.name, priced)
    if found.key_env == "OPENAI_API_KEY" and "base_url" not in given and (named := os.environ.get("OPENAI_BASE_URL")):
        _say_not_followed(redact(named), found.base_url)
    return found


_ENDPOINT = TypeAdapter(Endpoint)


def _day(text: str) -> date:
    """The day of ``--llm_knowledge_cut``.

    Raises:
        UserError: it is not a date.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"--llm_knowledge_cut={text}: give a day such as 2024-06-30.") from None


def _check_effort(endpoint: Endpoint, given: bool) -> None:
    """Refuse a reasoning effort that the server would silently ignore or reject.

    Raises:
        UserError: the server does not know the effort.
    """
    known, effort = endpoint.reasoning_efforts, endpoint.reasoning_effort
    if not given or known is None or effort in known:
        return
    takes = f"takes {', '.join(known)}" if known else "takes no reasoning effort"
    raise UserError(
        f"--llm_reasoning_effort={effort}: --llm={endpoint.name} {takes}.{did_you_mean(str(effort), known)}"
    )


@cache  # said once, not for each run of a grid
def _say_whose_prices(model: str, file: str, priced: str) -> None:
    logger.warning(
        "--llm_model=%s: prices and --max_cost count with those of %s (%s); a dearer model spends more than the limit. "
        "Give --llm_price_in and --llm_price_out, or --llm=FILE.yaml with a file of its own.",
        model,
        priced,
        file,
    )


@cache
def _say_not_followed(named: str, followed: str) -> None:
    logger.warning("OPENAI_BASE_URL=%s is ignored: requests go to %s. To use it, give --llm_base_url.", named, followed)
