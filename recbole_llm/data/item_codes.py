"""Adds a column of text clusters to the columns of ``.item``, for RecBole models that read item features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_llm.data.interactions import PAD_TOKEN
from recbole_llm.registry import TEXT_CODE


def add_item_codes(dataset: Any, codes: torch.Tensor | None) -> None:
    """Add the token column ``text_code`` to a dataset's items; users, items and interactions do not change.

    Args:
        dataset: from ``make_dataset``, before its training part is taken.
        codes: ``(n_items + 1,)`` cluster numbers from 0; ``None`` puts all items into one cluster, which is
            uninformative.
    """
    numbers = np.zeros(dataset.item_num, dtype=np.int64) if codes is None else codes.numpy().astype(np.int64)
    column = numbers + 1
    column[0] = 0
    if dataset.item_feat is None:
        dataset.item_feat = pd.DataFrame({dataset.iid_field: np.arange(dataset.item_num)})
        dataset.feat_name_list.append("item_feat")
    dataset.set_field_property(TEXT_CODE, FeatureType.TOKEN, FeatureSource.ITEM, 1)
    dataset.field2id_token[TEXT_CODE] = np.array([PAD_TOKEN, *map(str, range(int(numbers.max()) + 1))])
    dataset.field2token_id[TEXT_CODE] = {token: n for n, token in enumerate(dataset.field2id_token[TEXT_CODE])}
    dataset.item_feat[TEXT_CODE] = column
