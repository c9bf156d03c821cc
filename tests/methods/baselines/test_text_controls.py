"""Controls that use text without an LLM: SASRecText, and RecBole's models with text clusters as a column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.sequential_recommender import SASRec

from recbole_llm.data.atomic import read_table
from recbole_llm.errors import UserError
from recbole_llm.methods.baselines.sasrectext import SASRecText
from recbole_llm.registry import CODED, TEXT_CODE
from recbole_llm.training.loaders import training_loader
from tests.helpers import make_run, prepare, runner, settings_of

SMALL = {"hidden_size": 16, "inner_size": 24, "n_layers": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "SASRecF": SMALL,
    "FDSA": SMALL,
    "GRU4RecF": {"hidden_size": 16, "embedding_size": 16},
    "S3Rec": {**SMALL, "pretrain_epochs": 1, "save_step": 1},
}


def genre_of(token: str) -> int:
    return int(token[1:]) % 4


# ---- codes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "engine"), [*((name, "fast") for name in CODED), ("SASRecF", "recbole")])
def test_a_model_of_recbole_runs_over_text_clusters(tiny: Path, name: str, engine: str) -> None:
    record = runner().run(make_run(name, engine=engine, epochs=1, n_codes=6, **OPTIONS[name]))
    assert record.status == "ok"
    assert record.semantics == "codes"
    assert record.features is not None
    assert record.features.requests == 0


def test_rows_say_codes_and_nobody_is_asked(workspace: Path) -> None:
    for llm in ("offline", "openai"):
        settings = settings_of("SASRecF", llm=llm)
        assert (settings["semantics"], settings["llm"]) == ("codes", "offline")


def test_columns_of_the_users_own_need_no_text(tiny: Path) -> None:
    load = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "categories"]}
    prepared = prepare("SASRecF", selected_features=["categories"], load_col=load, **SMALL)
    assert prepared.dataset.semantics is None
    assert TEXT_CODE not in prepared.dataset.item_feat
    assert not (tiny / "semantics").exists()


@pytest.mark.parametrize("own", [[], ["brand"]])
def test_the_column_changes_neither_items_nor_other_columns(shared_tiny: Path, own: list[str]) -> None:
    plain = prepare("SASRec").dataset
    extra = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", *own]}} if own else {}
    dataset = prepare("SASRecF", n_codes=4, selected_features=[TEXT_CODE, *own], **extra, **SMALL).dataset
    assert (dataset.item_num, dataset.user_num) == (plain.item_num, plain.user_num)
    assert dataset.field2id_token["item_id"].tolist() == plain.field2id_token["item_id"].tolist()
    np.testing.assert_array_equal(dataset.table.item, plain.table.item)
    column = dataset.item_feat[TEXT_CODE]
    assert len(column) == dataset.item_num
    assert int(column[0]) == 0
    assert sorted(column[1:].unique().tolist()) == [1, 2, 3, 4]
    assert dataset.num(TEXT_CODE) == 5


def test_items_of_one_cluster_say_the_same(shared_tiny: Path) -> None:
    dataset = prepare("SASRecF", n_codes=4, **SMALL).dataset
    codes = read_table(dataset.semantics.folder.file("codes"))
    found = {(genre_of(item), code) for item, code in codes.itertuples(index=False)}
    assert len(found) == 4


def test_shuffled_codes_keep_their_sizes_and_none_is_one_for_all(shared_tiny: Path) -> None:
    real, mixed, none = (
        prepare("SASRecF", n_codes=4, semantics=kind, **SMALL).dataset.item_feat[TEXT_CODE][1:]
        for kind in ("llm", "shuffled", "none")
    )
    assert not torch.equal(real, mixed)
    assert torch.equal(real.sort().values, mixed.sort().values)
    assert set(none.tolist()) == {1}


def test_a_general_protocol_split_keeps_the_column_in_its_batches(tiny: Path) -> None:
    prepared = prepare("SASRecF", protocol="user_split", n_codes=4, **SMALL)
    batch = next(iter(training_loader(prepared)[0]))
    codes = prepared.dataset.item_feat[TEXT_CODE]
    assert torch.equal(batch[TEXT_CODE], codes[batch["item_id"]])


# ---- SASRecText ---------------------------------------------------------------------------------


def test_it_reads_the_mean_of_the_texts_that_an_item_has(shared_tiny: Path) -> None:
    prepared = prepare("SASRecText", text_columns=["title_text", "brand_text"])
    features, table = prepared.dataset.semantics, prepared.model.backbone.item_embedding.texts
    vectors = features.text_vectors()
    columns = [features.item_text_ids(name) for name in ("title_text", "brand_text")]
    for item in (1, 7, 30):
        torch.testing.assert_close(table[item], torch.stack([vectors[c[item]] for c in columns]).mean(0))
    assert not table[0].any()


def test_a_text_that_an_item_lacks_is_no_part_of_its_mean(tiny: Path) -> None:
    path = tiny / "tiny.item"
    path.write_text(path.read_text(encoding="utf-8").replace("\tBrand2\n", "\t\n"), encoding="utf-8")
    prepared = prepare("SASRecText", text_columns=["title_text", "brand_text"])
    features, table = prepared.dataset.semantics, prepared.model.backbone.item_embedding.texts
    lacking = (features.item_text_ids("brand_text") < 0).nonzero()[1:, 0]
    assert len(lacking) > 5
    torch.testing.assert_close(table[lacking], features.text_vectors()[features.item_text_ids("title_text")[lacking]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["title_text", "profile_text"], "no item has a profile_text; --profiles=FILE"),
        (["description_text"], "no item has a text there"),
        ([], "no item has a text there"),
    ],
)
def test_columns_without_any_text_are_refused(shared_tiny: Path, columns: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare("SASRecText", text_columns=columns)


def test_rows_say_text_and_nobody_is_asked(workspace: Path) -> None:
    settings = settings_of("SASRecText", llm="openai")
    assert (settings["semantics"], settings["llm"]) == ("text", "offline")


def test_without_text_it_is_sasrec(tiny: Path) -> None:
    prepared = prepare("SASRecText", semantics="none")
    torch.manual_seed(1)
    control = SASRecText(prepared.config, prepared.train_part).eval()
    torch.manual_seed(1)
    sasrec = SASRec(prepared.config, prepared.train_part).eval()
    batch = next(iter(training_loader(prepared)[0]))
    torch.testing.assert_close(control.calculate_loss(batch), sasrec.calculate_loss(batch))


def test_ids_are_added_by_choice(shared_tiny: Path) -> None:
    counts = {
        with_ids: sum(p.numel() for p in prepare("SASRecText", with_ids=with_ids).model.parameters())
        for with_ids in (False, True)
    }
    assert counts[True] - counts[False] == prepare("SASRec").dataset.item_num * 64


def test_shuffled_items_exchange_their_texts(shared_tiny: Path) -> None:
    real, mixed = (
        prepare("SASRecText", semantics=kind).model.backbone.item_embedding.texts for kind in ("llm", "shuffled")
    )
    assert not torch.allclose(real, mixed)
    torch.testing.assert_close(real.sum(0), mixed.sum(0), rtol=1e-4, atol=1e-4)
