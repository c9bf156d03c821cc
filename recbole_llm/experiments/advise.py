"""How many answers a question needs: growing random samples of them, and the gain after each.

A method is trained with the answers about a small random share of items, users and exemplars, then about a larger one
that holds it, and so on. Each is compared with the same model without its text features (``semantics: none``), its
backbone, on the validation cases. Buying ends for a model when the interval of the gain excludes zero, when it lies
within a margin, or when the money for the next step is not there.

Test cases are never ranked here: a number that decided how many answers were bought would be no test. Several looks
find a difference more often than one, so that the intervals are wide enough for all of them together (Bonferroni over
models and steps).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import metric_title
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import LEVEL, Family
from recbole_llm.experiments.generate import plan
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.sources import AnswerSource, Stopped
from recbole_llm.llm.budget import LimitReached
from recbole_llm.settings.layers import layer_settings
from recbole_llm.settings.rules import features_read
from recbole_llm.utils.text import counted, percent

logger = logging.getLogger(__name__)

GAIN, LOSS, NONE, OPEN = "gain", "loss", "none", "open"
WITHOUT, WITH = "without answers", "with answers"


@dataclass(frozen=True)
class Look:
    """What one share of the answers gave.

    Attributes:
        dataset, model: of the runs.
        share: of the questions that were to be answered.
        requests: questions behind the features so far.
        price: US dollars for their answers.
        backbone, value: means of the metric over validation cases and seeds, without and with the answers.
        gain, low, high: their difference and its interval.
        verdict: ``gain`` or ``loss`` where the interval excludes zero, ``none`` where it lies within the margin, else
            ``open``.
    """

    dataset: str
    model: str
    share: float
    requests: int
    price: float
    backbone: float
    value: float
    gain: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class End:
    """Why no more answers were bought for a model, and what the others would cost.

    Attributes:
        dataset, model: of the runs.
        why: in words.
        share: of the questions of the last look; 0 where there was none.
        requests: that the answers to all questions would take from here.
        price: US dollars for them, estimated; ``None`` where the endpoint's file states no price.
    """

    dataset: str
    model: str
    why: str
    share: float
    requests: int
    price: float | None


@dataclass
class Advice:
    """What :func:`advise` found.

    Attributes:
        metric: that was validated.
        level: of each interval.
        seeds: trainings of each look.
        looks: in the order in which they were made.
        ends: one for each model.
    """

    metric: str
    level: float
    seeds: int
    looks: list[Look] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)


def advise(
    runs: Sequence[Run], runner: Runner, shares: Sequence[float], seeds: Sequence[int], margin: float | None = None
) -> Advice:
    """Buy answers until the question is decided, for each model.

    Args:
        runs: one for each model, with its endpoint.
        runner: makes features and trainings.
        shares: of the answers, ascending.
        seeds: of the trainings of each look.
        margin: gains and losses that are smaller count as none.

    Raises:
        UserError: a model reads no answers of an LLM, or the endpoint answers nothing.
    """
    for run in runs:
        _check(run)
    metric = str(runs[0].settings["valid_metric"]).lower()
    found = Advice(metric, 1 - LEVEL / (len(runs) * len(shares)), len(seeds))
    runner.asking = AnswerSource.of(runs[0].settings)
    aside = ResultStore(Path(runs[0].settings["checkpoint_dir"]) / "advice")
    open_runs = list(runs)
    for place, share in enumerate(shares):
        for run in list(open_runs):
            why = _step(run, runner, aside, share, seeds, margin, found)
            if not why and place == len(shares) - 1:
                why = "the largest share does not decide it"
            if why:
                open_runs.remove(run)
                found.ends.append(_end(run, runner, why, found))
    return found


def _check(run: Run) -> None:
    settings = run.settings
    if settings["llm"] == "offline" or not features_read(settings.method, settings.values):
        raise UserError(
            f"advise buys answers of an LLM, and {settings.method.name} with these settings asks none: give --llm=NAME "
            "and models that ask (recbole-llm list models)."
        )
    if settings["semantics"] != "llm":
        raise UserError(f"advise compares answers with none: leave out --semantics={settings['semantics']}.")
    if settings["answer_share"] != 1:
        raise UserError("advise sets answer_share itself; give --shares=0.05,0.2,1.")


def _step(
    run: Run,
    runner: Runner,
    aside: ResultStore,
    share: float,
    seeds: Sequence[int],
    margin: float | None,
    found: Advice,
) -> str:
    """One look at one model; why it is the last one, or an empty string."""
    cells = [_variant(run, seed, answer_share=share) for seed in seeds]
    _, likely = _rest(cells[0], runner)
    budget = runner.asking.budget
    try:
        if likely:
            budget.check(likely)
    except LimitReached:
        left = max(0.0, budget.max_cost - budget.spent)
        return f"the answers of {percent(share)} would cost about {likely:.4f} US$ more, and {left:.4f} are left"
    try:
        runner.make_features(cells[0])
    except Stopped as error:
        return str(error)
    look = _look(run, share, cells, [_variant(run, seed, semantics="none") for seed in seeds], runner, aside, found)
    verdict = _verdict(look.low, look.high, margin)
    found.looks.append(_with_verdict(look, verdict))
    return {GAIN: "the gain excludes zero", LOSS: "the loss excludes zero", NONE: f"within ±{margin}"}.get(verdict, "")


def _look(
    run: Run, share: float, cells: list[Run], bare: list[Run], runner: Runner, aside: ResultStore, found: Advice
) -> Look:
    """Train with and without the answers, and compare on the validation cases."""
    without = [runner.rank_validation(each, aside)[1] for each in bare]
    trained: list[tuple[Record, Ranks]] = [runner.rank_validation(each, aside) for each in cells]
    family = Family({WITH: [ranks for _, ranks in trained], WITHOUT: without}, found.metric)
    (test,) = family.compare([(WITH, WITHOUT)])
    low, high = test.interval(found.level)
    facts = trained[0][0].features
    return Look(
        run.location.name,
        run.settings.method.name,
        share,
        facts.requests + facts.cached if facts else 0,
        facts.price if facts else 0.0,
        family.interval(WITHOUT).mean,
        family.interval(WITH).mean,
        test.difference,
        low,
        high,
        OPEN,
    )


def _with_verdict(look: Look, verdict: str) -> Look:
    return Look(**{**vars(look), "verdict": verdict})


def _verdict(low: float, high: float, margin: float | None) -> str:
    """What an interval of the gain says; a gain that is smaller than the margin is none."""
    if margin is not None and -margin < low and high < margin:
        return NONE
    return GAIN if low > 0 else LOSS if high < 0 else OPEN


def _variant(run: Run, seed: int, **changes: Any) -> Run:
    """The run with other settings."""
    own = run.settings
    overrides = {**own.overrides, **changes, "seed": seed}
    return Run.of(
        layer_settings(own.method, own["dataset"], own["protocol"], own.config_files, overrides, strict=False)
    )


def _end(run: Run, runner: Runner, why: str, found: Advice) -> End:
    name = run.settings.method.name
    requests, price = _rest(run, runner)
    made = [look.share for look in found.looks if (look.dataset, look.model) == (run.location.name, name)]
    return End(run.location.name, name, why, max(made, default=0.0), requests, price)


def _rest(run: Run, runner: Runner) -> tuple[int, float | None]:
    """Requests that a run's features still take, and US dollars for them, estimated from the answers so far."""
    rows = plan([run], runner)
    priced = all(shop.endpoint is None or shop.endpoint.priced for shop, _ in rows)
    price = sum(row.price for _, row in rows)
    return sum(row.requests for _, row in rows), price if priced else None


