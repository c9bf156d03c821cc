"""``.candidates`` and ``.intent``: the top items of another model, and what the user may want (stages I and II)."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from recbole_llm.data.atomic import Column, join_ids, read_table, split_ids
from recbole_llm.data.candidates import COLUMNS
from recbole_llm.data.split import positions, tested_digest
from recbole_llm.errors import UserError
from recbole_llm.features.answers import AnswerError, Phrase
from recbole_llm.features.feature import PREFIX, Context
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import ask
from recbole_llm.llm.chat import Script
from recbole_llm.utils.text import clean, match_form, share_of

PROMPT = "llmdmsrec_intent"
CANDIDATE_COLUMNS = (*COLUMNS, Column("tested_rows", "token"))
INTENT_COLUMNS = (
    Column("user_id", "token"),
    Column("position", "token"),
    Column("explicit_text", "token_seq"),
    Column("latent_text", "token_seq"),
)
NEAR = 0.9  # similarity from which a title counts as a misspelt candidate
OFFLINE_EXPLICIT = 3
OFFLINE_LATENT = 3
PIECE = 2048


class Intents:
    """Explicit intents (those in the session) and latent intents (the others), chosen among the candidates."""

    name: ClassVar[str] = "intent"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = (PROMPT,)
    settings_keys: ClassVar[tuple[str, ...]] = ("intent_stride", "offline_latent", "legacy_match")
    files: ClassVar[tuple[str, ...]] = ("intent",)
    needs: ClassVar[tuple[str, ...]] = ("candidates",)
    visible: ClassVar[str] = PREFIX

    def build(self, context: Context) -> dict[str, Any]:
        """Write one line for each row that has an answer."""
        rows, candidates = read_candidates(context)
        title_ids = np.array([-1] + [context.folder.texts.add(title) for title in context.items.title[1:]])
        facts: dict[str, Any] = {}
        if context.endpoint is None:
            lines = _offline(context, rows, candidates, title_ids)
        else:
            lines = _asked(context, rows, candidates, title_ids, facts)
        written = context.folder.write("intent", INTENT_COLUMNS, _with_keys(context, lines))
        return {"coverage": share_of(written - facts.get("filled", 0), len(rows)), **facts}


Line = tuple[int, Sequence[int], Sequence[int]]


def _with_keys(context: Context, lines: Iterator[Line]) -> Iterator[tuple[Any, ...]]:
    table = context.table
    for row, explicit, latent in lines:
        user = int(table.user[row])
        yield table.user_tokens[user], row - int(table.offsets[user]), list(explicit), list(latent)


# ---- the offline rule ---------------------------------------------------------------------------


def _offline(context: Context, rows: np.ndarray, candidates: np.ndarray, title_ids: np.ndarray) -> Iterator[Line]:
    """Intents without a language model; the rule never reads the target.

    Explicit intents are the session's own items among the candidates, nearest in meaning to the last item first.
    Latent intents are the best-ranked candidates outside the session. With ``offline_latent: nearest`` they are those
    nearest in meaning, so the rule reads which items are candidates but not how the candidate model ranks them.
    """
    by_meaning = context.settings["offline_latent"] == "nearest"
    legacy = bool(context.settings["legacy_match"])
    vectors = context.encode()[title_ids[1:]]
    vectors = np.concatenate([np.zeros((1, vectors.shape[1]), dtype=np.float32), vectors])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    starts = range(0, len(rows), PIECE)
    for begin in context.progress(starts, "intents by rule"):
        part = slice(begin, begin + PIECE)
        for row, wanted in zip(rows[part], candidates[part], strict=True):
            session = context.history(int(row))
            nearness = vectors[wanted] @ vectors[session[-1]]
            order = np.argsort(-nearness, kind="stable")
            inside = np.isin(wanted, session)
            explicit = wanted[order[inside[order]]][:OFFLINE_EXPLICIT]
            latent = (wanted[order[~inside[order]]] if by_meaning else wanted[~inside])[:OFFLINE_LATENT]
            yield int(row), *_parted(title_ids[explicit], title_ids[latent], legacy)


def _parted(explicit: Sequence[int], latent: Sequence[int], legacy: bool) -> tuple[Sequence[int], Sequence[int]]:
    """Explicit and latent texts as given, or with ``legacy`` as the release sorts an answer with the explicit first.

    The release splits an answer at its semicolons and keeps the spaces after them, so only the first title can equal
    one of the session.
    """
    return (explicit[:1], [*explicit[1:], *latent]) if legacy else (explicit, latent)


# ---- asking -------------------------------------------------------------------------------------


def asked_rows(context: Context, rows: np.ndarray, stride: int) -> np.ndarray:
    """For each row the row whose answer it uses; with a stride of ``k`` only every ``k``-th prefix is asked about.

    Validation and test rows are always asked about, so no measured prediction uses the answer to an older prefix. Any
    other prefix takes the answer to the last shorter prefix that was asked about, never to a longer one.
    """
    if stride <= 1:
        return rows
    offsets = np.asarray(context.table.offsets)[context.table.user[rows]]
    asked = offsets + 1 + (rows - offsets - 1) // stride * stride
    # With filtered rows the grid point may not be a row; then the user's next shorter row is used.
    place = np.searchsorted(rows, asked, side="right") - 1
    before = rows[np.maximum(place, 0)]
    on_grid = np.where((place >= 0) & (before >= offsets), before, rows)
    is_asked = np.isin(rows, on_grid) | np.isin(rows, tested_rows(context))
    # A user's first row is always asked, so that no row takes the answer of another user's.
    return rows[np.maximum.accumulate(np.where(is_asked, np.arange(len(rows)), 0))]


def tested_rows(context: Context) -> np.ndarray:
    """Rows of the targets of validation and test."""
    return np.concatenate([context.split.valid.end, context.split.test.end])


def _asked(
    context: Context, rows: np.ndarray, candidates: np.ndarray, title_ids: np.ndarray, facts: dict[str, Any]
) -> Iterator[Line]:
    prompt = load_prompt(PROMPT)
    titles = context.items.title
    place = {int(row): number for number, row in enumerate(rows)}

    def script(row: int, counts: Counter[str]) -> Script:
        session = [titles[item] for item in context.history(row)]
        offered = [titles[item] for item in candidates[place[row]]]

        def parse(answer: Any) -> tuple[list[int], list[str]]:
            return match_titles(answer, offered, counts)

        return (yield from ask(prompt, {"session": session, "candidates": offered}, parse, counts))

    stride = int(context.settings["intent_stride"])
    source = asked_rows(context, rows, stride)
    asked = np.unique(source)
    if stride > 1:
        tested = int(np.isin(asked, tested_rows(context)).sum())
        context.asking.say(
            f"with intent_stride {stride}, {len(asked):,} of {len(rows):,} positions are asked, among them all "
            f"{tested:,} of validation and test."
        )
    answers = dict(context.answer_all(asked.tolist(), script, "asking for intents"))
    facts["asked"] = len(asked)
    gaps: list[int] = []
    for row, origin in zip(rows.tolist(), source.tolist(), strict=True):
        answer = answers[origin]
        if answer is None:
            gaps.append(place[row])
            continue
        chosen, invented = answer
        items = candidates[place[origin]][chosen]
        inside = np.isin(items, context.history(row))
        if context.settings["legacy_match"]:
            inside[1:] = False
        extra = [context.folder.texts.add(text) for text in invented]
        yield row, title_ids[items[inside]], [*title_ids[items[~inside]], *extra]
    if context.fills and gaps:
        facts["filled"] = len(gaps)
        yield from _offline(context, rows[gaps], candidates[gaps], title_ids)


@cache
def _echoes() -> frozenset[str]:
    """Texts of the prompt's own format and example, normalised for comparison; small models copy them."""
    examples = load_prompt(PROMPT).examples
    shown = [title for data, _ in examples for titles in data.values() for title in titles]
    return frozenset(map(match_form, ["title", "...", *shown]))


