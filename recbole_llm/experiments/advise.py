"""How many answers of an LLM to buy: growing random samples of them, and the gain after each.

A method is trained with the answers about a small random share of items, users and exemplars, then about a larger share
that includes it, and so on. Each is compared on the validation cases with its backbone: the same model without text
features (``semantics: none``). Buying ends for a model when the interval of the gain excludes zero, when it lies within
a margin, or when the money left does not cover the next step.

Test cases are never ranked here: a number that decided how many answers were bought would be no fair test. Several
steps find a difference more often than one does, so the intervals are wide enough for all of them together (Bonferroni
over models and steps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from recbole_llm.data.sessions import people_of
from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import metric_title
from recbole_llm.evaluation.significance import LEVEL, Family
from recbole_llm.experiments.generate import cost_of, plan
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.sources import AnswerSource, Stopped
from recbole_llm.llm.budget import Budget, LimitReached
from recbole_llm.settings.layers import layer_settings
from recbole_llm.settings.rules import features_read
from recbole_llm.utils.text import counted, percent, price_text

GAIN, LOSS, NONE, OPEN = "gain", "loss", "none", "open"
WITHOUT, WITH = "without answers", "with answers"


@dataclass(frozen=True)
class Step:
    """The result with one share of the answers.

    Attributes:
        dataset, model: of the runs.
        share: of the questions that were asked.
        requests: questions behind the features so far.
        price: US dollars for their answers.
        backbone, value: means of the metric over validation cases and seeds, without and with the answers.
        gain, low, high: their difference and its interval.
        verdict: ``none`` if the interval lies within the margin, else ``gain`` or ``loss`` if it excludes zero, else
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
    """Why no more answers were bought for a model, and what the remaining ones would cost.

    Attributes:
        dataset, model: of the runs.
        why: in words.
        share: of the questions in the last step; 0 if there was no step.
        requests: still needed to answer all questions.
        price: US dollars for them, estimated; ``None`` if the endpoint's file states no price.
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
        metric: of validation.
        level: confidence level of each interval.
        seeds: number of trainings in each step.
        steps: in the order in which they were made.
        ends: one for each model.
    """

    metric: str
    level: float
    seeds: int
    steps: list[Step] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)


def advise(
    runs: Sequence[Run], runner: Runner, shares: Sequence[float], seeds: Sequence[int], margin: float | None = None
) -> Advice:
    """Buy answers for each model until its gain is decided.

    Args:
        runs: one for each model, with its endpoint.
        runner: makes features and trainings.
        shares: of the answers, ascending.
        seeds: of the trainings of each step.
        margin: smaller gains and losses count as none.

    Raises:
        UserError: a model reads no answers of an LLM, a run sets ``semantics`` or ``answer_share`` itself, there are
            validation cases of fewer than two users, or the endpoint answers nothing.
    """
    for run in runs:
        _check(run)
        _check_users(run, runner)
    settings = runs[0].settings
    found = Advice(str(settings["valid_metric"]).lower(), 1 - LEVEL / (len(runs) * len(shares)), len(seeds))
    runner.asking = AnswerSource.of(settings)
    aside = ResultStore(Path(settings["checkpoint_dir"]) / "advice")
    buying = _Buying(runner, aside, seeds, margin, runner.asking.budget, found)
    undecided = list(runs)
    for share in shares:
        for run in [*undecided]:
            why = buying.step(run, share)
            if not why and share == shares[-1]:
                why = "the largest share does not decide it"
            if why:
                undecided.remove(run)
                buying.end(run, why)
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


def _check_users(run: Run, runner: Runner) -> None:
    """The interval of a single user is infinite, so that no share of the answers would decide anything."""
    dataset, sample = runner.read_dataset(run), int(run.settings["valid_users"] or 0)
    cases = dataset.split.valid.of_sample(dataset.table.user_tokens, sample)
    if len(np.unique(people_of(dataset.table, cases.user))) < 2:
        raise UserError(
            f"advise compares users, and {run.location.name} has validation cases of fewer than two: take a larger "
            "--valid_users, a wider filter or another protocol."
        )


def _verdict(low: float, high: float, margin: float | None) -> str:
    """The verdict on an interval of the gain; an interval within the margin is ``none``."""
    if margin is not None and -margin < low and high < margin:
        return NONE
    return GAIN if low > 0 else LOSS if high < 0 else OPEN


