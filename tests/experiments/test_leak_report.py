"""``doctor --leaks`` reads the interactions as each folder's features did, and names folders it cannot check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.doctor import Finding
from recbole_llm.experiments.leak_report import examine_leaks
from recbole_llm.experiments.run import Run
from recbole_llm.features.folder import SemanticFolder
from tests.data.build import write_rows
from tests.features.asking import SEMANTICS, add_lines, ask, only_folder
from tests.features.test_leaks import INTEREST, opened
from tests.helpers import Cli, make_run, runner
from tests.stub_server import StubServer, intents_from_candidates

Change = Callable[[Path], dict[str, Any]]
WITH_RATING = {"inter": ["user_id", "item_id", "timestamp", "rating"]}


def made_by(run: Run) -> Path:
    """Make a run's features without building its model; returns their folder."""
    path = runner().make_features(run)
    assert path is not None
    return path


def made(**settings: Any) -> Path:
    """Make SASRecText's features, which are item texts; returns their folder."""
    return made_by(make_run("SASRecText", **settings))


def bad(**settings: Any) -> list[Finding]:
    return [finding for finding in examine_leaks("tiny", None, "dataset", settings) if not finding.good]


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


def change_manifest(folder: Path, **changes: Any) -> None:
    """Change entries of a manifest; ``None`` removes an entry."""
    found = {key: value for key, value in (manifest_of(folder) | changes).items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(found), encoding="utf-8")


# ---- readings -----------------------------------------------------------------------------------


def by_semicolons(tiny: Path) -> dict[str, Any]:
    for path in tiny.glob("tiny.i*"):
        path.write_text(path.read_text(encoding="utf-8").replace(";", "").replace("\t", ";"), encoding="utf-8")
    return {"field_separator": ";"}


def of_other_fields(tiny: Path) -> dict[str, Any]:
    names = {"user_id": "reader", "item_id": "book", "timestamp": "day"}
    for path in tiny.glob("tiny.i*"):
        header, _, rows = path.read_text(encoding="utf-8").partition("\n")
        for name, other in names.items():
            header = header.replace(name, other)
        path.write_text(f"{header}\n{rows}", encoding="utf-8")
    fields = {"USER_ID_FIELD": "reader", "ITEM_ID_FIELD": "book", "TIME_FIELD": "day"}
    return {**fields, "load_col": {"inter": [*names.values()]}}


def first_of_repeats(tiny: Path) -> dict[str, Any]:
    rows = [line.split("\t") for line in (tiny / "tiny.inter").read_text(encoding="utf-8").splitlines()[1:]]
    add_lines(tiny / "tiny.inter", ["\t".join([*row[:3], str(int(row[3]) + 77_777)]) for row in rows[:40]])
    return {"rm_dup_inter": "first"}


def of_a_graph(tiny: Path) -> dict[str, Any]:
    columns = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
    rows = {"kg": [(f"e{n}", "is", f"g{n % 4}") for n in range(48)], "link": [(f"i{n}", f"e{n}") for n in range(48)]}
    for suffix, names in columns.items():
        write_rows(tiny / f"tiny.{suffix}", rows[suffix], "\t".join(f"{name}:token" for name in names))
    columns["inter"] = ["user_id", "item_id", "timestamp"]
    return {"model": "GRU4RecKG", "init": "vectors", "load_col": columns}


def cut(tiny: Path, names: list[Path]) -> list[str]:
    """Write the interactions as three parts, cut in time; returns the paths as text."""
    header, *lines = (tiny / "tiny.inter").read_text(encoding="utf-8").splitlines()
    lines.sort(key=lambda line: int(line.split("\t")[3]))
    bounds = [0, len(lines) * 6 // 10, len(lines) * 8 // 10, len(lines)]
    for path, begin, end in zip(names, bounds[:-1], bounds[1:], strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *lines[begin:end]]) + "\n", encoding="utf-8")
    return [str(path) for path in names]


def given_parts(tiny: Path, folder: Path) -> dict[str, Any]:
    """Write three part files to a folder; returns the settings that name them."""
    train, valid, test = cut(tiny, [folder / f"{name}.tsv" for name in ("one", "two", "three")])
    return {"protocol": "parts", "train": train, "valid": valid, "test": test}


