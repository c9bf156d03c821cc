"""All fixes that RecBole 1.2 needs for today's numpy, pandas, scipy and torch.

``apply()`` applies each fix once; later calls do nothing. The import of RecBole calls it (``compat/__init__.py``).
Each fix is one function whose docstring says what breaks and where (file and line of RecBole 1.2.1). Nothing
here changes what RecBole computes with the versions that it was written for, with three exceptions: anomaly
detection is switched off, denormal numbers count as zero, and ``Pop`` counts each interaction.

``recbole.quick_start`` is never imported: in 1.2.1 it needs a version of Ray that can no longer be installed.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from recbole_llm.compat.similar_items import similar_items

_applied = False


def apply() -> None:
    """Apply all fixes to RecBole; safe to call any number of times."""
    global _applied
    if _applied:
        return
    restore_numpy_aliases()
    restore_dok_update()
    restore_series_agg_len()
    import recbole.trainer  # noqa: F401 - the import needs the aliases above

    keep_anomaly_detection_off()
    flush_denormals()
    repair_read_csv()
    repair_fill_nan()
    repair_readonly_arrays()
    repair_checkpoints()
    keep_tensorboard_off()
    repair_collector()
    repair_pop()
    repair_item_knn()
    _applied = True


def restore_numpy_aliases() -> None:
    """Restore the names that numpy 1.24 and 2.0 removed and RecBole uses.

    ``np.float_`` and friends in config/configurator.py:625-635; ``np.float`` in evaluator/metrics.py:90,
    data/interaction.py:31 and data/dataset/dataset.py:652; ``np.bool`` in metrics.py:287 (numpy 1.24-1.26).
    """
    removed: dict[str, Any] = {
        "float_": np.float64,
        "complex_": np.complex128,
        "unicode_": np.str_,
        "float": float,
        "int": int,
        "bool": np.bool_,
        "long": np.int_,
    }
    for name, value in removed.items():
        if name not in np.__dict__:
            setattr(np, name, value)


def restore_dok_update() -> None:
    """Restore ``dok_matrix._update``, removed in scipy 1.13, with which the graph models fill their matrix.

    general_recommender/lightgcn.py:111, ngcf.py:110, gcmc.py:174, spectralcf.py:123, ncl.py:131,
    knowledge_aware_recommender/kgin.py:356, mcclk.py:425. ``update`` is no replacement: it raises.
    """
    from scipy.sparse import dok_matrix

    if hasattr(dok_matrix, "_update"):
        return

    def _update(self: Any, data: dict[tuple[int, int], Any]) -> None:
        self._dict.update(data)

    dok_matrix._update = _update


def restore_series_agg_len() -> None:
    """Make ``Series.agg(len)`` on lists return the length of each list again, not that of the series.

    pandas 3 calls the function on the whole series. data/dataset/dataset.py:712,792,809,1217,
    kg_dataset.py:309 and sequential_dataset.py:165 need lengths row by row; without them every file with
    a ``token_seq`` column crashes. Only this one call on object columns is changed.
    """
    import pandas as pd

    if not np.isscalar(pd.Series([[1, 2], [3]], dtype=object).agg(len)):
        return  # this version of pandas does it row by row, or an earlier call has patched it
    original = pd.Series.agg

    def agg(self: Any, func: Any = None, axis: Any = 0, *args: Any, **kwargs: Any) -> Any:
        if func is len and self.dtype == object:
            return self.map(len)
        return original(self, func, axis, *args, **kwargs)

    pd.Series.agg = agg  # type: ignore[method-assign,assignment]


def keep_anomaly_detection_off() -> None:
    """Undo the anomaly detection of autograd that importing RecBole's sequential models switches on.

    sequential_recommender/sine.py:25 does so for the whole process. It costs half of the training time
    of every sequential model and changes no number. The user's own earlier setting is kept.
    """
    import torch

    before = torch.is_anomaly_enabled()
    import recbole.model.sequential_recommender  # noqa: F401

    torch.autograd.set_detect_anomaly(before)


def flush_denormals() -> None:
    """Treat numbers below 1e-38 as zero, because a CPU takes a hundred times as long to multiply them.

    Attention that grows sharp and optimizer moments that decay produce many of them, so that epochs get slower
    and slower: ComiRecSA's fifth epoch took twice as long as its first. Threads inherit the setting from the thread
    that starts them, so it must be made here, before torch has started any.
    """
    import torch

    torch.set_flush_denormal(True)


def repair_read_csv() -> None:
    """Make missing values of sequence columns empty again, and read files with the C parser.

    data/dataset/dataset.py:501 fills a column in place, which pandas 3 turns into a no-op; the next line
    then fails on ``nan.split``. The Python parser that RecBole asks for is twenty times slower. Both are
    fixed where RecBole calls ``pd.read_csv``, by replacing the name ``pd`` in that module.
    """
    import pandas as pd
    import recbole.data.dataset.dataset as module

    if isinstance(module.pd, _Pandas):
        return

    def read_csv(path: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("engine") == "python" and len(kwargs.get("delimiter") or "\t") == 1:
            kwargs["engine"] = "c"
        frame = pd.read_csv(path, *args, **kwargs)
        sequences = {name: "" for name in frame.columns if str(name).endswith(("token_seq", "float_seq"))}
        return frame.fillna(sequences) if sequences else frame

    module.pd = _Pandas(pd, read_csv)


class _Pandas(types.ModuleType):
    """pandas with another ``read_csv``."""

    def __init__(self, pandas: types.ModuleType, read_csv: Any) -> None:
        super().__init__("pandas")
        self._pandas, self.read_csv = pandas, read_csv

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pandas, name)


def repair_fill_nan() -> None:
    """Make ``Dataset._fill_nan`` fill missing values again.

    data/dataset/dataset.py:648,650 fill columns in place, a silent no-op in pandas 3: a missing token
    becomes the index INT64_MIN, a missing float makes the loss NaN, both without an error.
    """
    from recbole.data.dataset import Dataset
    from recbole.utils import FeatureType

    def _fill_nan(self: Any) -> None:
        for feat_name in self.feat_name_list:
            feat = getattr(self, feat_name)
            for name in feat:
                kind = self.field2type[name]
                if kind == FeatureType.TOKEN:
                    feat[name] = feat[name].fillna(0)
                elif kind == FeatureType.FLOAT:
                    feat[name] = feat[name].fillna(feat[name].mean())
                else:
                    dtype = np.int64 if kind == FeatureType.TOKEN_SEQ else np.float64
                    empty = np.array([], dtype=dtype)
                    feat[name] = [empty if isinstance(value, float) else value for value in feat[name].values]

    Dataset._fill_nan = _fill_nan


def repair_readonly_arrays() -> None:
    """Make tensors from writable arrays.

    With copy-on-write, ``Series.values`` is read-only; data/dataset/dataset.py:2202 passes it to torch, which
    warns of undefined behaviour.
    """
    from recbole.data.dataset import Dataset

    original = Dataset._dataframe_to_interaction
    if hasattr(original, "writes_copies"):
        return

    class _Writable:
        def __init__(self, frame: Any) -> None:
            self.frame = frame

        def __iter__(self) -> Any:
            return iter(self.frame)

        def __getitem__(self, name: str) -> Any:
            return types.SimpleNamespace(values=self.frame[name].to_numpy(copy=True))

    def _dataframe_to_interaction(self: Any, data: Any) -> Any:
        return original(self, _Writable(data))

    _dataframe_to_interaction.writes_copies = True  # type: ignore[attr-defined]
    Dataset._dataframe_to_interaction = _dataframe_to_interaction


def repair_checkpoints() -> None:
    """Write only tensors and plain values to RecBole's checkpoints, so that they load with ``weights_only=True``.

    trainer/trainer.py:132 and 760 pickle the whole ``Config``; trainer.py:323,583 then fail on torch 2.6 and
    later, whose ``torch.load`` refuses foreign classes. Loading with ``weights_only=False`` would run code from
    the file, so the writing side is fixed: the config is reduced to the names of its model and dataset.
    """
    import recbole.trainer.trainer as module

    if isinstance(module.torch, _Torch):
        return
    module.torch = _Torch(module.torch)


class _Torch(types.ModuleType):
    """torch, but ``save`` writes no object that ``torch.load(weights_only=True)`` would refuse."""

    def __init__(self, torch: types.ModuleType) -> None:
        super().__init__("torch")
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def save(self, state: Any, file: Any, **kwargs: Any) -> None:
        if isinstance(state, dict) and "config" in state:
            config = state["config"]
            plain = {"model": str(config["model"]), "dataset": str(config["dataset"])}
            other = {k: v for k, v in (state.get("other_parameter") or {}).items() if _is_plain(v)}
            state = {**state, "config": plain, "other_parameter": other}
            state = {k: v.item() if isinstance(v, np.generic) else v for k, v in state.items()}
        # RecBole asks for pickle protocol 4, whose framing the safe loader does not know.
        self._torch.save(state, file, **{k: v for k, v in kwargs.items() if k != "pickle_protocol"})


def _is_plain(value: Any) -> bool:
    """Whether a value survives ``torch.load(weights_only=True)``; modules are in the state dict anyway."""
    import torch

    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor))


def keep_tensorboard_off() -> None:
    """Stop RecBole's trainer from opening a TensorBoard log for every run.

    trainer/trainer.py:116 names the log after the second, so that runs which start together share one.
    ``tensorboard: True`` gives each run a log of its own (``training/trainer.py``).
    """
    import recbole.trainer.trainer as module

    module.get_tensorboard = lambda logger: _NoTensorboard()


class _NoTensorboard:
    """Accepts the calls that RecBole's trainers make, without effect."""

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Drop a point of a curve."""

    def add_hparams(self, *args: Any, **kwargs: Any) -> None:
        """Drop hyper-parameters."""


def repair_collector() -> None:
    """Make a second ``evaluate`` with ItemCoverage, AveragePopularity, GiniIndex or TailPercentage work.

    evaluator/collector.py:227 (1.2.1) calls ``.cpu()`` on everything collected, including counters and integers.
    """
    import torch
    from recbole.evaluator.collector import Collector

    original = Collector.get_data_struct
    if hasattr(original, "keeps_counters"):
        return

    def get_data_struct(self: Any) -> Any:
        data = self.data_struct._data_dict
        aside = {name: data.pop(name) for name in list(data) if not isinstance(data[name], torch.Tensor)}
        struct = original(self)
        struct._data_dict.update(aside)
        self.data_struct._data_dict.update(aside)
        return struct

    get_data_struct.keeps_counters = True  # type: ignore[attr-defined]
    Collector.get_data_struct = get_data_struct


def repair_pop() -> None:
    """Make ``Pop`` count every interaction.

    general_recommender/pop.py:42 adds one by index assignment, so an item that occurs a hundred times in a
    batch counts once: with batches of 2,048 the most popular items of ml-100k all tie. (It also counts the
    sampled negatives; ``properties/model/Pop.yaml`` turns the sampling off.)
    """
    import torch
    from recbole.model.general_recommender import Pop

    def calculate_loss(self: Any, interaction: Any) -> Any:
        item = interaction[self.ITEM_ID]
        self.item_cnt.index_add_(0, item, torch.ones_like(item)[:, None])
        self.max_cnt = torch.max(self.item_cnt, dim=0)[0]
        return torch.nn.Parameter(torch.zeros(1)).to(self.device)

    Pop.calculate_loss = calculate_loss


def repair_item_knn() -> None:
    """Make ``ItemKNN`` compute the scores that are asked for, and similarities of items that share a user.

    general_recommender/itemknn.py:184 keeps the scores of all users as lists of Python numbers, some 30 GB for 300,000
    users with 16 items each, and checkpoints hold them too. itemknn.py:47 compares all pairs of items one item at a
    time; the similarities are the same here (``similar_items.py``).
    """
    import recbole.model.general_recommender.itemknn as module
    import torch

    def built(self: Any, config: Any, dataset: Any) -> None:
        super(module.ItemKNN, self).__init__(config, dataset)
        self.k = config["k"]
        self.shrink = config["shrink"] or 0.0
        self.interaction_matrix = dataset.inter_matrix(form="csr").astype(np.float32)
        self.w = similar_items(self.interaction_matrix, self.k, self.shrink).tocsr()
        self.fake_loss = torch.nn.Parameter(torch.zeros(1))
        self.other_parameter_name = ["w"]

    def scores(self: Any, interaction: Any) -> Any:
        return self.interaction_matrix[interaction[self.USER_ID].cpu().numpy()] @ self.w

    def predict(self: Any, interaction: Any) -> Any:
        found = scores(self, interaction)
        pairs = enumerate(interaction[self.ITEM_ID].tolist())
        return torch.tensor([found[pair] for pair in pairs], dtype=torch.float32, device=self.device)

    def full_sort_predict(self: Any, interaction: Any) -> Any:
        return torch.from_numpy(scores(self, interaction).toarray().ravel()).to(self.device)

    module.ItemKNN.__init__ = built
    module.ItemKNN.predict, module.ItemKNN.full_sort_predict = predict, full_sort_predict
