"""Models that RecBole lacks and that the five methods are compared with or built on."""

from __future__ import annotations

from recbole_llm.registry import GENERAL, SEQUENTIAL, Method, register

_PACKAGE = "recbole_llm.methods.baselines"

for _name, _module, _paper in (
    ("TAGNN", "tagnn", "arXiv 2005.02844"),
    ("GCEGNN", "gcegnn", "arXiv 2106.05081"),
    ("SHARE", "share", "arXiv 2112.14266"),
    ("MSGIFSR", "msgifsr", "arXiv 2112.13197"),
    ("ComiRecDR", "comirec", "arXiv 2005.09347"),
    ("ComiRecSA", "comirec", "arXiv 2005.09347"),
    ("MIND", "mind", "arXiv 1904.08030"),
    ("REMI", "remi", "arXiv 2302.14532"),
    ("eSASRec", "esasrec", "arXiv 2508.06450"),
    ("gSASRec", "gsasrec", "arXiv 2308.07192"),
    ("HSTU", "hstu", "arXiv 2402.17152"),
    ("PopRecent", "poprecent", "arXiv 2005.13829"),
    ("PopUser", "popuser", "arXiv 1511.06939"),
    ("MarkovChain", "markov", "arXiv 1803.09587"),
    ("VSKNN", "vsknn", "arXiv 1803.09587"),
):
    register(
        Method(
            name=_name,
            target=f"{_PACKAGE}.{_module}:{_name}",
            kind=SEQUENTIAL,
            paper=_paper,
            settings=f"{_PACKAGE}.settings:{_name[0].upper()}{_name[1:]}Settings",
        )
    )

# Lists made elsewhere, shown as a row like any other.
register(
    Method(
        name="Lists",
        target=f"{_PACKAGE}.lists:Lists",
        kind=SEQUENTIAL,
        paper="no model of a paper",
        settings=f"{_PACKAGE}.settings:ListsSettings",
    )
)

# Models that read frozen item vectors and ask no LLM.
for _name, _module, _paper, _kind in (
    ("SASRecText", "sasrectext", "arXiv 1808.09781", SEQUENTIAL),
    ("UniSRec", "unisrec", "arXiv 2206.05941", SEQUENTIAL),
    ("LLMESR", "llmesr", "arXiv 2405.20646", SEQUENTIAL),
    ("AlphaRec", "alpharec", "arXiv 2407.05441", GENERAL),
):
    register(
        Method(
            name=_name,
            target=f"{_PACKAGE}.{_module}:{_name}",
            kind=_kind,
            paper=_paper,
            features=("itemtext",),
            text="text",
            settings=f"{_PACKAGE}.settings:{_name}Settings",
        )
    )
