"""Reading of corrupted answers: none may end a run, and none may take long.

    python -m benchmarks.answers --count=20000 --size=10000

Answers of each method are made, corrupted at random (cut, doubled, nested, with pieces of JSON inserted, wrapped in
reasoning and drafts, or replaced by such pieces), and read as the features read them. The slowest answer of each class
is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from recbole_llm.features.answers import AnswerError, read_answer
from recbole_llm.methods.eimf.features import OpenInterests, _texts
from recbole_llm.methods.isrf.features import FeatureAnswer, SummaryAnswer
from recbole_llm.methods.ldmi.features import InterestGroups, read_groups
from recbole_llm.methods.llmdmsrec.features import IntentAnswer, match_titles

SIGNS = [
    *"{}[]\"'“”:,\\\n `<>",
    *("```json", "<think>", "</think>", "[THINK]", "<|channel|>final<|message|>", "null", "\\u00"),
]
WORDS = ("Alien", "Heat", "Fargo", "Brazil")
TITLES = [f"{WORDS[number % 4]} {number} (19{number % 90 + 10})" for number in range(100)]


def made(generator: random.Random, kind: type, size: int) -> str:
    """A valid answer of about ``size`` characters."""
    phrases = [" ".join(generator.choices(TITLES, k=3))[:300] for _ in range(max(1, size // 60))]
    if kind in (OpenInterests, IntentAnswer):
        return json.dumps({"interests" if kind is OpenInterests else "intents": phrases})
    if kind is InterestGroups:
        groups = [{"name": each, "items": generator.choices(range(99), k=9)} for each in phrases]
        return json.dumps({"interests": groups})
    name = "summarization" if kind is SummaryAnswer else "feature"
    return json.dumps({name: " ".join(phrases)[:3900], "reasoning": ""})


def spoilt(generator: random.Random, text: str, size: int) -> str:
    """A corrupted copy of an answer."""
    for _ in range(generator.choice((0, 1, 1, 2, 5))):
        place, other = generator.randrange(len(text) + 1), generator.randrange(len(text) + 1)
        match generator.randrange(7):
            case 0:
                text = text[:place]
            case 1:
                text = text[:place] + text[other:]
            case 2:
                signs = generator.choices(SIGNS, k=generator.choice((1, 5, 300)))
                text = text[:place] + "".join(signs) + text[place:]
            case 3:
                text = f"<think>{text[:place]}</think>Draft: {text[:other]}\nFinal answer: {text}"
            case 4:
                text = "".join(generator.choices(SIGNS, k=size))
            case 5:
                text = "".join(generator.choices(SIGNS, k=3)) * size
            case 6:
                text = text[place : place + 3] * size + text
        text = text[:size] if generator.random() < 0.5 else text[-size:]
    return text


def read(reader: Callable[[Any, Counter[str]], Any], kind: type, text: str) -> tuple[str, float]:
    """The outcome of reading an answer, and the seconds of processor time that it took."""
    began = time.process_time()
    try:
        reader(read_answer(text, kind)[0], Counter())
        outcome = "read"
    except AnswerError as error:
        outcome = error.rule
    except Exception as error:  # what this measurement looks for
        outcome = f"CRASH {type(error).__name__}: {text[:80]!r}"
    return outcome, time.process_time() - began


def main() -> None:
    """Corrupt, read, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    readers: dict[type, Callable[[Any, Counter[str]], Any]] = {
        OpenInterests: lambda answer, counts: _texts(answer, TITLES, counts),
        InterestGroups: lambda answer, counts: read_groups(answer, 100, counts),
        IntentAnswer: lambda answer, counts: match_titles(answer, TITLES, counts),
        SummaryAnswer: lambda answer, counts: answer.summarization,
        FeatureAnswer: lambda answer, counts: answer.feature,
    }
    slowest: dict[type, tuple[float, str]] = dict.fromkeys(readers, (0.0, ""))
    outcomes: Counter[str] = Counter()
    for number in range(options.count):
        kind = [*readers][number % len(readers)]
        text = spoilt(generator, made(generator, kind, options.size), options.size)[: options.size]
        outcome, seconds = read(readers[kind], kind, text)
        if seconds > slowest[kind][0]:  # the least of three, as garbage collection may start in any of them
            seconds = min(seconds, *(read(readers[kind], kind, text)[1] for _ in range(2)))
        outcomes[outcome] += 1
        slowest[kind] = max(slowest[kind], (seconds, text))
    for kind, (seconds, text) in slowest.items():
        shown = f"{len(text):,} characters: {text[:40]!r}"
        print(f"{kind.__name__}: the slowest took {1000 * seconds:.1f} ms of processor time ({shown})")
    print(dict(outcomes.most_common()))


if __name__ == "__main__":
    main()