def match_titles(answer: IntentAnswer, offered: Sequence[str], counts: Counter[str]) -> tuple[list[int], list[str]]:
    """Indices of the offered titles that an answer names, and the other texts that it names.

    A text names a candidate if it equals the title apart from case, punctuation and numbering, if it is the
    candidate's number (from 1), or if it is nearly the title (``near``). A candidate named again (``duplicate``), a
    number that no candidate has (``out_of_range``) and text copied from the prompt's format or example (``echoed``)
    are dropped. Other texts stay as latent intents in the LLM's own words (``invented``).

    Raises:
        AnswerError: the answer names nothing.
    """
    forms = {match_form(title): number for number, title in reversed(list(enumerate(offered)))}
    chosen: dict[int, None] = {}
    invented: dict[str, None] = {}
    for text in answer.intents:
        form = match_form(text)
        number = forms.get(form)
        if number is None and form in _echoes():
            counts["echoed"] += 1
            continue
        if number is None and form.isdecimal():
            if not (len(form) < 5 and 1 <= int(form) <= len(offered)):
                counts["out_of_range"] += 1
                continue
            number = int(form) - 1
        if number is None and form:
            near = difflib.get_close_matches(form, forms, n=1, cutoff=NEAR)
            number = forms[near[0]] if near else None
            counts["near"] += number is not None
        if number is not None:
            counts["duplicate"] += number in chosen
            chosen[number] = None
        elif form:
            counts["invented"] += 1
            invented[clean(text)] = None
    if not chosen and not invented:
        raise AnswerError("intents: name at least one candidate")
    return list(chosen), list(invented)


