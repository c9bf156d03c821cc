"""Features as tensors aligned with the interactions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.data.atomic import Column
from recbole_llm.data.interactions import Interactions
from recbole_llm.features import reader
from recbole_llm.features.folder import SemanticFolder
from recbole_llm.features.reader import Bags, SemanticFeatures
from recbole_llm.methods.llmdmsrec.features import INTENT_COLUMNS
from tests.helpers import MostRows

NAMES = ["explicit_text", "latent_text"]
LENGTHS = {"ann": 5, "bob": 4, "cid": 5, "dee": 1}
Rows = list[tuple[str, int, list[int], list[int]]]
# All lists differ, so each can be traced to where it ends up.
FULL: Rows = [
    (user, position, [10 * number + position], [10 * number + position + 50, position])
    for number, (user, length) in enumerate(LENGTHS.items())
    for position in range(1, length)
]


def table_of(lengths: dict[str, int]) -> Interactions:
    """Interactions of users with histories of these lengths."""
    counts = np.array([0, *lengths.values()])
    user = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    return Interactions(
        user=user,
        item=np.ones(len(user), dtype=np.int32),
        time=None,
        extra={},
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        user_tokens=np.array(["[PAD]", *lengths]),
        item_tokens=np.array(["[PAD]", "i"]),
    )


def features(path: Path, rows: Rows, semantics: str = "llm", seed: int = 1, **lengths: int) -> SemanticFeatures:
    folder = SemanticFolder(path / "f", "d", {})
    for number in range(100):
        folder.texts.add(f"text {number}")
    folder.write("intent", INTENT_COLUMNS, rows)
    folder.commit("intent")
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    return SemanticFeatures(folder, table_of(lengths or LENGTHS), lambda: vectors, semantics, {}, seed)


def lists(bags: Bags) -> list[list[int]]:
    """The bag of each row of the interactions."""
    ends = bags.offsets.tolist()
    return [bags.ids[a:b].tolist() for a, b in pairwise(ends)]


def answers(found: dict[str, Bags]) -> dict[int, tuple[tuple[int, ...], ...]]:
    """The lists of all columns at each row that has an answer."""
    columns = [lists(found[name]) for name in NAMES]
    return {row: tuple(map(tuple, cells)) for row, cells in enumerate(zip(*columns, strict=True)) if any(cells)}


# ---- keys ---------------------------------------------------------------------------------------


def test_lists_stand_at_the_row_of_their_user_and_position(tmp_path: Path) -> None:
    rows: Rows = [("bob", 2, [1, 2], [3]), ("ann", 4, [], [4, 5, 6]), ("ann", 1, [7], [])]
    found = features(tmp_path, rows).bags("intent", NAMES)
    assert answers(found) == {1: ((7,), ()), 4: ((), (4, 5, 6)), 7: ((1, 2), (3,))}


def test_every_row_has_a_bag_even_an_empty_one(tmp_path: Path) -> None:
    found = features(tmp_path, [("bob", 2, [1], [])]).bags("intent", NAMES)
    assert all(len(bags.offsets) == sum(LENGTHS.values()) + 1 for bags in found.values())


def test_a_file_whose_lists_are_all_empty_gives_empty_bags(tmp_path: Path) -> None:
    found = features(tmp_path, [("ann", 1, [], []), ("bob", 1, [], [])]).bags("intent", NAMES)
    assert answers(found) == {}


def test_a_file_without_rows_gives_empty_bags(tmp_path: Path) -> None:
    assert answers(features(tmp_path, []).bags("intent", NAMES)) == {}


def test_keys_that_filtering_removed_are_left_out(tmp_path: Path) -> None:
    rows: Rows = [("ann", 1, [1], []), ("gone", 1, [2], []), ("ann", 5, [3], []), ("dee", -1, [4], [])]
    built = features(tmp_path, rows)
    assert answers(built.bags("intent", NAMES)) == {1: ((1,), ())}


def test_the_padding_user_is_no_key(tmp_path: Path) -> None:
    built = features(tmp_path, [("[PAD]", 0, [1], [])])
    assert answers(built.bags("intent", NAMES)) == {}


def test_user_names_that_look_like_numbers_are_text(tmp_path: Path) -> None:
    built = features(tmp_path, [("007", 0, [1], []), ("7", 0, [2], [])], **{"7": 1, "007": 1})
    assert answers(built.bags("intent", NAMES)) == {0: ((2,), ()), 1: ((1,), ())}


# ---- controls -----------------------------------------------------------------------------------


def test_shuffled_permutes_within_equal_positions_only(tmp_path: Path) -> None:
    real = answers(features(tmp_path / "a", FULL).bags("intent", NAMES))
    mixed = answers(features(tmp_path / "b", FULL, "shuffled").bags("intent", NAMES))
    position = np.concatenate([np.arange(length) for length in LENGTHS.values()])
    assert mixed != real
    assert mixed.keys() == real.keys()
    for wanted in range(1, 5):
        rows = [row for row in real if position[row] == wanted]
        assert sorted(mixed[row] for row in rows) == sorted(real[row] for row in rows)


def test_shuffled_keeps_the_columns_of_an_answer_together(tmp_path: Path) -> None:
    real = answers(features(tmp_path / "a", FULL).bags("intent", NAMES))
    mixed = answers(features(tmp_path / "b", FULL, "shuffled").bags("intent", NAMES))
    assert set(mixed.values()) == set(real.values())


def test_shuffled_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    found = [answers(features(tmp_path / str(n), FULL, "shuffled").bags("intent", NAMES)) for n in range(2)]
    assert found[0] == found[1]


def test_shuffled_is_another_one_for_another_seed(tmp_path: Path) -> None:
    many = {f"u{n}": 4 for n in range(20)}
    rows: Rows = [(user, 2, [n], []) for n, user in enumerate(many)]
    found = [
        answers(features(tmp_path / str(seed), rows, "shuffled", seed, **many).bags("intent", NAMES))
        for seed in range(2)
    ]
    assert found[0] != found[1]


def test_shuffled_never_brings_an_unknown_keys_answer(tmp_path: Path) -> None:
    rows: Rows = [*FULL, ("gone", 1, [99], [99]), ("gone", 2, [98], [98])]
    found = features(tmp_path, rows, "shuffled").bags("intent", NAMES)
    assert not {98, 99} & set(found["explicit_text"].ids.tolist())


@pytest.mark.parametrize("semantics", ["llm", "offline", "shuffled"])
def test_vectors_are_the_encoders(tmp_path: Path, semantics: str) -> None:
    built = features(tmp_path, FULL, semantics)
    stored = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    assert torch.equal(built.text_vectors(), torch.from_numpy(stored))


def test_vectors_of_items_are_the_means_of_their_texts_gathered_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, draws = features(tmp_path, FULL), np.random.default_rng(3)
    ids = {column: torch.from_numpy(draws.integers(-1, 3, 50)) for column in "abc"}
    monkeypatch.setattr(found, "item_text_ids", lambda column, suffix, exchange: ids[column])
    whole, known = found.item_vectors([*"abc"])
    for item, (vector, some) in enumerate(zip(whole, known.tolist(), strict=True)):
        texts = [found.text_vectors()[ids[column][item]] for column in "abc" if ids[column][item] >= 0]
        assert some == bool(texts)
        torch.testing.assert_close(vector, torch.stack(texts).mean(dim=0) if texts else torch.zeros(8))
    monkeypatch.setattr(reader, "BLOCK", 7)
    with MostRows(3) as most:
        assert torch.equal(found.item_vectors([*"abc"])[0], whole)
    assert 0 < most.rows <= 7


def test_random_keeps_the_norms_and_nothing_else(tmp_path: Path) -> None:
    real = features(tmp_path / "a", FULL).text_vectors()
    noise = features(tmp_path / "b", FULL, "random").text_vectors()
    torch.testing.assert_close(noise.norm(dim=1), real.norm(dim=1))
    cosine = torch.nn.functional.cosine_similarity(noise, real)
    assert cosine.abs().mean() < 0.5


def test_random_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, second, other = (
        features(tmp_path / name, FULL, "random", seed).text_vectors() for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_user_offsets_are_those_of_the_interactions(tmp_path: Path) -> None:
    assert features(tmp_path, FULL).user_offsets().tolist() == [0, 0, 5, 9, 14, 15]


@pytest.mark.parametrize("semantics", ["shuffled", "random"])
def test_controls_leave_no_label_where_it_was_said_and_bring_none_of_another_user(
    tmp_path: Path, semantics: str
) -> None:
    """The labels are those of a table by (user, position), for example LDMI's interests."""
    many = {f"u{n}": 12 for n in range(6)}
    found = {}
    for kind in ("llm", semantics):
        built = features(tmp_path / kind, [], kind, **many)
        columns = (Column("user_id", "token"), Column("position", "token"), Column("interest_id", "token"))
        rows = [(user, place, 100 * n + place) for n, user in enumerate(many) for place in range(12)]
        built.folder.write("interest", columns, rows)
        found[kind] = built.row_labels("interest", "interest_id").reshape(6, 12)
    real, mixed = found["llm"], found[semantics]
    assert torch.equal(real // 100, mixed // 100)
    assert (real == mixed).float().mean() < 0.4
    exchanged = torch.equal(real.sort(dim=1).values, mixed.sort(dim=1).values)
    assert exchanged == (semantics == "shuffled")


def test_random_codes_are_drawn_from_all_items_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    table = replace(table_of({"ann": 1}), item_tokens=np.array(["[PAD]", *(f"i{n}" for n in range(200))]))
    folder = SemanticFolder(tmp_path / "f", "d", {})
    columns = (Column("item_id", "token"), Column("code", "token"))
    folder.write("codes", columns, [(f"i{n}", n % 8) for n in range(200)])
    folder.commit("codes")
    real, drawn, again, other = (
        SemanticFeatures(folder, table, lambda: np.empty((0, 1)), kind, {}, seed).item_codes()
        for kind, seed in (("llm", 1), ("random", 1), ("random", 1), ("random", 2))
    )
    assert (real == drawn)[1:].float().mean() < 0.4
    assert set(drawn[1:].tolist()) == set(range(8))
    assert not torch.equal(real.sort().values, drawn.sort().values)
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)
    assert drawn[0] == real[0] == -1
