"""An OpenAI-compatible endpoint as ``properties/llm/*.yaml`` describes it."""

from __future__ import annotations

import base64
import logging
import os
import re
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.llm.chat import ChatRequest
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

logger = logging.getLogger(__name__)

OFFLINE = "offline"


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Attributes:
        name: what ``--llm`` takes.
        base_url: of the API, with ``/v1`` where the server has it.
        model: name that the server knows the model by.
        key_env: environment variable that holds the key; empty for servers without one.
        price_in, price_out: US dollars for a million tokens.
        requests_per_minute, tokens_per_minute: limits to keep; 0 for none.
        concurrency: requests under way at once.
        timeout: seconds for one attempt.
        attempts: tries of one request, the first included.
        patience: seconds without one answer after which a server that only fails counts as gone.
        batch_price: price through the Batch API, as a share of the usual one; 0 where there is no such API.
        response_format: ``json_schema``, ``json_object`` or ``none``.
        temperature: of sampling; 0 for answers that repeat.
        max_tokens_field: ``max_tokens``, or ``max_completion_tokens`` for servers that renamed it.
        extra: further fields of the request body.
    """

    name: str
    base_url: str
    model: str
    key_env: str = ""
    price_in: float = 0.0
    price_out: float = 0.0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 16
    timeout: float = 120.0
    attempts: int = 6
    patience: float = 120.0
    batch_price: float = 0.0
    response_format: str = "json_schema"
    temperature: float = 0.0
    max_tokens_field: str = "max_tokens"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where chat completions are asked for; a query of ``base_url`` stays at the end."""
        parts = urlsplit(self.base_url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=host, path=parts.path.rstrip("/") + "/chat/completions", fragment=""))

    def authorization(self) -> str:
        """What is sent in the header of that name: the key, or the name and password in the address.

        Raises:
            UserError: there is no key where one is needed, or a password beside it.
        """
        parts, key = urlsplit(self.base_url), self.key()
        if parts.username is None:
            return f"Bearer {key}"
        if self.key_env:
            raise UserError(
                f"--llm={self.name}: the address holds a name and a password, and the key in {self.key_env} is sent in "
                f"their place. Leave them out of --llm_base_url, or use a source without a key, such as --llm=vllm."
            )
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")

    @property
    def address(self) -> str:
        """``base_url`` for messages, without a name and a password that it may hold."""
        return redact(self.base_url)

    @property
    def paid(self) -> bool:
        """Whether answers cost money."""
        return self.price_in > 0 or self.price_out > 0

    def price(self, tokens_in: int, tokens_out: int, via: str = "") -> float:
        """US dollars for some tokens; ``via`` is ``batch`` for answers of the Batch API."""
        share = self.batch_price if via == "batch" and self.batch_price else 1.0
        return share * (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    @property
    def has_key(self) -> bool:
        """Whether the environment holds the key, where one is wanted."""
        return not self.key_env or bool(os.environ.get(self.key_env, "").strip())

    def addressed(self, request: ChatRequest) -> ChatRequest:
        """A script's request as this endpoint is asked it."""
        return replace(request, model=self.model, temperature=self.temperature)

    def key(self) -> str:
        """The API key from the environment.

        Raises:
            UserError: the variable is not set.
        """
        if not self.key_env:
            return "none"
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise UserError(f"--llm={self.name} needs a key: set the environment variable {self.key_env}.")
        return key


def redact(text: str, key: str = "") -> str:
    """Text without anything that looks like a key, and without names, passwords and queries in addresses."""
    if len(key) > 5:
        text = text.replace(key, "***")
    text = re.sub(r"(?<=://)[^/\s]+@", "***@", text)
    text = re.sub(r"(://[^\s?]*\?)[^\s'\"]+", r"\1***", text)  # some services take the key there
    return re.sub(r"\b(sk|pk|Bearer)[-_ ][\w\-.]{8,}", r"\1-***", text)


def load_endpoint(name: str, changes: dict[str, Any] | None = None) -> Endpoint:
    """The endpoint of ``--llm=name``; ``changes`` (``llm_model``, ``llm_base_url``, ...) win over the file.

    Raises:
        UserError: no such file, or a field that endpoints do not have.
    """
    known = [OFFLINE, *property_names("llm")]
    if name not in property_names("llm"):
        raise UserError(f"--llm={name}: there is no such source.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    path = properties_folder() / "llm" / f"{name}.yaml"
    values = {key: value for key, value in read_yaml(path).items() if key != "about"}
    priced = values.get("model")
    values |= {key.removeprefix("llm_"): value for key, value in (changes or {}).items() if value is not None}
    allowed = {item.name for item in fields(Endpoint)} - {"name"}
    for key in values:
        if key not in allowed:
            raise UserError(f"{path}: endpoints have no field {key!r}.{did_you_mean(key, allowed)}")
    for key in ("base_url", "model"):
        if not values.get(key):
            raise UserError(f"--llm={name}: give --llm_{key}=... (it is not in {path.name}).")
    found = Endpoint(name=name, **values)
    if found.paid and found.model != priced:
        _say_whose_prices(found.model, path.name, str(priced))
    return found


@cache  # said once, not for each cell of a grid
def _say_whose_prices(model: str, file: str, priced: str) -> None:
    logger.warning(
        "--llm_model=%s: prices and --max_cost count with those of %s (%s); a dearer model spends more than the limit. "
        "A file of its own in properties/llm/ gives it its prices.",
        model,
        priced,
        file,
    )
