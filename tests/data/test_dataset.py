"""Our datasets, built on flat interactions, have the same rows, ids and features as RecBole's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from recbole.data.dataset import Dataset

from recbole_llm.data.dataset import dataset_class, make_dataset
from recbole_llm.data.loaders import EvalLoader, TrainLoader
from recbole_llm.errors import UserError
from recbole_llm.training.loaders import recbole_loaders
from tests.data.build import walks, write_rows
from tests.helpers import prepare

ITEM_COLUMNS = {
    "inter": ["user_id", "item_id", "timestamp"],
    "item": ["item_id", "title", "categories", "brand"],
}


def tokens(dataset, field, ids):
    return dataset.id2token(field, np.asarray(ids)).tolist()


def cases_of(batches, fields):
    """The rows of some columns as a sorted list of plain tuples, with sequences stripped of padding."""
    found = []
    for batch in batches:
        columns = [batch[name].tolist() for name in fields]
        lengths = batch["item_length"].tolist() if "item_length" in batch else [0] * len(batch)
        for *row, length in zip(*columns, lengths, strict=True):
            found.append(tuple(tuple(value[:length]) if isinstance(value, list) else value for value in row))
    return sorted(found)


# ---- both engines see the same -------------------------------------------------------------------

SEQUENCES = ["user_id", "position", "item_id", "item_length", "timestamp", "item_id_list", "timestamp_list"]


@pytest.mark.parametrize("max_length", [3, 10])
def test_training_rows_and_histories_are_those_of_recbole_s_loaders(tiny, max_length):
    fast = prepare("SASRec", MAX_ITEM_LIST_LENGTH=max_length)
    loader = TrainLoader(fast.device_table(), fast.train_part, fast.config, sequential=True)
    reference = prepare("SASRec", engine="recbole", MAX_ITEM_LIST_LENGTH=max_length)
    train, _, _ = recbole_loaders(reference.config, reference.dataset)
    ours = cases_of(loader, SEQUENCES)
    assert ours == cases_of(train, SEQUENCES)
    assert len(ours) == len(fast.dataset.split.train_targets)


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_cases_and_histories_are_those_of_recbole_s_loaders(tiny, phase):
    fast = prepare("SASRec")
    loader = EvalLoader(fast.device_table(), getattr(fast.dataset.split, phase), 7, sequential=True)
    reference = prepare("SASRec", engine="recbole")
    theirs = recbole_loaders(reference.config, reference.dataset)[1 if phase == "valid" else 2]
    fields = ["user_id", "position", "item_id", "item_length", "item_id_list"]
    ours = cases_of((batch for _, batch in loader), fields)
    assert ours == cases_of((part[0] for part in theirs), fields)
    assert len(ours) == len(getattr(fast.dataset.split, phase))


def test_general_models_train_on_recbole_s_rows(tiny):
    fast = prepare("BPR")
    loader = TrainLoader(fast.device_table(), fast.train_part, fast.config, sequential=False)
    reference = prepare("BPR", engine="recbole")
    train, _, _ = recbole_loaders(reference.config, reference.dataset)
    fields = ["user_id", "item_id", "timestamp"]
    assert cases_of(loader, fields) == cases_of(train, fields)


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_general_models_are_tested_on_recbole_s_targets(tiny, phase):
    fast = prepare("BPR")
    cases = getattr(fast.dataset.split, phase)
    reference = prepare("BPR", engine="recbole")
    theirs = recbole_loaders(reference.config, reference.dataset)[1 if phase == "valid" else 2]
    pairs = [(u, i) for part in theirs for u, i in zip(part[0]["user_id"].tolist(), part[3].tolist(), strict=True)]
    items = fast.dataset.table.item[cases.target_rows]
    assert sorted(pairs) == sorted(zip(cases.user.tolist(), items.tolist(), strict=True))


def test_positions_count_from_the_start_of_a_user_s_history(tiny):
    dataset = prepare("SASRec").dataset
    table = dataset.table
    for user in range(1, table.n_users + 1):
        rows = slice(table.offsets[user], table.offsets[user + 1])
        assert dataset.positions()[rows].tolist() == list(range(table.offsets[user + 1] - table.offsets[user]))


def test_where_recbole_reads_the_order_is_the_same(tiny):
    load = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    plain = prepare("SASRec", load_col=load).dataset
    other = prepare("SASRec", load_col=load, normalize_field=["rating"]).dataset
    assert plain._is_plain()
    assert not other._is_plain()
    assert histories(other) == histories(plain)
    assert other.inter_feat["rating"].max() == 1.0


def histories(dataset):
    table = dataset.table
    return {
        str(table.user_tokens[user]): table.item_tokens[
            table.item[table.offsets[user] : table.offsets[user + 1]]
        ].tolist()
        for user in range(1, table.n_users + 1)
    }


def test_where_recbole_reads_a_filter_is_applied_once(tiny):
    load = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    options = {"load_col": load, "val_interval": {"rating": "[2,inf)"}, "user_inter_num_interval": "[4,inf)"}
    plain = prepare("SASRec", **options).dataset
    other = prepare("SASRec", normalize_field=["rating"], **options).dataset
    assert histories(other) == histories(plain)


# ---- columns -------------------------------------------------------------------------------------


def test_whole_times_stay_exact(tiny):
    feat = prepare("BPR").dataset.inter_feat
    assert feat["timestamp"].dtype == torch.int64


def test_further_columns_are_loaded(tiny):
    dataset = prepare("BPR", load_col={"inter": ["user_id", "item_id", "rating", "timestamp"]}).dataset
    assert dataset.inter_feat["rating"].dtype == torch.float32
    assert set(dataset.inter_feat["rating"].tolist()) == {1, 2, 3, 4, 5}


def test_tokens_and_ids_translate_both_ways(tiny):
    dataset = prepare("BPR").dataset
    assert dataset.token2id("item_id", "i7") == dataset.table.item_tokens.tolist().index("i7")
    assert dataset.id2token("item_id", dataset.token2id("item_id", "i7")) == "i7"
    with pytest.raises(ValueError, match="token \\[nowhere\\] is not existed"):
        dataset.token2id("item_id", "nowhere")


def test_the_training_part_holds_training_rows_alone(tiny):
    prepared = prepare("BPR")
    rows, table = prepared.dataset.split.train_rows, prepared.dataset.table
    assert prepared.train_part.inter_feat["item_id"].tolist() == table.item[rows].tolist()
    assert prepared.train_part.inter_feat["user_id"].tolist() == table.user[rows].tolist()
    assert len(prepared.train_part) == len(rows)


def test_the_training_part_counts_popularity_without_targets(tiny):
    prepared = prepare("BPR")
    rows, table = prepared.dataset.split.train_rows, prepared.dataset.table
    counted = np.bincount(table.item[rows], minlength=table.n_items + 1)
    counter = prepared.train_part.item_counter
    assert [counter[item] for item in range(table.n_items + 1)] == counted.tolist()


# ---- item features -------------------------------------------------------------------------------


def item_lines(folder):
    return (folder / "tiny.item").read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.fixture
def fewer_items(tiny):
    """The dataset with an ``.item`` file that lacks every third item and has two items without interactions."""
    lines = item_lines(tiny)
    kept = [line for number, line in enumerate(lines) if number == 0 or number % 3]
    kept += ["nowhere1\tGhost\tGhost\tBrandX\n", "nowhere2\tGhost\tGhost\tBrandY\n"]
    (tiny / "tiny.item").write_text("".join(kept), encoding="utf-8")
    return tiny


def test_other_items_in_the_item_file_never_change_the_number_of_items(fewer_items):
    without, with_items = prepare("SASRec").dataset, prepare("SASRec", load_col=ITEM_COLUMNS).dataset
    assert with_items.item_num == without.item_num == 49
    assert with_items.table.item_tokens.tolist() == without.table.item_tokens.tolist()
    assert len(with_items.item_feat) == 49


def test_items_that_the_file_lacks_have_empty_features(fewer_items):
    dataset = prepare("SASRec", load_col=ITEM_COLUMNS).dataset
    item = dataset.token2id("item_id", item_lines_lacking(fewer_items)[0])
    assert dataset.item_feat["brand"][item] == 0
    assert dataset.item_feat["categories"][item].tolist() == [0, 0]


def item_lines_lacking(folder):
    present = {line.split("\t")[0] for line in item_lines(folder)}
    return [f"i{number}" for number in range(48) if f"i{number}" not in present]


def test_words_of_items_that_nobody_has_are_not_learnt(fewer_items):
    dataset = prepare("SASRec", load_col=ITEM_COLUMNS).dataset
    assert "BrandX" not in dataset.field2id_token["brand"]
    assert "Ghost" not in dataset.field2id_token["title"]


def test_item_features_are_those_of_the_file(tiny):
    dataset = prepare("SASRec", load_col=ITEM_COLUMNS).dataset
    for line in item_lines(tiny)[1:]:
        item, title, categories, brand = line.rstrip("\n").split("\t")
        row = dataset.token2id("item_id", item)
        assert tokens(dataset, "brand", dataset.item_feat["brand"][row]) == brand
        for name, text in (("title", title), ("categories", categories)):
            words = [word for word in tokens(dataset, name, dataset.item_feat[name][row]) if word != "[PAD]"]
            assert words == text.split()


def test_item_features_are_recbole_s(tiny):
    ours = prepare("SASRec", load_col=ITEM_COLUMNS)
    theirs = Dataset(ours.config)
    theirs._change_feat_format()
    assert theirs.item_num == ours.dataset.item_num
    for name in ("brand", "categories", "title"):
        one = tokens(ours.dataset, name, ours.dataset.item_feat[name])
        other = tokens(theirs, name, theirs.item_feat[name])
        assert one == other, name


def test_of_an_item_that_stands_there_twice_the_first_line_counts(tiny):
    with (tiny / "tiny.item").open("a") as stream:
        stream.write("i0\tOther\tOther\tOtherBrand\n")
    dataset = prepare("SASRec", load_col=ITEM_COLUMNS).dataset
    assert tokens(dataset, "brand", dataset.item_feat["brand"][dataset.token2id("item_id", "i0")]) == "Brand0"
    assert len(dataset.item_feat) == 49


def test_missing_numbers_of_items_are_the_mean(tiny):
    rows = [(f"i{number}", "" if number == 3 else number % 5) for number in range(48)]
    write_rows(tiny / "tiny.item", rows, "item_id:token\tprice:float")
    columns = {**ITEM_COLUMNS, "item": ["item_id", "price"]}
    dataset = prepare("SASRec", load_col=columns).dataset
    price = dataset.item_feat["price"][dataset.token2id("item_id", "i3")]
    assert float(price) == pytest.approx(np.mean([number % 5 for number in range(48) if number != 3]))
    assert torch.isfinite(dataset.item_feat["price"]).all()


def test_sequences_are_cut_as_asked(tiny):
    dataset = prepare("SASRec", load_col=ITEM_COLUMNS, seq_len={"title": 2}).dataset
    assert dataset.item_feat["title"].shape == (49, 2)


def test_sequences_are_parted_at_the_mark_asked_for(tiny):
    write_rows(tiny / "tiny.item", [(f"i{i}", "big red|blue") for i in range(48)], "item_id:token\tcolours:token_seq")
    columns = {**ITEM_COLUMNS, "item": ["item_id", "colours"]}
    dataset = prepare("SASRec", load_col=columns, seq_separator="|").dataset
    assert sorted(dataset.field2id_token["colours"]) == ["[PAD]", "big red", "blue"]


@pytest.mark.parametrize("wrong", ["x", "nan", "1,5"])
def test_sequences_of_numbers_hold_finite_numbers_only(tiny, wrong):
    rows = [(f"i{i}", "1 2.5" if i else f"1 {wrong}") for i in range(48)]
    write_rows(tiny / "tiny.item", rows, "item_id:token\tsizes:float_seq")
    columns = {**ITEM_COLUMNS, "item": ["item_id", "sizes"]}
    with pytest.raises(UserError, match=rf"tiny\.item: sizes holds '{wrong}', not a finite number"):
        prepare("SASRec", load_col=columns)


def test_items_without_a_row_go_with_their_interactions_where_it_is_asked_for(tiny):
    text = (tiny / "tiny.item").read_text(encoding="utf-8").splitlines(keepends=True)
    (tiny / "tiny.item").write_text("".join(text[:30]), encoding="utf-8")
    assert prepare("SASRec", load_col=ITEM_COLUMNS).dataset.item_num == 49
    dataset = prepare("SASRec", load_col=ITEM_COLUMNS, filter_inter_by_user_or_item=True).dataset
    assert dataset.item_num == dataset.table.n_items + 1 == 30


def test_user_features_are_loaded(tiny):
    write_rows(tiny / "tiny.user", [(f"u{u}", "ab"[u % 2]) for u in range(200)], "user_id:token\tgroup:token")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "user": ["user_id", "group"]}
    dataset = prepare("BPR", load_col=columns).dataset
    assert dataset.user_num == 81
    groups = tokens(dataset, "group", dataset.user_feat["group"][1:])
    assert groups == ["ab"[int(token[1:]) % 2] for token in dataset.table.user_tokens[1:]]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["item_id", "colour"], "has no column 'colour' .load_col asks for it.; it has item_id, title"),
        (["brand"], "item_id must be among the loaded columns"),
    ],
)
def test_item_columns_that_cannot_be_loaded_are_a_user_error(tiny, wanted, message):
    with pytest.raises(UserError, match=message):
        prepare("SASRec", load_col={**ITEM_COLUMNS, "item": wanted})


def test_a_dataset_without_item_file_has_no_item_features(tiny):
    (tiny / "tiny.item").unlink()
    assert prepare("SASRec", load_col=ITEM_COLUMNS).dataset.item_feat is None


# ---- matrices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
@pytest.mark.parametrize("form", ["coo", "csr"])
def test_the_interaction_matrix_holds_the_training_rows(tiny, model, form):
    prepared = prepare(model)
    table, rows = prepared.dataset.table, prepared.dataset.split.train_rows
    expected = sp.coo_matrix((np.ones(len(rows)), (table.user[rows], table.item[rows])), shape=(81, 49)).tocsr()
    found = prepared.train_part.inter_matrix(form=form)
    assert found.format == form
    assert abs(found.tocsr() - expected).nnz == 0


def test_the_interaction_matrix_can_hold_values(tiny):
    load = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    part = prepare("BPR", load_col=load).train_part
    found = part.inter_matrix(form="coo", value_field="rating")
    assert np.allclose(np.asarray(found.data), part.inter_feat["rating"].numpy())


def rows_of(matrices):
    """The (id, value) pairs of each row, in any order."""
    ids, values, lengths = (part.tolist() for part in matrices)
    found = []
    for own_ids, own_values, length in zip(ids, values, lengths, strict=True):
        found.append(sorted(zip(own_ids[:length], own_values[:length], strict=True)))
        assert not any(own_ids[length:])
        assert not any(own_values[length:])
    return found


@pytest.mark.parametrize("row", ["user", "item"])
@pytest.mark.parametrize("value", [None, "rating"])
def test_history_matrices_are_recbole_s(tiny, row, value):
    load = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    part = prepare("BPR", load_col=load).train_part
    ours, theirs = part._history_matrix(row, value), Dataset._history_matrix(part, row, value)
    assert rows_of(ours) == rows_of(theirs)
    assert [part.dtype for part in ours] == [part.dtype for part in theirs]
    assert [part.shape for part in ours] == [part.shape for part in theirs]


def test_history_matrices_are_cut_to_the_length_asked_for(tiny):
    part = prepare("BPR").train_part
    whole, cut = rows_of(part._history_matrix("user")), rows_of(part._history_matrix("user", max_history_len=4))
    assert [len(row) for row in cut] == [min(4, len(row)) for row in whole]
    assert all(set(few) <= set(many) for few, many in zip(cut, whole, strict=True))


# ---- which class, and what it refuses ------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name"), [("SASRec", "SequentialDataset"), ("BPR", "Dataset"), ("Pop", "Dataset"), ("FM", "Dataset")]
)
def test_the_class_is_the_one_that_recbole_takes(tiny, model, name):
    prepared = prepare(model)
    assert dataset_class(prepared.config).__name__ == name
    assert type(prepared.dataset).__name__ == f"Bench{name}"


def test_a_dataset_that_is_too_small_is_a_user_error(workspace):
    write_rows(workspace / "dataset" / "tiny" / "tiny.inter", walks([2, 2, 1]))
    with pytest.raises(UserError, match=r"--protocol=loo leaves .* it is too small"):
        prepare("BPR")


def test_the_hash_is_that_of_the_interactions(tiny):
    from recbole_llm.utils.files import file_sha256

    plain = prepare("BPR")
    assert plain.dataset.sha256 == file_sha256(tiny / "tiny.inter")
    assert make_dataset(plain.config, plain.dataset.location).sha256 == plain.dataset.sha256


# ---- what RecBole reads itself -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "cause"),
    [("SASRec", {"normalize_field": ["rating"]}, "with normalize_field"), ("KGAT", {}, "for KGAT")],
)
def test_sessions_are_refused_where_recbole_reads(tiny, model, options, cause):
    load = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    with pytest.raises(UserError, match=rf"--protocol=temporal_20 cuts histories into sessions, and {cause} RecBole"):
        prepare(model, protocol="temporal_20", load_col=load, **options)


def test_without_sessions_a_protocol_serves_where_recbole_reads(tiny):
    load = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    dataset = prepare(
        "SASRec", protocol="temporal_20", sessions=None, load_col=load, normalize_field=["rating"]
    ).dataset
    assert histories(dataset) == histories(prepare("SASRec").dataset)


GRAPH = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}


@pytest.mark.parametrize(
    ("load", "state"),
    [
        ({}, "load_col lacks kg, load_col lacks link, there is no tiny.link"),
        ({"kg": GRAPH["kg"]}, "load_col lacks link, there is no tiny.link"),
        (GRAPH, "there is no tiny.link"),
        (None, "there is no tiny.link"),
    ],
)
def test_a_model_of_a_graph_says_which_files_and_settings_it_needs(tiny, load, state):
    write_rows(tiny / "tiny.kg", [("i1", "of", "b")], "head_id:token\trelation_id:token\ttail_id:token")
    columns = None if load is None else {"inter": ["user_id", "item_id", "timestamp"], **load}
    with pytest.raises(UserError, match=f"--model=KGAT needs a knowledge graph, and {state}. Put tiny.kg") as error:
        prepare("KGAT", load_col=columns)
    assert "--load_col.kg=[head_id,relation_id,tail_id] --load_col.link=[item_id,entity_id]" in str(error.value)


@pytest.mark.parametrize(
    ("header", "link", "message"),
    [
        ("item_id:token\tentity_id:token", ("i\r1", "a"), r"tiny\.link, line 2: a carriage return inside the line"),
        ("item_id:token\tentity_id:token", ("i1", "a\tb"), r"tiny\.link, line 2: more fields than the header's 2"),
        ("item_id:token\tentity:token", ("i1", "a"), r"tiny\.link has no column 'entity_id'; it has item_id, entity"),
    ],
)
def test_files_of_a_graph_are_checked_as_those_of_interactions_are(tiny, header, link, message):
    write_rows(tiny / "tiny.kg", [("a", "of", "b")], "head_id:token\trelation_id:token\ttail_id:token")
    write_rows(tiny / "tiny.link", [link], header)
    with pytest.raises(UserError, match=message):
        prepare("KGAT", load_col={"inter": ["user_id", "item_id", "timestamp"], **GRAPH})
