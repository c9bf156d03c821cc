"""An ensemble of SR-GNNs; ``test_contracts`` tests what all models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recbole_llm.training.loaders import training_loader
from tests.helpers import make_run, prepare, runner

SMALL: dict[str, Any] = {"embedding_size": 8, "epochs": 2, "train_batch_size": 63}


def test_one_member_is_sr_gnn(tiny: Path) -> None:
    alone = runner().run(make_run("SRGNN", **SMALL))
    one = runner().run(make_run("SRGNNEnsemble", members=1, **SMALL))
    assert [entry["loss"] for entry in one.curve] == [entry["loss"] for entry in alone.curve]
    assert one.metrics == alone.metrics


def test_members_differ_and_each_learns_as_if_it_were_alone(tiny: Path) -> None:
    def trained(members: int, seed: int) -> Any:
        prepared = prepare("SRGNNEnsemble", members=members, seed=seed, **SMALL)
        model = prepared.model
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        batches = list(training_loader(prepared)[0])[:3]
        for batch in batches:
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
        return prepared

    pair, alone = trained(2, 1), trained(1, 1)
    first, second = pair.model.members
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), alone.model.members[0].parameters(), strict=True))
    assert not torch.equal(first.item_embedding.weight, second.item_embedding.weight)


def test_scores_are_sums_and_rank_as_products_of_probabilities(tiny: Path) -> None:
    model = (prepared := prepare("SRGNNEnsemble", members=3, **SMALL)).model.eval()
    _, batch = next(iter(prepared.eval_loader("test")))
    with torch.no_grad():
        parts = torch.stack([member.full_sort_predict(batch) for member in model.members])
        scores = model.full_sort_predict(batch)
    torch.testing.assert_close(scores, parts.sum(dim=0))
    products = parts.log_softmax(dim=2).sum(dim=0)
    torch.testing.assert_close(scores - scores[:, :1], products - products[:, :1], rtol=1e-3, atol=1e-4)
