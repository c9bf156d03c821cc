"""Branch and bound: exact ranks and lists up to a depth, although few prefixes are evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case, summarise
from recbole_llm.experiments.list_metrics import list_counter
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.methods.isrf import search
from recbole_llm.methods.isrf.decoding import ItemTrie, exact_scores
from recbole_llm.methods.isrf.search import best_scores
from recbole_llm.training.choice import make_trainer
from tests.helpers import layered, make_run, prepare

END, VOCABULARY, ITEMS = 1, 12, 120
SHARPNESS = [0.05, 0.3, 0.6]  # from nearly uniform likelihoods to a few items with most of the likelihood


def made(sharpness: float) -> tuple[Any, ItemTrie]:
    """A small T5, and items of one to four tokens."""
    torch.manual_seed(int(100 * sharpness))
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=END,
    )
    t5 = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in t5.parameters():
            parameter.add_(torch.randn_like(parameter) * sharpness)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < ITEMS:
        found[tuple(torch.randint(2, VOCABULARY, (int(torch.randint(1, 5, (1,))),)).tolist())] = None
    return t5, ItemTrie([[], *([*tokens, END] for tokens in found)], start=0)


@pytest.fixture(scope="module", params=SHARPNESS)
def cases(request: pytest.FixtureRequest) -> Iterator[dict[str, torch.Tensor | Any]]:
    """Encoder states of some rows, their targets, and all items' exact scores."""
    t5, trie = made(request.param)
    rows = 24
    encoded, mask = torch.randn(rows, 6, 16), torch.arange(6) < torch.randint(1, 7, (rows, 1))
    with torch.no_grad():
        whole = exact_scores(t5, encoded, mask, trie)
    target = torch.randint(1, ITEMS + 1, (rows,))
    target[:8] = whole[:8].argmax(dim=1)  # some targets are ranked first
    yield {"t5": t5, "trie": trie, "encoded": encoded, "mask": mask, "whole": whole, "target": target}


def found_by(cases: dict[str, Any], depth: int, ranked: torch.Tensor | None = None, lists: bool = False) -> Any:
    names = ("t5", "encoded", "mask", "trie")
    return best_scores(*(cases[name] for name in names), depth, cases["target"], ranked, lists)


def ranking(scores: torch.Tensor, target: torch.Tensor, ranked: torch.Tensor | None) -> torch.Tensor:
    """Scores as the ranking uses them: unranked items get -inf, but never the target."""
    allowed = torch.ones_like(scores, dtype=torch.bool) if ranked is None else ranked.clone()
    allowed.scatter_(1, target[:, None], True)[:, 0] = False
    return scores.masked_fill(~allowed, -torch.inf)


@pytest.mark.parametrize("depth", [1, 5, 20])
@pytest.mark.parametrize("share", [None, 0.3])
def test_ranks_are_exact_up_to_the_depth(cases: dict[str, Any], depth: int, share: float | None) -> None:
    target = cases["target"]
    ranked = None if share is None else torch.rand(cases["whole"].shape) < share
    for lists in (False, True):
        scores = found_by(cases, depth, ranked, lists)
        mine, exact = (ranking(one, target, ranked) for one in (scores, cases["whole"]))
        ranks = [(one > one.gather(1, target[:, None])).sum(dim=1).clamp(max=depth) for one in (mine, exact)]
        assert torch.equal(*ranks)
        torch.testing.assert_close(
            scores.gather(1, target[:, None]), cases["whole"].gather(1, target[:, None]), rtol=1e-4, atol=1e-4
        )
        if lists:
            assert torch.equal(mine.topk(depth, dim=1).indices, exact.topk(depth, dim=1).indices)


