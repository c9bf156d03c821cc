"""Find JSON in the output of a language model: skip reasoning and prose, repair what is broken.

Answers are untrusted, so every function here takes time in proportion to the length of the text, whatever it contains.
A repair by trial and error took seconds for four kilobytes of nested brackets and blocked everything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DEEPEST = 64  # deepest nesting that is repaired; answers have two or three levels
MOST_DIGITS = 400  # of a number that is converted; Python raises an error for thousands

_NAMES = "think|thinking|thoughts?|reason|reasoning|reflection|scratchpad|analysis|inner_monologue|internal_monologue"
# <think>, <think budget="1">, <thinking_process>, <|begin_of_thought|>, <|START_THINKING|>, <|channel>thought,
# <seed:think>, [THINK], ◁think▷ and their closing tags
_TAG = re.compile(
    rf"<(?P<a>/?)(?:\w{{1,40}}:)?(?:{_NAMES})(?:[\s_][^<>]{{0,100}})?>"
    r"|<\|(?P<b>begin|end|start)_(?:of_)?(?:thought|thinking)\|>"
    r"|<\|channel>thoughts?\b|<(?P<e>channel)\|>|\[(?P<c>/?)(?-i:THINK)\]|◁(?P<d>/?)think▷",
    re.I,
)
_ENDINGS = ("/", "end", "channel")
_FENCED = re.compile(rf"```(?:{_NAMES})\b.*?(?:```|\Z)", re.S | re.I)
# The channels of gpt-oss ("harmony"); <|constrain|>json may come between a channel and its message.
_CHANNEL = re.compile(r"<\|channel\|>\s{0,40}(\w{1,40})(?:(?!<\|(?:message|channel)\|>).){0,200}<\|message\|>", re.S)
# The same if the server strips the special tokens: "analysisThe user ...assistantfinal{...}". Without that ending, a
# capital letter right after the channel's name marks the text as reasoning.
_CHANNELS_BARE = re.compile(r"\s*(?:analysis|commentary)")
_THOUGHT_BARE = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z])")


def without_reasoning(text: str) -> str:
    """A text without its reasoning; if the reasoning never ends, only the text before it is left."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = [found for found in channels if found[1].casefold() == "final"]
        return text[final[-1].end() :].partition("<|")[0] if final else ""
    if _CHANNELS_BARE.match(text) and "assistantfinal" in text:
        return text.rpartition("assistantfinal")[2]
    if _THOUGHT_BARE.match(text):
        return ""
    text = _FENCED.sub("", text)
    kept: list[str] = []
    place, thinking = 0, False
    for tag in _TAG.finditer(text):
        if any(mark.casefold() in _ENDINGS for mark in tag.groupdict(default="").values()):
            if not thinking:
                kept.clear()  # the opening tag was part of the prompt, or the reasoning mentioned such tags
            thinking, place = False, tag.end()
        elif not thinking:
            kept.append(text[place : tag.start()])
            thinking = True
    return "".join(kept) + ("" if thinking else text[place:])


# ---- whole values -------------------------------------------------------------------------------

_OPENING = re.compile(r"""\{\s*+["}]|\[\s*+["{\[\]\d\-tfnIN]""")
_FENCE = re.compile(r"```[a-zA-Z]*\s*$")
_DECODER = json.JSONDecoder()
# The cost of a failed attempt, counted in characters read: raising the error, and giving up at the recursion limit.
_FAILED, _TOO_DEEP = 200, 20_000


@dataclass(frozen=True)
class Found:
    """A value in a text.

    Attributes:
        value: an object or a list.
        fenced: whether it is in a code fence.
    """

    value: Any
    fenced: bool