def named_parts(tiny: Path) -> dict[str, Any]:
    cut(tiny, [tiny / f"tiny.{name}.inter" for name in ("a", "b", "c")])
    return {"protocol": "parts", "benchmark_filename": ["a", "b", "c"]}


READINGS: dict[str, Change] = {
    "another separator": by_semicolons,
    "other names of columns": of_other_fields,
    "no repeats": first_of_repeats,
    "no times": lambda _: {"TIME_FIELD": None},
    "users and items with enough interactions": lambda _: {
        "user_inter_num_interval": "[6,inf)", "item_inter_num_interval": "[3,inf)"
    },
    "good ratings": lambda _: {"val_interval": {"rating": "[2,inf)"}},
    "labels by threshold": lambda _: {"threshold": {"rating": 3}, "load_col": WITH_RATING},
    "a knowledge graph": of_a_graph,
    "sessions": lambda _: {"protocol": "session", "sessions": {"by": "day"}},
    "users as in the file": lambda _: {"protocol": "user_split", "user_order": "file"},
    "parts by their paths": lambda tiny: given_parts(tiny, Path("files")),
    "parts by their whole paths": lambda tiny: given_parts(tiny, Path("files").absolute()),
    "parts by their names": named_parts,
}  # fmt: skip


@pytest.mark.parametrize("reading", READINGS)
def test_a_leak_is_found_whatever_the_reading(tiny: Path, reading: str) -> None:
    settings = READINGS[reading](tiny)
    run = make_run(settings.pop("model", "SASRecText"), **settings)
    path, dataset = made_by(run), runner().read_dataset(run)
    folder = SemanticFolder(path, "tiny", manifest_of(path)["identity"])
    table, held_out = dataset.table, int(dataset.split.test.target_rows[0])
    for row in (int(dataset.split.train_rows[0]), held_out):
        user = int(table.user[row])
        folder.write("interest", INTEREST, [(table.user_tokens[user], row - int(table.offsets[user]), 0)])
        folder.commit("interest", {"sees": "training"})
        assert ["1 of them held out" in finding.text for finding in bad()] == [True] * (row == held_out)


def test_what_a_folder_notes_is_no_part_of_its_identity(tiny: Path) -> None:
    folder = made(rm_dup_inter="first")
    assert manifest_of(folder)["read_with"] == {"rm_dup_inter": "first"}
    change_manifest(folder, read_with=None)  # as older versions wrote it
    before = (folder / "manifest.json").read_bytes()
    assert made(rm_dup_inter="first") == folder
    assert (folder / "manifest.json").read_bytes() == before


def test_an_ordinary_folder_notes_nothing(featured: Path) -> None:
    assert "read_with" not in manifest_of(only_folder("offline"))


def test_no_path_of_the_machine_is_noted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away")
    folder = made(**given_parts(tiny, away))
    assert manifest_of(folder)["read_with"] == {"train": "one.tsv", "valid": "two.tsv", "test": "three.tsv"}
    assert str(away) not in (folder / "manifest.json").read_text(encoding="utf-8")


def test_what_the_identity_of_an_older_manifest_says_is_read(tiny: Path) -> None:
    folder = made(**of_other_fields(tiny))
    change_manifest(folder, read_with=None)
    assert bad() == []


# ---- folders that cannot be checked -------------------------------------------------------------


