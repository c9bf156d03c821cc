"""``doctor --dataset``: what it reports about one dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_llm.raw.source import preparable
from recbole_llm.utils.files import file_sha256
from recbole_llm.utils.yaml import property_names
from tests.helpers import Cli


def said(cli: Cli, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli("doctor", *words)
    return code, capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in property_names("dataset") if name != "ml-100k"])
def test_every_named_dataset_says_what_is_missing_and_where_it_can_be_had(
    workspace: Path, cli: Cli, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, out = said(cli, capsys, f"--dataset={name}")
    assert code == 1
    assert f"{name}: its atomic files are not here" in out
    assert "give --data_path=FOLDER that holds" in out
    if name in preparable():
        assert f"recbole-llm prepare {name}" in out
        assert "is not here; to be had: " in out
    else:
        assert "source: " in out


def test_files_that_are_here_are_named_with_their_hashes(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = said(cli, capsys, "--dataset=tiny")
    assert code == 0
    assert (
        f"tiny.inter: {(tiny / 'tiny.inter').stat().st_size:,} bytes, sha256 {file_sha256(tiny / 'tiny.inter')}" in out
    )


def test_raw_files_that_are_here_are_not_missing(workspace: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    raw = workspace / "dataset" / "yelp" / "raw"
    raw.mkdir(parents=True)
    (raw / "yelp_academic_dataset_review.json").write_text("{}")
    code, out = said(cli, capsys, "--dataset=yelp")
    assert code == 1
    assert "ok   raw file dataset/yelp/raw/yelp_academic_dataset_review.json" in out
    assert (
        "yelp_academic_dataset_business.json is not here; to be had: by hand from https://www.yelp.com/dataset" in out
    )
    assert "licence: Yelp Dataset License" in out


def test_a_name_that_nobody_knows_is_an_error(workspace: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("doctor", "--dataset=beautyy") == 2
    assert "Did you mean beauty or" in capsys.readouterr().err
