"""Addresses of servers: check them, compare them, and show them without the secrets that they may contain."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from recbole_llm.errors import UserError

_AROUND = " \t\r\n\ufeff\u200b\u00a0\"'`“”„‟‘’‚‛«»‹›"  # what may be pasted along with an address
_SCHEME = re.compile(r"^(?:https?(?::|/)/?/?|\w+://)", re.I)


def check_base_address(address: str, name: str) -> None:
    """Refuse an address that cannot be a base address, before anything is asked.

    Args:
        address: as the user or a file gives it.
        name: the source's name (``--llm``), for the message.

    Raises:
        UserError: it is not a base address.
    """
    bare = address.strip(_AROUND)
    rest = _SCHEME.sub("", bare)
    safe = redact(f"http://{rest}").removeprefix("http://")  # redact finds a password only after ://
    shown = address.replace(rest, safe)
    mended = rest[:1] not in ("", "/", ":") and rest.isprintable() and " " not in rest
    advice = f" Give --llm_base_url=http://{safe}, or https://..." if mended else ""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise UserError(f"--llm={name}: the address {shown} is not valid ({_reason(address, error)}).") from None
    if bare != address or not bare.isprintable() or " " in bare:
        raise UserError(f"--llm={name}: the address {shown!r} has quotation marks or blanks.{advice}")
    if not usable:
        raise UserError(
            f"--llm={name}: the address {shown} does not begin with http:// or https:// and the name of a server."
            f"{advice}"
        )
    for end in ("/chat/completions", "/completions", "/responses"):
        if parts.path.rstrip("/").endswith(end):
            raise UserError(f"--llm={name}: leave {end} out of the address {shown}; it is added to it.")


def server_identity(address: str) -> str:
    """An address without what does not identify a server: login, default port, query, slash at the end."""
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port not in (None, 80, 443) else "")
    except ValueError:  # a file may hold a placeholder for --llm_base_url
        return address
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def check_store_address(address: str) -> None:
    """Refuse an address that contains a secret, before anything is asked, recorded or logged.

    Raises:
        UserError: it has a user name, a password or a query, or is invalid.
    """
    try:
        parts = urlsplit(address)
        secret = parts.scheme in ("http", "https") and ("@" in parts.netloc or parts.query)
        _ = parts.port  # raises an error if a slash ends the address within a password
    except ValueError as error:
        reason = _reason(address, error)
        raise UserError(f"{redact(address)} is not a valid address of a store ({reason}).") from None
    if secret:
        raise UserError(
            f"{redact(address)}: a store is read without a name, a password or a query; bring its folder here and give "
            "the folder."
        )


def _reason(address: str, error: ValueError) -> str:
    """Why an address cannot be split; of one with a login without a part of it, which the error may quote."""
    login = "in its name and password, / is written %2F, ? %3F and # %23"
    return login if "@" in address else str(error)


def blotted(text: str, secrets: Iterable[str]) -> str:
    """Text with some secrets replaced by ``***``; those of up to five characters only if they are whole words."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 5:
            text = text.replace(secret, "***")
        elif secret:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def redact(text: str, *secrets: str) -> str:
    """Text without some secrets, anything that looks like a key, and the logins and queries of addresses."""
    text = blotted(text, secrets)
    text = re.sub(r"(?<=://)\S+@", "***@", text)  # a password may hold a slash
    text = re.sub(r"(://[^\s?]*\?)[^\s'\"]+", r"\1***", text)  # some services take the key in the query
    return re.sub(r"\b(sk|pk|Bearer)[-_ ][\w\-.]{8,}", r"\1-***", text)