def test_an_older_folder_is_checked_with_settings_of_the_command(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(**by_semicolons(tiny))
    change_manifest(folder, read_with=None)
    assert cli("doctor", "--leaks", "--dataset=tiny") == 1
    out = capsys.readouterr().out
    assert f"FAIL {folder.name}: not checked: its interactions cannot be read as they were" in out
    assert "`recbole-llm doctor --leaks --dataset=tiny --KEY=VALUE`" in out
    assert "FAIL 1 folder of features: 0 checked, 1 not" in out
    assert cli("doctor", "--leaks", "--dataset=tiny", "--field_separator=;") == 0
    assert "ok   1 folder of features: checked" in capsys.readouterr().out


def test_settings_of_the_command_leave_other_folders_as_they_are(tiny: Path) -> None:
    change_manifest(made(protocol="user_split", user_order="file"), read_with=None)
    made(protocol="user_split")
    assert [finding.text.partition(":")[0] for finding in bad()][1:] == ["2 folders of features"]
    assert bad(user_order="file") == []


def test_parts_that_lie_elsewhere_are_asked_for(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = given_parts(tiny, tmp_path_factory.mktemp("away"))
    made(**settings)
    assert cli("doctor", "--leaks", "--dataset=tiny") == 1
    assert "--dataset=tiny --train=FILE --valid=FILE --test=FILE`" in capsys.readouterr().out
    words = [f"--{part}={settings[part]}" for part in ("train", "valid", "test")]
    assert cli("doctor", "--leaks", "--dataset=tiny", *words) == 0


def test_features_whose_dataset_is_gone_are_not_checked(
    tiny: Path, workspace: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    made()
    (workspace / "kept").mkdir()
    for path in tiny.glob("tiny.i*"):
        shutil.move(path, workspace / "kept" / path.name)
    assert cli("doctor", "--leaks", "--dataset=tiny") == 1
    assert "`recbole-llm doctor --leaks --dataset=tiny --data_path=FOLDER`" in capsys.readouterr().out
    assert cli("doctor", "--leaks", "--dataset=tiny", "--data_path=kept") == 0


def test_one_folder_of_two_is_counted(featured: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    add_lines(Path("dataset/tiny/tiny.inter"), ["u0\ti0\t5\t1500000000"])
    made()
    assert cli("doctor", "--leaks", "--dataset=tiny") == 1
    out = capsys.readouterr().out
    assert "not checked: it was made from other interactions (SHA-256 " in out
    assert "FAIL 2 folders of features: 1 checked, 1 not" in out


def without_text(folder: Path) -> str:
    (folder / "tiny.text").unlink()
    return "tiny.text is gone"


def unfinished(folder: Path) -> str:
    change_manifest(folder, features={}, files={})
    return "no feature of it is finished"


def damaged(folder: Path) -> str:
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    return "manifest.json is damaged"


def of_another_class(folder: Path) -> str:
    change_manifest(folder, read_with={"model": "os:system"})
    return "its manifest names the model os:system"


def of_another_setting(folder: Path) -> str:
    change_manifest(folder, read_with={"results_dir": "/"})
    return "its manifest notes results_dir"


@pytest.mark.parametrize("spoil", [without_text, unfinished, damaged, of_another_class, of_another_setting])
def test_a_folder_that_is_not_whole_is_not_checked(featured: Path, spoil: Callable[[Path], str]) -> None:
    why = spoil(only_folder("offline"))
    found, count = bad()
    assert "not checked: " in found.text
    assert why in found.text
    assert "`recbole-llm doctor --leaks --dataset=tiny`" in found.text
    assert (found.fatal, count.text) == (True, "1 folder of features: 0 checked, 1 not")


@pytest.mark.parametrize("lost", ["responses.sqlite", "some answers"])
def test_prompts_that_are_gone_are_not_checked(few_users: Path, lost: str) -> None:
    with StubServer(intents_from_candidates) as server:
        folder = opened(ask(server))
    assert bad() == []
    for path in SEMANTICS.glob("responses.sqlite*"):
        path.unlink()
    if lost == "some answers":
        with StubServer(intents_from_candidates) as server:
            ask(server, MAX_ITEM_LIST_LENGTH=2)
    found = [finding for finding in bad() if finding.text.startswith(folder.path.name)]
    assert ["of its prompts are not among the answers here" in finding.text for finding in found] == [True]
    assert bad()[-1].text.endswith(" checked, 1 not")


# ---- the command --------------------------------------------------------------------------------


def test_a_dataset_without_features_is_said(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("doctor", "--leaks", "--dataset=tiny") == 2
    assert "holds no semantic files yet" in capsys.readouterr().err


def test_settings_of_something_else_are_refused(featured: Path) -> None:
    with pytest.raises(UserError, match="--epochs: doctor --leaks takes only settings that say how"):
        examine_leaks("tiny", None, "dataset", {"epochs": 3})


def test_the_doctor_takes_settings_with_leaks_alone(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("doctor", "--dataset=tiny", "--rm_dup_inter=first") == 2
    assert "--rm_dup_inter: doctor takes settings with --leaks alone" in capsys.readouterr().err
