"""Vector files made elsewhere: how they are read, which errors are reported, which models read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recbole_llm.data.atomic import read_table
from recbole_llm.errors import UserError
from recbole_llm.experiments.jobs import pack
from recbole_llm.features import vectors as module
from recbole_llm.features.vectors import digest, given_vectors, read_vectors
from recbole_llm.reporting.grouping import group
from tests.helpers import make_run, prepare, runner

IDS = [f"i{number}" for number in range(48)]
SMALL: dict[str, Any] = {"hidden_size": 16, "inner_size": 24, "n_layers": 1}


def matrix_of(count: int = 48, size: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def as_npy(path: Path, matrix: np.ndarray, ids: list[str] = IDS, key: str = "item_id") -> Path:
    np.save(path, matrix)
    path.with_suffix(".ids").write_text("\n".join([key, *ids]) + "\n")
    return path


def as_safetensors(path: Path, matrix: np.ndarray, ids: list[str] = IDS, key: str = "item_id") -> Path:
    save_file({"vectors": torch.from_numpy(matrix)}, path, {key: json.dumps(ids)})
    return path


def as_parquet(path: Path, matrix: np.ndarray, ids: list[str] = IDS, key: str = "item_id") -> Path:
    pytest.importorskip("pyarrow")
    import pandas as pd

    pd.DataFrame({key: ids, "vector": list(matrix)}).to_parquet(path)
    return path


FORMS = [("v.npy", as_npy), ("v.safetensors", as_safetensors), ("v.parquet", as_parquet)]


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "write"), FORMS)
@pytest.mark.parametrize("key", ["item_id", "user_id"])
def test_each_form_gives_its_rows_by_id(tmp_path: Path, name: str, write: Any, key: str) -> None:
    found = read_vectors(write(tmp_path / name, matrix_of(), IDS, key))
    assert (found.key, list(found.tokens)) == (key, IDS)
    np.testing.assert_array_equal(found.matrix, matrix_of())
    vectors, known = found.aligned(["[PAD]", "i7", "nobody", "i3"])
    assert known.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(vectors, np.stack([np.zeros(6), matrix_of()[7], np.zeros(6), matrix_of()[3]]))


def test_half_precision_of_a_language_model_is_read(tmp_path: Path) -> None:
    half = torch.from_numpy(matrix_of()).bfloat16()
    save_file({"anything": half}, tmp_path / "v.safetensors", {"item_id": json.dumps(IDS)})
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.safetensors").matrix, half.float().numpy())


def test_a_list_of_ids_may_lie_beside_a_tensor(tmp_path: Path) -> None:
    save_file({"vectors": torch.eye(2, 3), "other": torch.ones(1)}, tmp_path / "v.safetensors")
    (tmp_path / "v.ids").write_text("user_id:token\nann\nbob\n")
    assert read_vectors(tmp_path / "v.safetensors").tokens == ("ann", "bob")


def written(folder: Path, matrix: np.ndarray | None = None, ids: str | None = "item_id\na\nb\n") -> Path:
    np.save(folder / "v.npy", np.eye(2, 3) if matrix is None else matrix)
    if ids is not None:
        (folder / "v.ids").write_text(ids)
    return folder / "v.npy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": None}, r"v\.ids beside it is to name the rows"),
        ({"ids": "a\nb\n"}, "the first line is item_id or user_id, not 'a'"),
        ({"ids": "item_id\na\nb\nc\n"}, "has 2 rows and 3 ids"),
        ({"ids": "item_id\na\na\n"}, "the id 'a' has several rows"),
        ({"ids": ""}, "the first line is item_id or user_id, not ''"),
        ({"ids": "item_id\n", "matrix": np.ones((0, 3))}, "has no rows"),
        ({"matrix": np.full((2, 3), 0.5)}, "its 2 rows are all the same"),
        ({"matrix": np.ones(2)}, r"expected a matrix of numbers with one row per id; got float64 of the shape \(2,\)"),
        ({"matrix": np.array([["x"], ["y"]])}, r"expected a matrix of numbers with one row per id; got <U1"),
        ({"matrix": np.array([[1.0, 2.0], [1e39, 1.0]])}, r"row 2 \(b\) .* not a finite number in single precision"),
        (
            {"matrix": np.array([[1.0, 2.0], [1e37, 1.0]])},
            r"row 2 \(b\) .* in single precision, or whose square overflows",
        ),
        ({"matrix": np.array([[1.0, 2.0], [np.nan, 1.0]])}, r"row 2 \(b\) holds a value that is not a finite number"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_vectors(written(tmp_path, **change))


def test_a_wrong_number_is_found_in_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 5)
    found = read_vectors(as_npy(tmp_path / "v.npy", matrix_of()))
    assert found.facts(["[PAD]", "i7", "nobody"])["known"] == 1
    wrong = matrix_of()
    wrong[33, 2] = np.nan
    with pytest.raises(UserError, match=r"row 34 \(i33\) holds a value that is not a finite number"):
        read_vectors(as_npy(tmp_path / "w.npy", wrong))


@pytest.mark.parametrize("last", [47, 3])
def test_rows_that_are_all_the_same_are_told_in_any_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    monkeypatch.setattr(module, "BLOCK", 5)
    matrix = np.full((48, 3), 0.5, dtype=np.float32)
    with pytest.raises(UserError, match="its 48 rows are all the same"):
        read_vectors(as_npy(tmp_path / "v.npy", matrix))
    matrix[last] = 0.25
    assert len(read_vectors(as_npy(tmp_path / "w.npy", matrix)).matrix) == 48


def test_ids_in_another_encoding_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.with_suffix(".ids").write_bytes("item_id\ncafé\nb\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"v\.ids: the file is not UTF-8 text"):
        read_vectors(path)


@pytest.mark.parametrize("token", ["two words", "x\u2028y", "x\x85y", "007", '5" pipe', "日本"])
@pytest.mark.parametrize(("name", "write"), FORMS)
def test_an_id_is_any_text(tmp_path: Path, name: str, write: Any, token: str) -> None:
    assert read_vectors(write(tmp_path / name, np.eye(2), ["7", token])).tokens == ("7", token)


def test_lines_of_ids_may_end_as_on_windows(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.with_suffix(".ids").write_bytes(b"item_id\r\na\r\nb\r\n")
    assert read_vectors(path).tokens == ("a", "b")


def test_an_archive_of_arrays_is_no_matrix(tmp_path: Path) -> None:
    with written(tmp_path).open("wb") as stream:
        np.savez(stream, np.eye(2))
    with pytest.raises(UserError, match=r"v\.npy is an archive of arrays"):
        read_vectors(tmp_path / "v.npy")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.eye(2) > 0, "expected a matrix of numbers with one row per id; got bool"),
        (torch.eye(2) * 1j, "expected a matrix of numbers with one row per id; got complex64"),
    ],
)
def test_a_tensor_of_other_things_than_numbers_is_refused(tmp_path: Path, tensor: torch.Tensor, message: str) -> None:
    save_file({"vectors": tensor}, tmp_path / "v.safetensors", {"item_id": json.dumps(["a", "b"])})
    with pytest.raises(UserError, match=message):
        read_vectors(tmp_path / "v.safetensors")


@pytest.mark.parametrize("ids", [{"a": 1}, ["a", None], ["a", 1.0]])
def test_ids_of_a_tensor_are_a_list_of_ids(tmp_path: Path, ids: Any) -> None:
    save_file({"vectors": torch.eye(2)}, tmp_path / "v.safetensors", {"item_id": json.dumps(ids)})
    with pytest.raises(UserError, match="item_id in its metadata is no JSON list of ids"):
        read_vectors(tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a", None], [[1.0], [2.0]], "row 2 has no item_id"),
        ([None, 7.0], [[1.0], [2.0]], "row 1 has no item_id"),
        (["a", "b"], [[1.0], None], "the vector of b is no list of numbers, but 'None'"),
        (["a", "b"], [1.0, 2.0], r"the vector of a is no list of numbers, but '1\.0'"),
        (["a", "b"], ["[1, 2]", "[3, 4]"], "the vector of a is no list of numbers"),
    ],
)
def test_a_row_of_a_table_has_an_id_and_a_vector(tmp_path: Path, ids: Any, vectors: Any, message: str) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    pd.DataFrame({"item_id": ids, "vector": vectors}).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(UserError, match=message):
        read_vectors(tmp_path / "v.parquet")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([{"a": 1}, {"b": 2}], dtype=object), allow_pickle=True)
    (tmp_path / "v.ids").write_text("item_id\na\nb\n")
    with pytest.raises(UserError, match="cannot be read"):
        read_vectors(tmp_path / "v.npy")


@pytest.mark.parametrize(("name", "content"), [("v.safetensors", b"no"), ("v.npy", b"no"), ("v.pt", b"no")])
def test_a_file_of_another_form_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "v.ids").write_text("item_id\na\n")
    with pytest.raises(UserError, match=r"cannot be read|give a file that ends in"):
        read_vectors(tmp_path / name)


def test_a_missing_file_is_named_before_anything_runs(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"--vectors=none\.npy: there is no such file"):
        make_run("SASRecText", vectors=["none.npy"])
    with pytest.raises(UserError, match=r"--vectors=dataset is a folder; give the name of a file"):
        make_run("SASRecText", vectors=["dataset"])


def test_two_files_of_items_are_one_too_many(tmp_path: Path) -> None:
    paths = [str(as_npy(tmp_path / f"{name}.npy", matrix_of())) for name in "ab"]
    with pytest.raises(UserError, match="both have one row per item_id"):
        given_vectors(paths)


def test_ids_of_another_dataset_are_refused(tiny: Path) -> None:
    as_npy(Path("v.npy"), matrix_of(), [f"x{number}" for number in range(48)])
    with pytest.raises(
        UserError, match=r"this dataset has none of the 48 item_id values in v#\w{6} \(x0, x1, x2, \.\.\.\)"
    ):
        prepare("SASRecText", vectors=["v.npy"], **SMALL)


# ---- in models -----------------------------------------------------------------------------------


def test_sasrectext_reads_them_in_place_of_texts(tiny: Path) -> None:
    as_safetensors(Path("v.safetensors"), matrix_of()[:40], IDS[:40])
    prepared = prepare("SASRecText", vectors=["v.safetensors"], **SMALL)
    texts, tokens = prepared.model.backbone.item_embedding.texts, prepared.dataset.table.item_tokens.tolist()
    for number, token in enumerate(tokens):
        expected = matrix_of()[IDS.index(token)] if token in IDS[:40] else np.zeros(6)
        np.testing.assert_array_equal(texts[number].numpy(), expected)


def test_profiles_that_they_leave_unread_are_refused(tiny: Path) -> None:
    path = as_npy(tiny / "vectors.npy", matrix_of())
    Path("profiles.jsonl").write_text('{"item_id": "i1", "profile": "about it"}\n')
    with pytest.raises(UserError, match=r"--profiles: SASRecText reads --vectors in the place of the items' texts"):
        prepare(
            "SASRecText",
            vectors=[str(path)],
            profiles="profiles.jsonl",
            profiles_by="item_id",
            text_columns=["title_text", "profile_text"],
        )


def test_items_exchange_them_and_noise_has_their_norms(tiny: Path) -> None:
    as_npy(Path("v.npy"), matrix_of())
    real, mixed, noise = (
        prepare("SASRecText", vectors=["v.npy"], semantics=kind, **SMALL).model.backbone.item_embedding.texts
        for kind in ("llm", "shuffled", "random")
    )
    assert not torch.equal(real, mixed)
    torch.testing.assert_close(real.norm(dim=1).sort().values, mixed.norm(dim=1).sort().values)
    torch.testing.assert_close(real.norm(dim=1), noise.norm(dim=1))
    assert not torch.allclose(real, noise)


def test_the_record_says_which_vectors_and_counts_them(tiny: Path) -> None:
    path = as_npy(Path("mine.npy"), matrix_of(), ["elsewhere", *IDS[1:]])
    record = runner().run(make_run("SASRecText", vectors=["mine.npy"], epochs=1, **SMALL))
    assert record.features is not None
    (facts,) = record.features.vectors
    assert (facts["of"], facts["dimensions"], facts["rows"], facts["known"], facts["missing"]) == (
        *("item_id", 6, 48, 47, 1),
    )
    assert facts["sha256"] == digest(path)
    assert record.label == f"SASRecText (text, mine#{digest(path)[:6]})"


def test_items_without_a_vector_are_reported(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = as_npy(Path("mine.npy"), matrix_of(), [*IDS[:9], *(f"x{number}" for number in range(39))])
    prepare("SASRecText", vectors=["mine.npy"], **SMALL)
    assert f"--vectors: mine#{digest(path)[:6]} has 9 of this dataset's 48 item_id values" in caplog.text


def test_other_vectors_are_another_run_and_another_row(tiny: Path) -> None:
    records = []
    for number in range(2):
        as_npy(Path("v.npy"), matrix_of(seed=number))
        records.append(runner().run(make_run("SASRecText", vectors=["v.npy"], epochs=1, **SMALL)))
    plain = runner().run(make_run("SASRecText", epochs=1, **SMALL))
    assert len({record.key for record in (*records, plain)}) == 3
    (rows,) = group([*records, plain]).values()
    assert len(rows) == 3


@pytest.mark.parametrize("model", ["SASRec", "Pop"])
def test_a_model_that_reads_no_vectors_is_the_same_run_with_them(tiny: Path, model: str) -> None:
    as_npy(Path("v.npy"), matrix_of())
    assert make_run(model, vectors=["v.npy"]).key == make_run(model).key
    assert make_run(model, whitening="zca").key == make_run(model).key


def test_without_semantics_they_are_not_read(tiny: Path) -> None:
    as_npy(Path("v.npy"), matrix_of())
    keys = {make_run("SASRecText", semantics="none", **more).key for more in ({"vectors": ["v.npy"]}, {})}
    assert len(keys) == 1


def test_codes_are_clusters_of_them(tiny: Path) -> None:
    clusters = np.repeat(np.eye(4, dtype=np.float32) * 5, 12, axis=0)
    as_npy(Path("v.npy"), clusters + 0.01 * matrix_of(48, 4))
    dataset = prepare("SASRecF", vectors=["v.npy"], n_codes=4, **SMALL).dataset
    codes = read_table(dataset.semantics.folder.file("codes"))
    found = {(int(item[1:]) // 12, code) for item, code in codes.itertuples(index=False)}
    assert len(found) == 4


def test_duip_reads_directions_of_them(tiny: Path) -> None:
    as_npy(Path("v.npy"), matrix_of())
    prepared = prepare("DUIP", vectors=["v.npy"], use_lm=False)
    row = prepared.dataset.table.item_tokens.tolist().index("i5")
    expected = torch.nn.functional.normalize(torch.from_numpy(matrix_of()[5]), dim=0)
    torch.testing.assert_close(prepared.model.text_vectors[row], expected)


def test_isrf_reads_items_and_users(tiny: Path) -> None:
    users = [f"u{number}" for number in range(80)]
    as_npy(Path("items.npy"), matrix_of())
    as_npy(Path("users.npy"), matrix_of(80, 5), users, "user_id")
    dataset = prepare("ISRF", vectors=["items.npy", "users.npy"]).dataset
    assert {facts["of"] for facts in dataset.semantics.facts()["vectors"]} == {"item_id", "user_id"}
    items, users_ = dataset.semantics.item_vectors(["fused_text"], "itemprofile"), dataset.semantics.user_vectors("x")
    assert (items[0].shape[1], users_[0].shape[1]) == (6, 5)
    assert bool(items[1][1:].all())


def test_the_order_of_two_files_makes_no_other_run(tiny: Path) -> None:
    as_npy(Path("items.npy"), matrix_of())
    as_npy(Path("a-users.npy"), matrix_of(80, 5), [f"u{number}" for number in range(80)], "user_id")
    one, other = (
        make_run("LLMESR", vectors=files) for files in (["items.npy", "a-users.npy"], ["a-users.npy", "items.npy"])
    )
    assert one.key == other.key
    assert one.title() == other.title()


def test_they_travel_with_a_job(tiny: Path) -> None:
    as_npy(Path("v.npy"), matrix_of())
    run = make_run("SASRecText", vectors=["v.npy"], **SMALL)
    with pack(run, None).unpacked(run) as (moved, _):
        (path,) = moved.settings["vectors"]
        assert Path(path).resolve() != Path("v.npy").resolve()
        assert moved.key == run.key
        assert read_vectors(Path(path)).tokens == tuple(IDS)


# ---- whitening -----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False])
def test_whitened_vectors_are_without_correlations(tiny: Path, given: bool) -> None:
    as_npy(Path("v.npy"), matrix_of() @ np.diag([9, 3, 1, 1, 1, 1]) + 4)
    more = {"vectors": ["v.npy"]} if given else {}
    features = prepare("SASRecText", whitening="zca", **more, **SMALL).dataset.semantics
    vectors = features.item_vectors(["title_text"])[0][1:] if given else features.text_vectors()
    covariance = torch.cov(vectors.T)
    spread = covariance.diagonal()
    if given:  # more vectors than dimensions
        torch.testing.assert_close(covariance, torch.eye(6) * spread.mean(), rtol=1e-3, atol=1e-3)
    assert float(vectors.mean(dim=0).abs().max()) < 1e-3 * float(vectors.norm(dim=1).mean()) + 1e-3


def test_whitening_is_another_run(tiny: Path) -> None:
    assert make_run("SASRecText", whitening="zca").key != make_run("SASRecText").key
    assert make_run("SASRecText", whitening="none").key == make_run("SASRecText").key