@pytest.mark.parametrize("numbers", [1, 2000])
def test_neither_the_block_nor_how_many_go_together_changes_a_rank(
    cases: dict[str, Any], numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, whole = cases["target"], cases["whole"]
    monkeypatch.setitem(search.BLOCK, "cpu", numbers)
    monkeypatch.setattr(search, "AT_ONCE", 3)
    monkeypatch.setattr(search, "EXPECTED", 4)  # initial room for one prefix
    own = [one.gather(1, target[:, None]) for one in (found_by(cases, 10), whole)]
    ranks = [(one > mine).sum(dim=1).clamp(max=10) for one, mine in zip((found_by(cases, 10), whole), own, strict=True)]
    assert torch.equal(*ranks)


def test_few_prefixes_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a few items have most of the likelihood and the target is one of them, few prefixes need evaluation."""
    t5, trie = made(0.6)
    encoded, mask = torch.randn(8, 6, 16), torch.ones(8, 6, dtype=torch.bool)
    with torch.no_grad():
        target = exact_scores(t5, encoded, mask, trie).argmax(dim=1)
    looked: list[int] = []
    step = search._States.next_token

    def counted(states: Any, node: torch.Tensor) -> torch.Tensor:
        looked.append(node.numel())
        return step(states, node)

    monkeypatch.setattr(search._States, "next_token", counted)
    monkeypatch.setattr(search, "AT_ONCE", 2)
    best_scores(t5, encoded, mask, trie, 10, target)
    assert sum(looked) < 8 * len(trie) / 4


# ---- in a model and its trainer --------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "lm_scratch": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 120},
    "n_negatives": 5,
    "similar_users": 5,
    "train_batch_size": 32,
    "topk": [1, 3],
    "valid_metric": "NDCG@3",
}


def sharpened(model: str, **overrides: Any) -> Prepared:
    prepared = prepare(model, **{**SMALL, **overrides})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in prepared.model.core.lm.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return prepared


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("ISRF", {}),
        ("ISRF", {"mask_history": False}),
        ("ISRF", {"protocol": "direct_100", "candidates": 7}),
        ("ISRFDirect", {"protocol": "direct_100", "candidates": 7}),
    ],
    ids=str,
)
def test_metrics_of_a_bounded_search_are_those_of_exact_scores(tiny: Any, model: str, changes: dict[str, Any]) -> None:
    prepared = sharpened(model, **changes)
    trainer = make_trainer(prepared.config, prepared.model)
    loader = prepared.eval_loader("test")
    exact, bounded = trainer.rank(loader, count_pools=True), trainer.rank(loader, kept=False)
    assert (exact.cut_off, bounded.cut_off) == (0, 3)
    metrics = [summarise(ranks, ["Hit", "NDCG", "MRR"], [1, 3]) for ranks in (exact, bounded)]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-12)
    assert 0 < metrics[0]["hit@3"] < 1
    if model == "ISRF" and "candidates" not in changes:
        assert (exact.higher != bounded.higher).any()  # ranks beyond the depth are not counted
    assert prepared.model.core.depth == 0


def test_lists_of_a_bounded_test_are_those_of_an_exact_one(tiny: Any) -> None:
    counts = []
    for decode in ("exact", "bounded"):
        prepared = sharpened("ISRF", decode=decode, list_metrics=["ItemCoverage"])
        run = make_run("ISRF")
        lists, _ = list_counter(run.settings, run.location, prepared.dataset, prepared.config)
        ranks = make_trainer(prepared.config, prepared.model).rank(prepared.eval_loader("test"), "test", lists)
        assert ranks.cut_off == (0 if decode == "exact" else 3)
        assert lists is not None
        counts.append(lists.totals().counts[lists.topk.index(3)].tolist())
    assert counts[0] == counts[1]


def test_ranks_that_were_not_looked_for_are_not_told(tiny: Any, tmp_path: Any) -> None:
    prepared = sharpened("ISRF", decode="bounded")
    ranks = make_trainer(prepared.config, prepared.model).rank(prepared.eval_loader("test"))
    ranks.save(tmp_path / "ranks.npz")
    for kept in (ranks, type(ranks).load(tmp_path / "ranks.npz")):
        assert len(per_case(kept, "ndcg@3")) == len(kept)
        with pytest.raises(UserError, match="ndcg@5: these ranks were looked for up to place 3"):
            per_case(kept, "ndcg@5")
        with pytest.raises(UserError, match="gauc: these ranks were looked for up to place 3"):
            per_case(kept, "gauc")


def test_a_metric_without_a_cut_off_is_refused(tiny: Any) -> None:
    with pytest.raises(UserError, match="decode: bounded ranks only up to the largest cut-off, and GAUC has none"):
        layered("ISRF", decode="bounded", metrics=["NDCG", "GAUC"])