@dataclass
class _Buying:
    """The steps of one command.

    Attributes:
        runner: makes features and trainings.
        aside: where trainings are kept, apart from results.
        seeds: of the trainings of each step.
        margin: smaller gains and losses count as none.
        budget: of the command.
        found: collects steps and ends.
    """

    runner: Runner
    aside: ResultStore
    seeds: Sequence[int]
    margin: float | None
    budget: Budget
    found: Advice

    def step(self, run: Run, share: float) -> str:
        """Buy a share of a model's answers and measure the gain; returns why this step is the last, else nothing."""
        variants = [_variant(run, seed, answer_share=share) for seed in self.seeds]
        _, likely = self._rest(variants[0])
        try:
            if likely:
                self.budget.check(likely)
            self.runner.make_features(variants[0])
        except LimitReached:
            left = max(0.0, (self.budget.max_cost or 0.0) - self.budget.spent)
            return f"the answers of {percent(share)} would cost about {likely:.4f} US$ more, and {left:.4f} are left"
        except Stopped as error:
            return str(error)
        step = self._measured(run, share, variants)
        self.found.steps.append(step)
        return {
            GAIN: "the interval lies above zero",
            LOSS: "the interval lies below zero",
            NONE: f"the interval lies within ±{self.margin}",
        }.get(step.verdict, "")

    def end(self, run: Run, why: str) -> None:
        """Note why no more is bought for a model."""
        place = (run.location.name, run.settings.method.name)
        made = [step.share for step in self.found.steps if (step.dataset, step.model) == place]
        self.found.ends.append(End(*place, why, max(made, default=0.0), *self._rest(run)))

    def _measured(self, run: Run, share: float, variants: Sequence[Run]) -> Step:
        """Train with and without the answers, and compare on the validation cases."""
        bare = [_variant(run, seed, semantics="none") for seed in self.seeds]
        without = [self.runner.rank_validation(each, self.aside)[1] for each in bare]
        trained = [self.runner.rank_validation(each, self.aside) for each in variants]
        family = Family({WITH: [ranks for _, ranks in trained], WITHOUT: without}, self.found.metric)
        (test,) = family.compare([(WITH, WITHOUT)])
        low, high = test.interval(self.found.level)
        facts = trained[0][0].features
        return Step(
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
            _verdict(low, high, self.margin),
        )

    def _rest(self, run: Run) -> tuple[int, float | None]:
        """Requests that a run's features still need, and US dollars for them, estimated from the answers so far."""
        return cost_of(plan([run], self.runner))


def _variant(run: Run, seed: int, **changes: Any) -> Run:
    """The run with changed settings."""
    own = run.settings
    overrides = {**own.overrides, **changes, f"{own.method.name}.seed": seed}  # else a model's own seed would win
    return Run.of(
        layer_settings(own.method, own["dataset"], own["protocol"], own.config_files, overrides, strict=False)
    )


# ---- what is shown ------------------------------------------------------------------------------


def render_advice(found: Advice) -> str:
    """The steps as a table, and why each model's last step was the last."""
    title = metric_title(found.metric)
    header = ["dataset", "model", "answers", "questions", "US$", "without", "with", "gain", f"{found.level:.1%}", ""]
    lines = [
        [
            *(step.dataset, step.model, percent(step.share), f"{step.requests:,}", f"{step.price:.4f}"),
            *(f"{step.backbone:.4f}", f"{step.value:.4f}", f"{step.gain:+.4f}"),
            *(f"[{step.low:+.4f}, {step.high:+.4f}]", step.verdict),
        ]
        for step in found.steps
    ]
    text = tabulate(lines, header, disable_numparse=True, colalign=("left", "left") + ("right",) * 7 + ("left",))
    notes = [
        f"{title} on the validation cases, where epochs are chosen too, with {counted(found.seeds, 'seed')}; without: "
        "the same model, --semantics=none. No test case was ranked.",
        "intervals hold for all steps together; with part of the answers a method may gain less than with all",
    ]
    return "\n".join([text, "", *map(_end_text, found.ends), "", *notes])


def _end_text(end: End) -> str:
    price = "price not stated" if end.price is None else f"{price_text(end.price)} US$ (estimated)"
    rest = f"the rest: {counted(end.requests, 'request')}, {price}" if end.requests else "no answer is left to buy"
    return f"{end.model} on {end.dataset}: ends at {percent(end.share)} of the answers: {end.why}; {rest}"