def parsed(text: str) -> Any:
    """The JSON value of a whole text, ``None`` if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def whole_values(text: str) -> Iterator[Found]:
    """Valid objects and lists in a text, first to last; those nested in another are not yielded separately."""
    place, work = 0, 0
    while work <= 10 * len(text) + 50_000 and (opening := _OPENING.search(text, place)):
        start = opening.start()
        try:
            value, place = _DECODER.raw_decode(text, start)
            yield Found(value, bool(_FENCE.search(text[max(0, start - 40) : start])))
        except json.JSONDecodeError as error:
            if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
                return  # cut off: the values inside are parts of it, not the answer
            place, work = start + 1, work + error.pos - start + error.pos // 50 + _FAILED
        except (ValueError, RecursionError):
            place, work = start + 1, work + _TOO_DEEP


# ---- broken values ------------------------------------------------------------------------------

_BEGINS = re.compile(r"""\{\s*+(?:["'“}]|\w++\s*+:|$)|\[\s*+(?:["'“\[{\]\d-]|true|false|null|NaN|Infinity|$)""")
_TOKEN = re.compile(
    r"""\s+ | (?P<mark>[{}\[\],:]) | (?P<quote>["'“])
    | (?P<number>-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?)(?=[\s,\]}]|$)
    | (?P<words>[^\n{}\[\],:"“]++)""",
    re.X,
)
_ENDS = {'"': re.compile(r'\\.|"', re.S), "'": re.compile(r"\\.|'", re.S), "“": re.compile(r"\\.|”", re.S)}
_AFTER = re.compile(r"(\s*+)(.?)", re.S)
_ESCAPE = re.compile(r"""(?P<known>\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})|\\(?P<other>.)|(?P<quote>")|\\""", re.S)
_CONSTANTS: dict[str, Any] = {
    **{"true": True, "True": True, "false": False, "False": False, "null": None, "None": None},
    **{"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")},
}


def mended_values(text: str) -> Iterator[Any]:
    """Objects and lists in a text whose brackets, quotation marks or commas are missing or wrong, first to last."""
    place = 0
    while begins := _BEGINS.search(text, place):
        mender = _Mender(text, begins.start())
        yield mender.value
        place = mender.place


@dataclass
class _Container:
    """An object or a list that is not closed yet.

    Attributes:
        items: its contents.
        name: the last string of an object, its next key if a colon follows.
        key: the key whose value comes next.
    """

    items: dict[str, Any] | list[Any]
    name: str | None = None
    key: str | None = None

    @property
    def end(self) -> str:
        """The bracket that closes it."""
        return "}" if isinstance(self.items, dict) else "]"

    def add(self, value: Any) -> None:
        """Add the next string, number or container; without a key before it, an object takes it as a possible key."""
        if isinstance(self.items, list):
            self.items.append(value)
        elif self.key is not None:
            self.items[self.key], self.key = value, None
        elif isinstance(value, (str, int, float)):
            self.name = str(value)

    def divide(self, mark: str) -> None:
        """Take a comma or a colon."""
        self.key, self.name = (self.name if mark == ":" else None), None


class _Mender:
    """Reads one value that begins at a bracket, each character once.

    Attributes:
        value: what was read; ``None`` if it is nested too deeply.
        place: where reading ended.
    """

    def __init__(self, text: str, place: int) -> None:
        self.text, self.place = text, place
        self.value: Any = None
        self._open: list[_Container] = []
        self._read()

    def _read(self) -> None:
        while self.place < len(self.text):
            token = _TOKEN.match(self.text, self.place)
            assert token is not None, "a token is whatever stands there"
            self.place = token.end()
            if token["mark"]:
                self._mark(token["mark"])
            elif token["quote"]:
                self._open[-1].add(self._string(token["quote"]))
            elif token["number"]:
                self._open[-1].add(_number(token["number"]))
            elif token["words"]:
                self._words(token["words"].strip())
            if not self._open:
                return
            if len(self._open) > DEEPEST:
                self.value, self.place = None, len(self.text)
                return

    def _mark(self, mark: str) -> None:
        if mark in "{[":
            inner = _Container({} if mark == "{" else [])
            if self._open:
                self._open[-1].add(inner.items)
            else:
                self.value = inner.items
            self._open.append(inner)
        elif mark in ",:":
            self._open[-1].divide(mark)
        elif any(each.end == mark for each in self._open):
            while self._open.pop().end != mark:
                pass

    def _words(self, words: str) -> None:
        """Words without quotation marks: a constant, a key or value inside an object, or prose in a list, skipped."""
        if words in _CONSTANTS and self._open[-1].name is None:
            self._open[-1].add(_CONSTANTS[words])
        elif isinstance(self.value, dict):
            self._open[-1].add(words)

    def _string(self, quote: str) -> str:
        """The string after a quotation mark; a mark not followed by a comma, colon, bracket or string is part of it."""
        begin = self.place
        for found in _ENDS[quote].finditer(self.text, begin):
            if found[0].startswith("\\"):
                continue
            blank, after = _AFTER.match(self.text, found.end()).groups()  # type: ignore[union-attr]
            if not after or after in ",:]}" or (blank and after in "\"'“"):
                self.place = found.end()
                return _unescaped(self.text[begin : found.start()])
        self.place = len(self.text)
        return _unescaped(self.text[begin:])


def _unescaped(text: str) -> str:
    """A string with its escapes decoded; those that JSON does not know lose their backslash."""
    if "\\" not in text:
        return text
    inner = _ESCAPE.sub(lambda it: it["known"] or it["other"] or ('\\"' if it["quote"] else ""), text)
    return str(json.loads(f'"{inner}"', strict=False))


def _number(text: str) -> Any:
    if len(text) > MOST_DIGITS:
        return text
    return int(text) if text.lstrip("-").isdecimal() else float(text)
