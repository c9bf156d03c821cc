"""Which settings determine how a dataset is read."""

from __future__ import annotations

from recbole.utils.argument_list import dataset_arguments

from recbole_llm.features.reading import READING
from recbole_llm.settings.core import CoreSettings

OF_MODELS = {"MAX_ITEM_LIST_LENGTH", "NEG_PREFIX", "ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "POSITION_FIELD"}


def test_they_are_all_of_recboles_data_settings() -> None:
    assert {*dataset_arguments} - {*READING} == OF_MODELS


def test_they_are_all_that_the_core_lists_of_data_and_protocol() -> None:
    names = [*CoreSettings.model_fields]
    listed = {*names[names.index("load_col") : names.index("engine")]}
    others = {"seq_len", "MAX_ITEM_LIST_LENGTH", "about", "raw", "text", "mask_history"}
    assert listed - {*READING} == others - {*READING}
