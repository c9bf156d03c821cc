"""What the pages of docs/findings/ say about rows, and the kept records that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.results_table import ResultsTable, build

ROOT = Path(__file__).parents[1]

Place = tuple[str, str, str]  # folder, dataset, protocol
FLAGSHIP: Place = ("flagship-short", "ml-100k", "loo")
FLAGSHIP_DIRECT: Place = ("flagship-short", "ml-100k", "direct_100")
ANSWERS: Place = ("answers", "ml-100k", "loo")
PARTS: Place = ("parts", "ml-100k", "loo")
DIRECT_LONG: Place = ("direct", "ml-100k", "direct_100")
BEAUTY_USERS: Place = ("beauty-users", "beauty", "user_split")
GRAPHS: Place = ("session-graph", "ml-100k", "loo")
BACKBONES: Place = ("backbones", "ml-100k", "loo")
DUIP: Place = ("duip", "ml-100k", "loo")
FOLDS: Place = ("candidate-folds", "ml-100k", "loo")
SESSIONS: Place = ("sessions", "bundle", "po4isr")
NUMBERS: Place = ("item-numbers", "ml-100k", "loo")
RELEASED: Place = ("beauty-sessions", "beauty", "session")
DRAWN: Place = ("sessions", "bundle", "temporal_20")
TOYS: Place = ("times", "toys-times", "loo")
TOYS_LATER: Place = ("times", "toys-times", "gts")
BEAUTY_TIMES: Place = ("times", "beauty-times", "loo")
BEAUTY_LATER: Place = ("times", "beauty-times", "gts")
PUBLISHED: Place = ("beauty", "beauty", "loo")
PUBLISHED_RANKED: Place = ("beauty-ranked", "beauty", "loo")
VECTORS: Place = ("vectors", "ml-100k", "loo")
PROFILES: Place = ("profiles", "beauty-times", "loo")
PROFILES_LATER: Place = ("profiles", "beauty-times", "gts")
TITLES = "UniSRec (text) [profiles_by=title, text_columns=title_text]"
BOTH = "UniSRec (text) [profiles_by=item_id, text_columns=title_text,profile_text]"
VECTORS_IN_TIME: Place = ("vectors", "ml-100k", "gts")
GAMES: Place = ("times", "games18-times", "loo")
GAMES_LATER: Place = ("times", "games18-times", "gts")

LAST, GRU_LAST = "SASRec [train_targets=last]", "GRU4Rec [train_targets=last]"
GRU_ALL = "GRU4Rec [train_targets=all]"
CLAUDE = "claude-2026-11"
SMALL_EIMF = "EIMF (qwen2.5-coder-1.5b-instruct-q4_k_m)"
ISRF_NONE = "ISRF (none) [graph_words=True]"
FILMS, OTHER_FILMS = "text, films#2f6d3e", "shuffled, films#2f6d3e"
FULL_SOFTMAX = "SASRec [train_batch_size=2048, train_targets=all]"
PREFIXES, PREFIXES_GRU = (f"{model} [train_batch_size=512, train_targets=last]" for model in ("SASRec", "GRU4Rec"))
BY_RULE, BY_LLM = "LLMDMsRec (offline)", f"LLMDMsRec ({CLAUDE})"
EXCHANGED = f"LLMDMsRec (shuffled) [llm={CLAUDE}, intent_stride=50]"
RULE_EXCHANGED = "LLMDMsRec (shuffled) [llm=offline, intent_stride=1]"
WITH_LM, WITHOUT_LM = "DUIP (text, scratch GPT-2 2x64)", "DUIP (text, no language model)"
CONTRAST, NO_CONTRAST = (f"LDMI ({CLAUDE}) [clusters=llm, contrast={kind}]" for kind in ("item", "none"))
SEEN_ALONE, ALL_ITEMS = (f"{WITHOUT_LM} [cold_in_softmax={value}]" for value in (False, True))
POSITION = "ComiRecDR [routing_transform=position]"


class Claim(NamedTuple):
    """What a sentence says about the difference between a row and a reference row.

    Attributes:
        page: page in ``docs/findings/``.
        where: where the records are.
        row: label of the first row.
        reference: label of the reference row; p is corrected over all rows that are compared with it.
        holds: whether the sentence calls the difference significant.
        words: the sentence, with the placeholders in braces.
        models: models that the table is restricted to; all by default.
    """

    page: str
    where: Place
    row: str
    reference: str
    holds: bool
    words: str
    models: tuple[str, ...] = ()


PAIR = ("LLMDMsRec", "SRGNN")  # a table of these two alone: p needs no correction
CONTROLLED = (*PAIR, "SRGNNEnsemble")
EIMF_REMI = ("EIMF", "REMI")
LDMI_COMIREC = ("LDMI", "ComiRecDR")
DIVIDED = "LDMI (offline) [clusters=llm]"
HOLDS, CHANCE = True, False  # whether a sentence calls a difference significant

CLAIMS = (
    # Well-tuned rows.
    Claim("tuned", FLAGSHIP, f"EIMF ({CLAUDE})", LAST, HOLDS,
          "answers**, by {gap} {bounds} (p {p3}) and"),
    Claim("tuned", FLAGSHIP, f"LDMI ({CLAUDE})", LAST, HOLDS,
          "(p 0.015) and {gap} {bounds} (p {p3})."),
    Claim("tuned", FLAGSHIP, "DUIP (text)", LAST, CHANCE,
          "does as well as SASRec**: it has {mean}, a difference of {d} {interval}."),
    Claim("tuned", FLAGSHIP, BY_LLM, LAST, CHANCE, "by {d} {interval} (p {p3}) with the LLM's answers"),
    Claim("tuned", FLAGSHIP, BY_RULE, LAST, CHANCE, "and by {d} {interval} (p {p3}) with the rule's"),
    Claim("tuned", FLAGSHIP, f"EIMF ({CLAUDE})", "EIMF (shuffled)", CHANCE,
          "a difference of {d} {interval}", EIMF_REMI),
    Claim("tuned", FLAGSHIP, f"EIMF ({CLAUDE})", "REMI", CHANCE,
          "EIMF is {d} {interval} above REMI", EIMF_REMI),
    Claim("tuned", FLAGSHIP, f"LDMI ({CLAUDE})", "ComiRecDR", CHANCE,
          "ComiRecDR, though not significantly ({d} {interval})"),
    Claim("tuned", FLAGSHIP, BY_LLM, "SRGNN, tuned", CHANCE, "LLM's answers is {d} {interval} from SR-GNN", PAIR),
    Claim("tuned", FLAGSHIP, BY_RULE, "SRGNN, tuned", CHANCE, "by rule it is {d} {interval} above it", PAIR),
    Claim("tuned", FLAGSHIP, BY_LLM, EXCHANGED, CHANCE,
          "It has {mean} with the LLM's intents and {other} with those of other sessions (`--model=LLMDMsRec "
          f'--baseline="{EXCHANGED}"`: {{d}} {{interval}}, p {{p3}})', models=("LLMDMsRec",)),
    Claim("tuned", FLAGSHIP, BY_RULE, RULE_EXCHANGED, CHANCE,
          "are {d} {interval} above the rule's exchanged ones, which does not hold after correction over the three "
          "rows of that table (p {p3})", models=("LLMDMsRec",)),
    Claim("tuned", FLAGSHIP, f"LDMI ({CLAUDE})", "LDMI (shuffled)", CHANCE,
          "has {mean} with the right answers and {other} with exchanged ones (`--model=LDMI "
          '--baseline="LDMI (shuffled)"`: {d} {interval}, p {p3})', models=("LDMI",)),
    Claim("tuned", FLAGSHIP, f"LDMI ({CLAUDE})", "LDMI (none)", CHANCE,
          'though not significantly (`--model=LDMI --baseline="LDMI (none)"`: {d} {interval})', models=("LDMI",)),
    Claim("tuned", FLAGSHIP, "SASRecText (text)", LAST, CHANCE,
          "though not significantly ({d} {interval}, p {p3}). It needs no LLM."),
    Claim("tuned", FLAGSHIP, LAST, "VSKNN", HOLDS,
          "(`--baseline=VSKNN`: {d} {interval}, p {p3})"),
    Claim("tuned", FLAGSHIP, "SASRec [train_targets=all]", LAST, CHANCE,
          "ahead here**, for SASRec by {gap} {bounds}, which does not hold after correction (p {p3})"),
    Claim("tuned", FLAGSHIP, f"LDMI ({CLAUDE})", GRU_LAST, HOLDS,
          "(`--baseline=\"GRU4Rec [train_targets=last]\"`: {d} {interval}, p {p3})"),
    Claim("tuned", FLAGSHIP, f"EIMF ({CLAUDE})", GRU_LAST, CHANCE, "EIMF with them (p {p3})"),
    Claim("tuned", FLAGSHIP, BY_RULE, GRU_LAST, CHANCE, "and LLM-DMsRec by rule ({d} {interval}, p {p2}) are lower"),
    Claim("tuned", FLAGSHIP, "eSASRec", GRU_LAST, HOLDS,
          "eSASRec is significantly below GRU4Rec ({d} {interval}, p {p3})"),
    Claim("tuned", FLAGSHIP, "HSTU", GRU_LAST, CHANCE, "is lower too ({mean}), though not significantly (p {p2})"),
    Claim("tuned", FLAGSHIP_DIRECT, "EASE", "SASRec", HOLDS, "The next row, EASE, is {gap} below it."),
    Claim("tuned", FLAGSHIP_DIRECT, "BPR", "MarkovChain", HOLDS, "BPR is {d} {interval} above it, p {p3})"),
    Claim("tuned", FLAGSHIP_DIRECT, "ItemKNN", "MarkovChain", HOLDS,
          "BPR, LightGCN and ItemKNN here, which ignore the order"),
    Claim("tuned", ANSWERS, f"ISRF ({CLAUDE})", "VSKNN", CHANCE,
          "With the LLM's reasoning it has {mean}, without any"),
    Claim("llmdmsrec", FLAGSHIP, BY_RULE, "SRGNN, tuned", CHANCE,
          "after [a search](tuned.md), the gain is {d} {interval}"),
    # A strong LLM's answers.
    Claim("answers", ANSWERS, f"EIMF ({CLAUDE})", SMALL_EIMF, CHANCE, "The strong LLM's give {d} {interval} more.",
          ("REMI", "EIMF")),
    Claim("answers", ANSWERS, f"EIMF ({CLAUDE})", "REMI", CHANCE,
          "EIMF is {gap} above its backbone, and the interval reaches from {low} to {high}."),
    Claim("answers", ANSWERS, f"EIMF ({CLAUDE})", "EIMF (shuffled)", CHANCE,
          "to the right users, {d} {interval}, does not hold"),
    Claim("answers", ANSWERS, f"LDMI ({CLAUDE})", "LDMI (shuffled)", CHANCE,
          "to exchanged answers is {d} {interval}"),
    Claim("answers", ANSWERS, f"LDMI ({CLAUDE})", "ComiRecDR [interest_scale=8.0]", CHANCE,
          "LDMI with the LLM's answers has {mean}, a difference of {d} {interval}"),
    Claim("answers", ANSWERS, f"ISRF ({CLAUDE})", ISRF_NONE, CHANCE,
          "against none reaches {half} to either side"),
    Claim("answers", ANSWERS, "ISRF (none) [graph_words=False]", ISRF_NONE, CHANCE,
          "ISRF has {mean}, with it {other} (`graph_words`: a difference of {d} {interval})"),
    Claim("answers", ANSWERS, f"LDMI ({CLAUDE})", "REMI", CHANCE,
          "than REMI with every kind of answers ({d} {interval}"),
    Claim("answers", ANSWERS, f"LDMI ({CLAUDE})", "REMI", CHANCE,
          "(`--baseline=REMI`: p {p2} with the LLM's)"),
    Claim("answers", ANSWERS, f"ISRF ({CLAUDE})", "ISRF (shuffled)", CHANCE,
          "The LLM's answers differ from that by {d} {interval}"),
    Claim("answers", ANSWERS, f"EIMF ({CLAUDE})", "VSKNN", CHANCE,
          "is not significantly above VSKNN** ({d} {interval})"),
    Claim("answers", ANSWERS, BY_LLM, "SRGNN", CHANCE,
          "LLM-DMsRec has {mean} and SR-GNN {other}, a difference of {d} {interval}"),
    Claim("answers", ANSWERS, BY_LLM, "LLMDMsRec (shuffled)", CHANCE,
          "Their difference to the right ones, {d} {interval}"),
    Claim("answers", ANSWERS, BY_LLM, "VSKNN", CHANCE,
          "--baseline=VSKNN`: {d} {interval})."),
    Claim("tuned", FLAGSHIP, BY_LLM, "SRGNN, tuned", CHANCE,
          "it has {mean} on ML-100K, SR-GNN {other}, and LLM-DMsRec with"),
    Claim("tuned", ANSWERS, BY_LLM, "SRGNN", CHANCE, "it has {mean}, SR-GNN {other}, and LLM-DMsRec with"),
    # Parts.
    Claim("parts", PARTS, NO_CONTRAST, "ComiRecDR [interest_scale=1.0]", HOLDS,
          "with the LLM's division by {gap} {bounds} (p {p3})", LDMI_COMIREC),
    Claim("parts", PARTS, CONTRAST, "ComiRecDR [interest_scale=1.0]", CHANCE,
          "With the contrast it is above it by {gap} {interval}, which", LDMI_COMIREC),
    Claim("parts", PARTS, NO_CONTRAST, CONTRAST, CHANCE,
          f'(`--baseline="{CONTRAST}"`: {{d}} {{interval}})', LDMI_COMIREC),
    Claim("parts", PARTS, "LDMI (offline) [contrast=none]", "ComiRecDR [interest_scale=1.0]", HOLDS,
          "with the rule's division too ({d} {interval}, p {p3})", LDMI_COMIREC),
    Claim("parts", PARTS, f"LDMI ({CLAUDE}) [clusters=items, contrast=none]", "ComiRecDR [interest_scale=1.0]", HOLDS,
          "and with every item as a cluster of its own ({d} {interval}, p {p3})", LDMI_COMIREC),
    Claim("parts", PARTS, NO_CONTRAST, "ComiRecDR [interest_scale=8.0]", CHANCE,
          '(`--baseline="ComiRecDR [interest_scale=8.0]"`: {d} {interval}, p {p3})', LDMI_COMIREC),
    Claim("parts", PARTS, NO_CONTRAST, "LDMI (shuffled) [contrast=none]", CHANCE,
          '{d} {interval} (`--baseline="LDMI (shuffled) [contrast=none]"`), which does not hold after correction over '
          "the rows of the table (p {p3})", LDMI_COMIREC),
    Claim("parts", PARTS, "EIMF (claude-2026-11) [semantic_weight=0.0]", "REMI", CHANCE,
          "(`semantic_weight=0.0`): {mean} against", ("REMI", "EIMF")),
    # Language models inside.
    Claim("language_inside", DUIP, WITH_LM, WITHOUT_LM, HOLDS,
          "With it DUIP has {mean}, without it {other}, a difference of {d} {interval} (p {p3})."),
    Claim("language_inside", DUIP, "DUIP (shuffled)", WITHOUT_LM, HOLDS,
          "DUIP is below its LSTM, which reads the right ones, by {gap} {bounds} (p {p3})."),
    Claim("language_inside", DUIP, WITH_LM, "DUIP (shuffled)", HOLDS,
          'give {d} {interval} more than those of other items (`--model=DUIP --baseline="DUIP (shuffled)"`: p {p3}).',
          ("DUIP",)),
    Claim("language_inside", DUIP, WITHOUT_LM, "VSKNN", HOLDS,
          "learns nothing and has {other} (`--baseline=VSKNN`: {d} {interval}, p {p3})."),
    Claim("language_inside", FLAGSHIP, "DUIP (text)", "VSKNN", CHANCE,
          "searched VSKNN ({d} {interval}) does not hold after correction over all rows there (p {p3})."),
    Claim("language_inside", DIRECT_LONG, f"ISRFDirect ({CLAUDE})", "LightGCN", HOLDS,
          "whose graph is among its inputs, by {gap} {bounds} (p {p3}), and below BPR"),
    Claim("language_inside", DIRECT_LONG, f"ISRFDirect ({CLAUDE})", "Pop", HOLDS,
          "far above Pop** ({mean} against {other})"),
    # Beauty.
    Claim("beauty", BEAUTY_USERS, f"EIMF ({CLAUDE})", "REMI", HOLDS,
          "over three seeds**, with the LLM's interests by {gap} {bounds} (p {p3})"),
    Claim("beauty", BEAUTY_USERS, "EIMF (offline)", "REMI", HOLDS, "and with the rule's by {gap} {bounds} (p {p3})."),
    Claim("beauty", BEAUTY_USERS, "EIMF (shuffled) [llm=offline]", "REMI", HOLDS,
          "With other users' interests it is {d} {interval} (p {p3}) with the rule's."),
    Claim("beauty", BEAUTY_USERS, f"EIMF (shuffled) [llm={CLAUDE}]", "REMI", CHANCE,
          "it is as large, {d} {interval}, but does not hold (p {p3})"),
    Claim("beauty", BEAUTY_USERS, "SASRec", "REMI", HOLDS,
          "is not first here**: {gap} {bounds} below REMI (p {p3}) and"),
    Claim("beauty", BEAUTY_USERS, DIVIDED, "REMI", HOLDS,
          "by {gap} {bounds} to REMI (p {p3})"),
    Claim("beauty", BEAUTY_USERS, DIVIDED, "ComiRecDR [interest_scale=1.0]", HOLDS,
          "by {gap} {bounds} at the same scale (", models=LDMI_COMIREC),
    Claim("beauty", BEAUTY_USERS, DIVIDED, "ComiRecDR [interest_scale=1.0]", HOLDS,
          "[interest_scale=1.0]\"`: p {p3})", models=LDMI_COMIREC),
    Claim("beauty", BEAUTY_USERS, DIVIDED, "ComiRecDR [interest_scale=8.0]", HOLDS,
          "and by {gap} {bounds} where the backbone's interest vectors are eight times as long (p {p3})",
          models=LDMI_COMIREC),
    Claim("beauty", BEAUTY_USERS, "LDMI (offline) [clusters=items]", DIVIDED, HOLDS,
          "LDMI has {mean}, {gap} {bounds} more than with the rule's (`--model=LDMI,ComiRecDR "
          '--baseline="LDMI (offline) [clusters=llm]"`: p {p3})', models=LDMI_COMIREC),
    Claim("beauty", BEAUTY_USERS, "LDMI (shuffled)", DIVIDED, HOLDS,
          "among the items of a history it has {mean} ({d} {interval})", models=LDMI_COMIREC),
    Claim("beauty", BEAUTY_USERS, "EIMF (offline)", "SASRec", HOLDS,
          "and {gap} {bounds} below EIMF (`--baseline=SASRec`)"),
    Claim("beauty", BEAUTY_USERS, f"EIMF ({CLAUDE})", f"EIMF (shuffled) [llm={CLAUDE}]", CHANCE,
          f'(`--model=EIMF --baseline="EIMF (shuffled) [llm={CLAUDE}]"`: {{d}} {{interval}}, p {{p2}};', ("EIMF",)),
    Claim("beauty", BEAUTY_USERS, "EIMF (offline)", "EIMF (shuffled) [llm=offline]", CHANCE,
          '`--baseline="EIMF (shuffled) [llm=offline]"`: {d} {interval}, p {p2})', models=("EIMF",)),
    # Language models inside, and titles.
    Claim("sessions", SESSIONS, WITH_LM, SEEN_ALONE, CHANCE,
          "can be seen**: {d} {interval} against the LSTM without it"),
    Claim("sessions", SESSIONS, "DUIP (none, no language model)", SEEN_ALONE, HOLDS,
          f'Without them it has {{mean}} (`--baseline="{SEEN_ALONE}"`: {{d}} {{interval}}, p {{p3}})'),
    Claim("sessions", SESSIONS, ALL_ITEMS, SEEN_ALONE, HOLDS,
          f'its LSTM falls to {{mean}} (`--model=DUIP --baseline="{SEEN_ALONE}"`: {{d}} {{interval}}, p {{p3}})',
          ("DUIP",)),
    Claim("sessions", SESSIONS, "DUIP (none, scratch GPT-2 2x64)", WITH_LM, CHANCE,
          "difference of {d} {interval} that does not hold (p {p3}). Nor"),
    Claim("sessions", SESSIONS, "DUIP (shuffled)", WITH_LM, CHANCE,
          "to titles of exchanged items ({mean}), {d} {interval}"),
    Claim("sessions", SESSIONS, "SASRecText (shuffled)", "SASRecText (text)", HOLDS,
          "it falls from {other} to {mean}, which is chance (p {p3})"),
    Claim("sessions", SESSIONS, "SASRecText (text)", "SASRec", CHANCE,
          "Its lead over SASRec, {d} {interval}, does not hold"),
    Claim("sessions", DRAWN, WITH_LM, "SASRec", HOLDS, "DUIP and its LSTM alone are above SASRec (p {p3})."),
    Claim("sessions", DRAWN, WITHOUT_LM, "SASRec", HOLDS, "DUIP and its LSTM alone are above SASRec (p {p3})."),
    Claim("sessions", DRAWN, "DUIP (shuffled)", "SASRec", HOLDS, "and DUIP to {mean}, below SASRec (p {p3})"),
    Claim("sessions", DRAWN, WITH_LM, "DUIP (shuffled)", HOLDS,
          'own titles give {gap} {bounds} more than those (`--model=DUIP --baseline="DUIP (shuffled)"`: p {p3})',
          ("DUIP",)),
    Claim("sessions", DRAWN, WITH_LM, WITHOUT_LM, CHANCE,
          "be seen here either**: {d} {interval} against the LSTM alone "
          '(`--model=DUIP --baseline="DUIP (text, no language model)"`: p {p3})', ("DUIP",)),
    # LLM-DMsRec.
    Claim("llmdmsrec", GRAPHS, BY_RULE, "SRGNN", CHANCE,
          "add nothing significant** ({d}, p {p2})", PAIR),
    Claim("index", GRAPHS, BY_RULE, "SRGNN", CHANCE,
          "nothing significant on ML-100K ({d}, p {p2})", PAIR),
    Claim("llmdmsrec", BACKBONES, f"{BY_RULE} [backbone=SRGNN]", "SRGNN", CHANCE,
          "none**: {d} {interval} on SR-GNN"),
    Claim("llmdmsrec", BACKBONES, f"{BY_RULE} [backbone=TAGNN]", "TAGNN", CHANCE,
          "{d} {interval} on TAGNN"),
    Claim("llmdmsrec", BACKBONES, f"{BY_RULE} [backbone=GCEGNN]", "GCEGNN", CHANCE,
          "{d} {interval} on GCE-GNN"),
    Claim("llmdmsrec", BACKBONES, f"{BY_RULE} [backbone=GCSAN, epochs=100, learning_rate=0.001]", "GCSAN", CHANCE,
          "{d} {interval} on GC-SAN"),
    Claim("llmdmsrec", FOLDS, f"{BY_RULE} [candidate_folds=5]", f"{BY_RULE} [candidate_folds=1]", CHANCE,
          "NDCG@10 is {gap} {bounds} lower with them"),
    Claim("llmdmsrec", TOYS, BY_RULE, "SRGNN", HOLDS, "LLM-DMsRec is {d} {interval} above SR-GNN (p {p3})", CONTROLLED),
    Claim("index", TOYS, BY_RULE, "SRGNN", HOLDS, "On Toys, under leave-one-out, they add {gap}, and", CONTROLLED),
    Claim("llmdmsrec", TOYS, "LLMDMsRec (random)", "SRGNN", CHANCE,
          "nothing significant is left ({d} {interval}, p {p2})", CONTROLLED),
    Claim("llmdmsrec", TOYS, "LLMDMsRec (shuffled)", "SRGNN", HOLDS,
          "LLM-DMsRec is below SR-GNN ({d} {interval}, p {p3})", CONTROLLED),
    Claim("llmdmsrec", TOYS, "SRGNNEnsemble", "SRGNN", HOLDS,
          "is {d} {interval} above SR-GNN (p {p3}), and", CONTROLLED),
    Claim("llmdmsrec", TOYS, "SRGNNEnsemble", BY_RULE, CHANCE,
          "{d} {interval} from LLM-DMsRec (`--baseline=\"LLMDMsRec (offline)\"`: p {p2})", CONTROLLED),
    Claim("llmdmsrec", BEAUTY_TIMES, BY_RULE, "SRGNN", CHANCE,
          "On Beauty no gain holds.** LLM-DMsRec is {d} {interval} above SR-GNN (p {p3};", CONTROLLED),
    Claim("llmdmsrec", BEAUTY_TIMES, "LLMDMsRec (random)", "SRGNN", CHANCE,
          "`random` is {d} {interval} above SR-GNN (p {p2})", CONTROLLED),
    Claim("llmdmsrec", BEAUTY_TIMES, "LLMDMsRec (random)", BY_RULE, CHANCE,
          "and {d} {interval} from the rule's intents (p {p2})", CONTROLLED),
    Claim("llmdmsrec", BEAUTY_TIMES, "LLMDMsRec (shuffled)", BY_RULE, HOLDS,
          "The intents of other sessions are {d} {interval} from them (p {p3})", CONTROLLED),
    Claim("llmdmsrec", BEAUTY_TIMES, "LLMDMsRec (shuffled)", "SRGNN", CHANCE,
          "they are below SR-GNN, though not significantly", CONTROLLED),
    Claim("llmdmsrec", BEAUTY_TIMES, "SRGNNEnsemble", "SRGNN", HOLDS,
          "On Beauty it is {d} {interval} above SR-GNN (p {p3})", CONTROLLED),
    Claim("llmdmsrec", BEAUTY_TIMES, "SRGNNEnsemble", BY_RULE, CHANCE,
          "and {d} {interval} from LLM-DMsRec (p {p2})", CONTROLLED),
    Claim("index", BEAUTY_TIMES, BY_RULE, "SRGNN", CHANCE,
          "on Beauty they add nothing significant over three seeds", CONTROLLED),
    # The split in time.
    Claim("time", TOYS, BY_RULE, "SRGNN", HOLDS,
          "SR-GNN by {d} {interval} on Toys", PAIR),
    Claim("time", TOYS_LATER, BY_RULE, "SRGNN", CHANCE,
          "{d} {interval} (p {p2}) on Toys", PAIR),
    Claim("time", BEAUTY_TIMES, BY_RULE, "SRGNN", CHANCE,
          "{d} {interval} on Beauty, which does not hold [beside its controls]"
          "(llmdmsrec.md#whose-gain-is-it-on-toys-and-beauty) (p {p3})", CONTROLLED),
    Claim("time", BEAUTY_LATER, BY_RULE, "SRGNN", CHANCE,
          "{d} {interval} (p {p3}) on Beauty", PAIR),
    Claim("time", TOYS, "EIMF (offline)", "REMI", HOLDS,
          "REMI on Toys by {d} {interval} (p {p3})", EIMF_REMI),
    Claim("time", TOYS_LATER, "EIMF (offline)", "REMI", CHANCE,
          "The difference in time, {d} {interval}, is not significant (p {p2})", EIMF_REMI),
    Claim("time", TOYS, "EIMF (offline)", "SASRec", HOLDS,
          "EIMF is {d} above SASRec under leave-one-out (p {p3})"),
    Claim("time", TOYS, "REMI", "SASRec", HOLDS,
          "which reads no text, {d} (p {p3})"),
    Claim("time", TOYS_LATER, "REMI", "SASRec", CHANCE,
          "REMI is not significantly so ({d}, p {p2})."),
    Claim("time", BEAUTY_TIMES, "EIMF (offline)", "SASRec", HOLDS,
          "above SASRec under both ({d}, p {p3};"),
    Claim("time", TOYS, "VSKNN", "SASRec", CHANCE,
          "On Toys its difference to SASRec goes from {d} {interval} under"),
    Claim("time", GAMES, "VSKNN", "SASRec", HOLDS,
          "On Games it goes from {d} {interval} to"),
    Claim("time", BEAUTY_TIMES, "VSKNN", "SASRec", HOLDS,
          "On Beauty it goes from {d} {interval} to"),
    Claim("time", BEAUTY_LATER, "VSKNN", "SASRec", HOLDS,
          "to {d} {interval} (p {p3}). On Games"),
    Claim("time", TOYS_LATER, "VSKNN", "EIMF (offline)", CHANCE,
          "VSKNN cannot be told apart from EIMF on Toys and Beauty"),
    Claim("time", BEAUTY_LATER, "VSKNN", "EIMF (offline)", CHANCE,
          "VSKNN cannot be told apart from EIMF on Toys and Beauty"),
    Claim("time", TOYS_LATER, "EIMF (offline)", "SASRec", HOLDS,
          "In time EIMF is above it ({d} {interval}, p {p3})"),
    Claim("time", TOYS_LATER, "VSKNN", "SASRec", HOLDS,
          "under leave-one-out to {d} {interval} in time (p {p3})"),
    Claim("time", BEAUTY_LATER, "EIMF (offline)", "SASRec", HOLDS,
          "{d} {interval}, p {p3}), by one training of EIMF"),
    Claim("time", GAMES, BY_RULE, "SRGNN", HOLDS,
          "{d} {interval} on Games (p {p3}). In time", PAIR),
    Claim("time", GAMES_LATER, BY_RULE, "SRGNN", HOLDS,
          "On Games the difference is {d} {interval} (p {p3}): LLM-DMsRec falls below its backbone", PAIR),
    Claim("time", GAMES, "EIMF (offline)", "SASRec", HOLDS,
          "SASRec under leave-one-out ({d} {interval}, p {p3})"),
    Claim("time", GAMES_LATER, "EIMF (offline)", "SASRec", CHANCE,
          "cannot be told apart from it in time ({d} {interval}, p {p2})"),
    Claim("time", GAMES_LATER, "VSKNN", "SASRec", CHANCE,
          "to {d} {interval}, which does not hold (p {p3}). With one training of SASRec"),
    Claim("time", GAMES_LATER, "VSKNN", "EIMF (offline)", HOLDS,
          "and is above it on Games ({d} {interval}, p {p3})"),
    Claim("time", TOYS, "SASRecText (text)", "SASRec", HOLDS,
          "SASRec under leave-one-out ({d}, p {p3}, on Toys,"),
    Claim("time", BEAUTY_TIMES, "SASRecText (text)", "SASRec", HOLDS,
          "on Toys, {d}, p {p3}, on Beauty and"),
    Claim("time", GAMES, "SASRecText (text)", "SASRec", HOLDS,
          "on Beauty and {d}, p {p3}, on Games)"),
    Claim("time", TOYS_LATER, "SASRecText (text)", "SASRec", CHANCE,
          "cannot be told apart from SASRec on Toys ({d}, p {p2}) and Beauty"),
    Claim("time", BEAUTY_LATER, "SASRecText (text)", "SASRec", CHANCE,
          "and Beauty ({d}, p {p2}), and is below it on Games"),
    Claim("time", GAMES_LATER, "SASRecText (text)", "SASRec", HOLDS,
          "is below it on Games ({d}, p {p3})."),
    Claim("beauty", PUBLISHED, FULL_SOFTMAX, PREFIXES, CHANCE, "as RecBole trains it ({d} {interval}, p {p2})"),
    Claim("beauty", PUBLISHED, PREFIXES_GRU, "GRU4Rec [train_batch_size=2048, train_targets=all]", HOLDS,
          '(`--baseline="GRU4Rec [train_targets=all]"`: {d} {interval}, p {p3})'),
    Claim("beauty", PUBLISHED, "eSASRec", PREFIXES, HOLDS, "(eSASRec {d} {interval}, p {p3})"),
    Claim("beauty", PUBLISHED_RANKED, FULL_SOFTMAX, PREFIXES, CHANCE, "gives the same ({d} {interval}, p {p2})"),
    Claim("beauty", PUBLISHED_RANKED, "MarkovChain", PREFIXES, CHANCE,
          "**A Markov chain cannot be told from SASRec here** ({d} {interval}, p {p3}), though it has fewer hits"),
    Claim("beauty", PUBLISHED_RANKED, "SASRec [preset=sampled]", PREFIXES, HOLDS,
          "further below the full one ({d} {interval}, p {p3})"),
    Claim("beauty", PUBLISHED, "MarkovChain", "HSTU", CHANCE,
          "a Markov chain**, which counts which item follows which (`--baseline=HSTU`: {d} {interval}, p {p2})"),
    Claim("beauty", PUBLISHED, "MarkovChain", "VSKNN", HOLDS,
          "The Markov chain is above VSKNN in the published order"),
    Claim("beauty", BEAUTY_TIMES, "MarkovChain", "VSKNN", HOLDS,
          "and below it in the other"),
    Claim("profiles", PROFILES, BOTH, TITLES, CHANCE,
          "UniSRec has {mean} with both and {other} with titles alone (`--model=UniSRec "
          f'--baseline="{TITLES}"`: {{d}} {{interval}}, p {{p2}})', models=("UniSRec",)),
    Claim("profiles", PROFILES, BOTH, "UniSRec (shuffled)", CHANCE,
          'with those UniSRec has {other} (`--model=UniSRec --baseline="UniSRec (shuffled)"`: {d} {interval} '
          "for the right titles and profiles, p {p3};", models=("UniSRec",)),
    Claim("profiles", PROFILES, TITLES, "UniSRec (shuffled)", CHANCE,
          "{d} {interval} for the right titles, p {p3})", models=("UniSRec",)),
    Claim("profiles", PROFILES, BOTH, "SASRec", CHANCE,
          "{gap} {bounds} more than UniSRec with titles and profiles (p {p3})"),
    Claim("profiles", PROFILES, "UniSRec (shuffled)", "SASRec", HOLDS,
          "{gap} {bounds} more than with exchanged texts (p {p3})"),
    Claim("profiles", PROFILES, "UniSRec (shuffled)", "VSKNN", CHANCE,
          "cannot be told from UniSRec with exchanged texts (`--baseline=VSKNN`: {d} {interval}, p {p2})"),
    Claim("profiles", PROFILES_LATER, BOTH, TITLES, CHANCE,
          "UniSRec has {mean} with titles and profiles, {other} with titles alone (`--model=UniSRec "
          f'--baseline="{TITLES}"`: {{d}} {{interval}}, p {{p2}})', models=("UniSRec",)),
    Claim("profiles", PROFILES_LATER, BOTH, "UniSRec (shuffled)", CHANCE,
          'and {other} with exchanged texts (`--model=UniSRec --baseline="UniSRec (shuffled)"`: {d} {interval} '
          "for the right texts, p {p2})", models=("UniSRec",)),
    Claim("profiles", PROFILES_LATER, BOTH, "SASRec", CHANCE,
          "UniSRec with titles and profiles is {gap} {bounds} below it (p {p2})"),
    Claim("profiles", PROFILES_LATER, "VSKNN", "SASRec", HOLDS,
          "**VSKNN is above SASRec**, by {gap} {bounds} (p {p3})"),
    Claim("vectors", VECTORS, f"UniSRec ({FILMS})", f"UniSRec ({OTHER_FILMS})", HOLDS,
          "UniSRec has {mean} with the films' own vectors and {other} with exchanged ones (`--model=UniSRec "
          '--baseline="UniSRec (shuffled, films#2f6d3e)"`: {d} {interval}, p {p3})', models=("UniSRec",)),
    Claim("vectors", VECTORS, f"SASRecText ({FILMS})", f"SASRecText ({OTHER_FILMS})", HOLDS,
          "SASRecText has {mean} against {other} (`--model=SASRecText "
          '--baseline="SASRecText (shuffled, films#2f6d3e)"`: {d} {interval}, p {p3})', models=("SASRecText",)),
    Claim("vectors", VECTORS, f"AlphaRec ({FILMS})", f"AlphaRec ({OTHER_FILMS})", HOLDS,
          "AlphaRec {mean} against {other} (`--model=AlphaRec "
          '--baseline="AlphaRec (shuffled, films#2f6d3e)"`: {d} {interval}, p {p3})', models=("AlphaRec",)),
    Claim("vectors", VECTORS, f"SASRec ({FILMS})", "SASRec", CHANCE,
          "SASRec ends where it ends from random numbers ({d} {interval}, p {p2})"),
    Claim("vectors", VECTORS, f"SASRec ({FILMS})", f"SASRec ({OTHER_FILMS})", CHANCE,
          '(`--baseline="SASRec (shuffled, films#2f6d3e)"`: {d} {interval}, p {p2})'),
    Claim("vectors", VECTORS, f"UniSRec ({FILMS})", "SASRec", CHANCE, "{d} {interval} has p {p2} after Holm"),
    Claim("vectors", VECTORS, f"UniSRec ({FILMS})", "VSKNN", CHANCE,
          "Its lead over VSKNN, which trains nothing, has p {p3}"),
    Claim("vectors", VECTORS, f"LLMESR ({FILMS})", "SASRec", HOLDS,
          "similar users it has {mean} ({d} {interval}, p {p3})"),
    Claim("vectors", VECTORS, f"LLMESR ({FILMS})", f"LLMESR ({OTHER_FILMS})", CHANCE,
          "With exchanged vectors it has {other}, so meaning is not seen to help it (`--model=LLMESR "
          '--baseline="LLMESR (shuffled, films#2f6d3e)"`: {d} {interval}, p {p2})', models=("LLMESR",)),
    Claim("vectors", VECTORS, f"SASRecText ({FILMS})", "SASRec", HOLDS,
          "SASRecText has {mean} ({d} {interval}, p {p3})"),
    Claim("vectors", VECTORS, f"AlphaRec ({FILMS})", "SASRec", HOLDS,
          "AlphaRec, which reads no order, {mean} ({d}, p {p3})"),
    Claim("vectors", VECTORS, f"AlphaRec ({OTHER_FILMS})", "Pop", CHANCE,
          "With exchanged vectors AlphaRec ends where popularity does, at {mean}"),
    Claim("vectors", VECTORS_IN_TIME, f"SASRecText ({FILMS})", f"SASRecText ({OTHER_FILMS})", HOLDS,
          "{mean} with the films' own vectors, {other} with exchanged ones (`--protocol=gts --model=SASRecText "
          '--baseline="SASRecText (shuffled, films#2f6d3e)"`: {d} {interval}, p {p3})', models=("SASRecText",)),
    Claim("vectors", VECTORS_IN_TIME, f"UniSRec ({FILMS})", f"UniSRec ({OTHER_FILMS})", CHANCE,
          "it has {mean} and {other} ({d} {interval}, p {p2})", models=("UniSRec",)),
    Claim("vectors", VECTORS_IN_TIME, f"UniSRec ({FILMS})", "SASRec", CHANCE, "UniSRec {d} {interval}, SASRecText"),
    Claim("vectors", VECTORS_IN_TIME, f"SASRecText ({FILMS})", "SASRec", CHANCE,
          "SASRecText {d} {interval}, both p {p2})"),
    Claim("vectors", VECTORS_IN_TIME, f"LLMESR ({FILMS})", f"LLMESR ({OTHER_FILMS})", CHANCE,
          "It has {mean}, the second place, and {other} with exchanged ones, the tenth (`--protocol=gts --model=LLMESR "
          '--baseline="LLMESR (shuffled, films#2f6d3e)"`: {d} {interval}, p {p3})', models=("LLMESR",)),
    Claim("vectors", VECTORS_IN_TIME, f"SASRec ({FILMS})", f"SASRec ({OTHER_FILMS})", CHANCE,
          "is seen here either: {mean} with the films' own, {other} with exchanged ones"),
    Claim("vectors", VECTORS_IN_TIME, f"AlphaRec ({FILMS})", f"AlphaRec ({OTHER_FILMS})", CHANCE,
          "{mean} and {other} (`--protocol=gts --model=AlphaRec "
          '--baseline="AlphaRec (shuffled, films#2f6d3e)"`: {d} {interval}, p {p2})', models=("AlphaRec",)),
    Claim("vectors", VECTORS_IN_TIME, f"AlphaRec ({FILMS})", "Pop", CHANCE,
          "All three fall below popularity, though not significantly"),
    Claim("vectors", VECTORS_IN_TIME, "EASE", "Pop", CHANCE, "fall below popularity, though not significantly"),
    Claim("vectors", VECTORS_IN_TIME, "ItemKNN", "Pop", CHANCE, "fall below popularity, though not significantly"),
)  # fmt: skip

# Page, records, rows, and the sentence with placeholders for the rows' means: {0} is the selection metric of the
# first row, {h0} its Hit@10.
VALUES: tuple[tuple[str, Place, tuple[str, ...], str], ...] = (
    # Well-tuned rows.
    ("tuned", FLAGSHIP, (f"EIMF ({CLAUDE})", "EIMF (shuffled)"),
     "EIMF has {} with the LLM's interests and {} with those of other users"),
    ("tuned", FLAGSHIP, ("EIMF (offline)",),
     "The rule's interests, with settings of their own, give {}, as much as REMI"),
    ("tuned", FLAGSHIP, ("LDMI (offline)", "LDMI (none)"),
     "The rule's division gives {}. **Without any division LDMI has {}**"),
    ("tuned", BEAUTY_USERS, (f"EIMF ({CLAUDE})", "REMI", "EIMF (offline)"),
     "(Recall@50 {} with the LLM's interests, REMI {}), with the rule's interests as much ({})"),
    ("tuned", BEAUTY_USERS, (f"EIMF (shuffled) [llm={CLAUDE}]", "EIMF (shuffled) [llm=offline]"),
     "with exchanged ones about as much ({} and {})"),
    ("tuned", DIRECT_LONG, (f"ISRFDirect ({CLAUDE})",), "with fixed settings, it has {}."),
    ("tuned", FLAGSHIP_DIRECT, ("LightGCN",), "whose graph is among ISRFDirect's inputs, has {}."),
    ("tuned", FLAGSHIP, (EXCHANGED,), "and LLM-DMsRec with exchanged answers {}, each after a search"),
    ("tuned", FLAGSHIP, ("ComiRecDR", "REMI"), "Here it has {}, as much as REMI ({})."),
    ("tuned", FLAGSHIP, ("VSKNN",), "VSKNN, searched, has {}."),
    ("tuned", FLAGSHIP, (GRU_LAST,), "Trained as RecBole trains it, it has {}."),
    ("tuned", FLAGSHIP, (GRU_ALL, BY_RULE), "seconds GRU4Rec has {}, LLM-DMsRec after 298 seconds {}."),
    ("tuned", ANSWERS, (f"ISRF ({CLAUDE})", ISRF_NONE, "VSKNN"),
     "it has {}, without any [{}](answers.md#isrf), both less than VSKNN ({}), though"),
    ("tuned", ANSWERS, ("ISRF (none) [graph_words=False]",), "Without its graph it has {}."),
    # A strong LLM's answers.
    ("answers", ANSWERS, ("EIMF (shuffled)",), "Given to the wrong users, the same answers reach {}."),
    ("language_inside", FLAGSHIP, ("DUIP (text)",), "[After a search](tuned.md) it has {} with five seeds"),
    ("tuned", FLAGSHIP, ("DUIP (text)", LAST), "LSTM, searched, has {}, as much as SASRec ({})."),
    ("tuned", DUIP, (WITHOUT_LM, WITH_LM),
     "it has {} there, and with the language model [{}](language_inside.md#duip-with-all-items-ranked)"),
    ("answers", ANSWERS, (SMALL_EIMF,), "EIMF has {} with the interests that Qwen2.5-Coder-1.5B named"),
    ("answers", ANSWERS, ("EIMF (offline)",), "The rule adds nothing ({})."),
    ("answers", ANSWERS, ("ComiRecDR [interest_scale=8.0]",), "eight times as long reaches {} and asks no LLM"),
    ("answers", ANSWERS, ("LLMDMsRec (offline)",), "The rule's intents do no better ({})"),
    ("answers", ANSWERS, ("LLMDMsRec (shuffled)",), "Given to the wrong sessions, the same answers reach {}."),
    ("tuned", ANSWERS, ("LLMDMsRec (shuffled)",), "and LLM-DMsRec with exchanged answers {}. No difference holds"),
    ("answers", ANSWERS, ("ISRF (shuffled)",), "to the wrong users and items, the same answers have {}."),
    ("parts", PARTS, ("ComiRecDR [interest_scale=8.0]",), "eight times as long give the backbone {}, and the best row"),
    ("parts", PARTS, ("VSKNN",), "VSKNN, which trains nothing, has {}, more than any row of LDMI"),
    ("parts", PARTS, ("EIMF (claude-2026-11) [semantic_weight=0.1]",), "against {}. No difference to REMI holds"),
    # Beauty.
    ("beauty", PUBLISHED, (FULL_SOFTMAX,), "Its {h0} and {0} are level with"),
    ("beauty", PUBLISHED_RANKED, (PREFIXES,), "does, scores what others report**: {h0} and {0}, against"),
    ("beauty", PUBLISHED_RANKED, ("MarkovChain", PREFIXES), "fewer hits ({h0} against {h1})"),
    ("beauty", PUBLISHED, (PREFIXES,), "which falls from {} to"),
    ("beauty", PUBLISHED_RANKED, (PREFIXES,), "which falls from 0.0561 to {},"),
    ("beauty", PUBLISHED, ("MarkovChain",), "few places of the chain's, which falls from {} to"),
    ("beauty", PUBLISHED_RANKED, ("MarkovChain",), "chain's, which falls from 0.0439 to {}."),
    ("beauty", PUBLISHED, ("SASRec [preset=sampled]",), "With the sampled softmax, SASRec falls further, from {} to"),
    ("beauty", PUBLISHED_RANKED, ("SASRec [preset=sampled]",), "falls further, from 0.0507 to {},"),
    # Language models inside, and titles.
    ("language_inside", NUMBERS, ("VSKNN",), "takes seconds ({}, in the same folder)"),
    ("sessions", SESSIONS, ("DUIP (none, scratch GPT-2 2x64)",), "random numbers, and it has {}, a difference"),
    ("sessions", DRAWN, ("SASRecText (shuffled)",), "SASRecText falls to {}, which is chance"),
    # Candidates and the split in time.
    ("time", TOYS, ("EASE",), "EASE goes from {} to"),
    ("time", TOYS_LATER, ("EASE",), "to {} on Toys and from"),
    ("time", GAMES, ("EASE",), "on Toys and from {} to"),
    ("time", GAMES_LATER, ("EASE",), "to {} on Games. It does not see"),
)  # fmt: skip


@cache
def records(folder: str) -> list[Record]:
    """All records of a folder."""
    return list(ResultStore(ROOT / "results" / folder))


@cache
def compared(where: Place, reference: str | None = None, models: Sequence[str] = ()) -> ResultsTable:
    """The table that ``table --baseline`` makes of these records, with ``reference`` as baseline."""
    folder, dataset, protocol = where
    chosen = [
        each
        for each in records(folder)
        if (each.dataset, each.protocol) == (dataset, protocol) and (not models or each.model in models)
    ]
    (table,) = build(chosen, ResultStore(ROOT / "results" / folder), baseline=reference)
    return table
