"""How labels name the settings in which rows of one model differ."""

from __future__ import annotations

from typing import Any

from recbole_llm.settings.definitions import definitions_of_name
from recbole_llm.settings.differences import by_preset, differences

SASREC = definitions_of_name("SASRec", None)
FILE = "properties/preset/SASRec-sampled.yaml"


def labels(rows: list[dict[str, Any]], chosen: list[tuple[str | None, dict[str, str]]]) -> list[str]:
    return differences(by_preset(rows, chosen), SASREC)


def test_a_preset_stands_for_its_settings() -> None:
    rows = [{"n_layers": 2, "n_heads": 2, "hidden_size": 64}, {"n_layers": 1, "n_heads": 1, "hidden_size": 128}]
    origin = dict.fromkeys(rows[1], FILE)
    assert labels(rows, [(None, {}), ("sampled", origin)]) == ["", " [preset=sampled]"]


def test_what_was_given_beside_a_preset_is_named() -> None:
    rows = [{"n_layers": 1, "n_heads": 1}, {"n_layers": 1, "n_heads": 4}, {"n_layers": 3, "n_heads": 2}]
    whole = {"n_layers": FILE, "n_heads": FILE}
    chosen: list[tuple[str | None, dict[str, str]]]
    chosen = [("sampled", whole), ("sampled", whole | {"n_heads": "command line"}), (None, {})]
    assert labels(rows, chosen) == [" [preset=sampled]", " [preset=sampled, n_heads=4]", " [n_heads=2]"]


def test_a_name_that_stands_for_two_things_is_not_used() -> None:
    rows = [{"n_layers": 1}, {"n_layers": 2}, {"n_layers": 3}]
    chosen: list[tuple[str | None, dict[str, str]]]
    chosen = [("paper", {"n_layers": FILE}), ("paper", {"n_layers": FILE}), (None, {})]
    assert labels(rows, chosen) == [" [n_layers=1]", " [n_layers=2]", " [n_layers=3]"]


def test_the_values_of_a_preset_decide_nothing_for_the_other_rows() -> None:
    rows = [{"train_batch_size": size} for size in (2048, 512, 768, 768)]
    chosen: list[tuple[str | None, dict[str, str]]]
    chosen = [(None, {}), (None, {}), ("sampled", {"train_batch_size": FILE}), ("paper", {"train_batch_size": FILE})]
    assert labels(rows, chosen) == [
        " [train_batch_size=2048]",
        " [train_batch_size=512]",
        " [preset=sampled]",
        " [preset=paper]",
    ]


def test_rows_of_one_preset_name_no_preset() -> None:
    rows = [{"n_layers": 1, "n_heads": heads} for heads in (1, 2)]
    assert labels(rows, [("sampled", {"n_layers": FILE})] * 2) == [" [n_heads=1]", " [n_heads=2]"]


def test_names_in_a_list_stand_as_a_command_line_takes_them() -> None:
    rows: list[dict[str, Any]] = [{"text_columns": ["title_text"]}, {"text_columns": ["title_text", "profile_text"]}]
    texts = [" [text_columns=title_text]", " [text_columns=title_text,profile_text]"]
    assert labels(rows, [(None, {})] * 2) == texts