class IntentAnswer(BaseModel):
    """LLM-DMsRec: the candidates (titles, or their numbers) that the user may intend next."""

    model_config = ConfigDict(extra="ignore")

    intents: list[Phrase] = Field(min_length=1, max_length=20, description="titles copied from the candidates")


class Candidates:
    """The top ``n_candidates`` items for every row at which something is predicted.

    As in the paper, the session's own items stay in; they make explicit intents possible. With ``candidate_folds: k``
    a training row's candidates come from a model that was not trained on the row's user, so the target is among them
    about as often as at test. In the paper the model was trained on the row itself. Each line ends in a hash of the
    tested rows, so that the table is not taken for another split, whose tested rows the model may have been trained on.
    """

    name: ClassVar[str] = "candidates"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = ()
    settings_keys: ClassVar[tuple[str, ...]] = ("n_candidates", "candidate_folds", "MAX_ITEM_LIST_LENGTH")
    files: ClassVar[tuple[str, ...]] = ("candidates",)
    visible: ClassVar[str] = PREFIX

    def build(self, context: Context) -> dict[str, Any]:
        """Rank with the stage-one model and write item tokens, best first."""
        if context.stage_one is None:
            raise UserError("candidates need a stage-one model (stage_one_model).")
        rows = context.target_rows()
        items = context.stage_one.top_items(rows, int(context.settings["n_candidates"]))
        tokens = np.asarray(context.table.item_tokens)
        users = context.table.user_tokens[context.table.user[rows]]
        tested = tested_digest(context.split)
        context.folder.write(
            "candidates",
            CANDIDATE_COLUMNS,
            (
                (user, position, join_ids(tokens[line].tolist()), tested)
                for user, position, line in zip(users, positions(context.table, rows), items, strict=True)
            ),
        )
        hits = (items == np.asarray(context.table.item[rows])[:, None]).any(1)
        parts = {"train": context.split.train_targets, "valid": context.split.valid.end, "test": context.split.test.end}
        found = {name: hits[np.isin(rows, part)] for name, part in parts.items()}
        share = {name: round(float(part.mean()), 4) for name, part in found.items() if len(part)}
        folds = {"folds": context.stage_one.folds} if context.stage_one.folds else {}
        return {"stage_one": context.stage_one.key, "coverage": 1.0, "target_among_candidates": share, **folds}


def read_candidates(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``(n,)`` and their candidates ``(n, k)`` as item ids, read from the file."""
    frame = read_table(context.folder.file("candidates"))
    index = {token: number for number, token in enumerate(context.table.item_tokens.tolist())}
    user_index = {token: number for number, token in enumerate(context.table.user_tokens.tolist())}
    users = np.array([user_index[user] for user in frame["user_id"].astype(str)])
    rows = np.asarray(context.table.offsets)[users] + frame["position"].astype(np.int64).to_numpy()
    items = np.array([[index[token] for token in split_ids(line)] for line in frame["items"]], dtype=np.int64)
    return rows, items