# ---- what is shown ------------------------------------------------------------------------------


def render_advice(found: Advice) -> str:
    """The looks as a table, and why each model's was the last."""
    title = metric_title(found.metric)
    header = ["dataset", "model", "answers", "questions", "US$", "without", "with", "gain", f"{found.level:.1%}", ""]
    lines = [
        [
            *(look.dataset, look.model, percent(look.share), f"{look.requests:,}", f"{look.price:.4f}"),
            *(f"{look.backbone:.4f}", f"{look.value:.4f}", f"{look.gain:+.4f}"),
            *(f"[{look.low:+.4f}, {look.high:+.4f}]", look.verdict),
        ]
        for look in found.looks
    ]
    text = tabulate(lines, header, disable_numparse=True, colalign=("left", "left") + ("right",) * 7 + ("left",))
    notes = [
        f"{title} on the validation cases, where epochs are chosen too, with {counted(found.seeds, 'seed')}; without: "
        "the same model, --semantics=none. No test case was ranked.",
        "intervals hold for all looks together; with part of the answers a method may gain less than with all",
    ]
    return "\n".join([text, "", *map(_end_text, found.ends), "", *notes])


def _end_text(end: End) -> str:
    price = "price not stated" if end.price is None else f"about {end.price:.2f} US$"
    rest = f"the rest: {counted(end.requests, 'request')}, {price}" if end.requests else "no answer is left to buy"
    return f"{end.model} on {end.dataset}: ends at {percent(end.share)} of the answers: {end.why}; {rest}"
