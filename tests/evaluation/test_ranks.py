"""Ranks: their files, and selections of cases."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks


@pytest.fixture
def ranks():
    """Twenty cases of three targets each."""
    generator = np.random.default_rng(0)
    return Ranks(
        user=np.arange(1, 21),
        offsets=np.arange(21) * 3,
        item=generator.integers(1, 26, 60).astype(np.int32),
        higher=generator.integers(25, size=60).astype(np.int32),
        tied=generator.integers(3, size=60).astype(np.int32),
        history=generator.integers(1, 10, 20).astype(np.int32),
        train_count=generator.integers(9, size=60).astype(np.int32),
        head=generator.random(60) < 0.3,
        pool=np.arange(100, 120, dtype=np.int32),
        person=generator.integers(5, size=20),
        cold_user=generator.random(20) < 0.5,
    )


FIELDS = tuple(Ranks.__dataclass_fields__)


def test_ranks_are_read_as_they_were_written(ranks, tmp_path):
    ranks.save(tmp_path / "a.npz")
    read = Ranks.load(tmp_path / "a.npz")
    for name in FIELDS:
        assert np.asarray(getattr(read, name)).dtype == np.asarray(getattr(ranks, name)).dtype
        assert np.array_equal(getattr(read, name), getattr(ranks, name))


def test_a_file_from_before_pools_and_people_were_noted_has_none(ranks, tmp_path):
    names = [name for name in FIELDS if name not in ("pool", "person")]
    with (tmp_path / "a.npz").open("wb") as stream:
        np.savez(stream, format=np.int32(1), **{name: getattr(ranks, name) for name in names})
    read = Ranks.load(tmp_path / "a.npz")
    assert (len(read), len(read.pool), len(read.person)) == (20, 0, 0)
    assert len(read.select(np.array([3])).person) == 0


def refused(path, match="a.npz is not a readable file of ranks"):
    with pytest.raises(UserError, match=match):
        Ranks.load(path)


def test_a_missing_file_is_a_user_error(tmp_path):
    refused(tmp_path / "a.npz")


@pytest.mark.parametrize("keep", [0, 1, 10, 300, -40])
def test_a_truncated_file_is_a_user_error(ranks, tmp_path, keep):
    ranks.save(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:keep])
    refused(tmp_path / "a.npz")


def test_damage_within_a_file_is_a_user_error(ranks, tmp_path):
    ranks.save(tmp_path / "a.npz")
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"not an archive", b"PK\x03\x04 but no archive"])
def test_another_file_is_a_user_error(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz")


def test_a_plain_array_is_a_user_error(tmp_path):
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, np.arange(3))
    refused(tmp_path / "a.npz")


def test_pickled_objects_are_not_read(tmp_path):
    with (tmp_path / "a.npz").open("wb") as stream:
        np.savez(stream, format=np.int32(1), **dict.fromkeys(FIELDS, np.array([{}], dtype=object)))
    refused(tmp_path / "a.npz")


def test_a_file_of_a_later_version_says_so(ranks, tmp_path):
    with (tmp_path / "a.npz").open("wb") as stream:
        np.savez(stream, format=np.int32(99), **{name: getattr(ranks, name) for name in FIELDS})
    refused(tmp_path / "a.npz", "was written by a later version .format 99")


# ---- a part of the cases -------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [[2, 0, 5], [1], [], [3, 3]])
def test_cases_can_be_chosen(ranks, chosen):
    part = ranks.select(np.array(chosen, dtype=np.int64))
    assert len(part) == len(chosen)
    for place, case in enumerate(chosen):
        one = slice(part.offsets[place], part.offsets[place + 1])
        whole = slice(ranks.offsets[case], ranks.offsets[case + 1])
        for name in ("user", "history", "pool", "person", "cold_user"):
            assert len(getattr(part, name)) == len(chosen)
            assert getattr(part, name)[place] == getattr(ranks, name)[case]
        for name in ("item", "higher", "tied", "train_count", "head"):
            assert getattr(part, name)[one].tolist() == getattr(ranks, name)[whole].tolist()
