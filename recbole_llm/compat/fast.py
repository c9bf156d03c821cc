"""Faster subclasses of RecBole's models: the same parameters, the same numbers, less work.

``accelerated(SASRec)`` returns a subclass that overrides single methods (the seams); RecBole's files are
neither copied nor changed. Models that are not listed run unchanged. The result record says which form
ran.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from recbole.model.layers import TransformerEncoder
from recbole.model.loss import EmbLoss
from torch import nn

from recbole_llm.layers.bucketing import by_length, padded
from recbole_llm.layers.causal_attention import encode_all, encode_last
from recbole_llm.layers.cross_entropy import linear_cross_entropy
from recbole_llm.layers.dropout import Dropout
from recbole_llm.layers.next_item import TARGETS, NextItemLoss, at_targets
from recbole_llm.layers.propagation import SparseGraph, bipartite_adjacency
from recbole_llm.layers.session_graph import session_graph
from recbole_llm.settings.core import NextItemSettings


class Bucketed:
    """Encodes a batch in groups of similar length; for models that treat rows independently."""

    reads_past_length = False

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """The model's own ``forward``, group by group."""
        return by_length(super().forward, item_seq, item_seq_len)  # type: ignore[misc]

    def states(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """The states of all positions, group by group; zero beyond a group's longest row."""
        return by_length(padded(super().states, item_seq.shape[1]), item_seq, item_seq_len)  # type: ignore[misc]


class CheapDropout:
    """Makes dropout layers draw their masks four elements at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():  # type: ignore[attr-defined]
            if type(module) is nn.Dropout:
                module.__class__ = Dropout


class RegulariserOnDevice:
    """Starts RecBole's embedding norm from a zero made on the device; RecBole copies one there in each step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():  # type: ignore[attr-defined]
            if type(module) is EmbLoss:
                module.__class__ = _EmbLossOnDevice


class _EmbLossOnDevice(EmbLoss):
    def forward(self, *embeddings: torch.Tensor, require_pow: bool = False) -> torch.Tensor:
        norms = [torch.norm(each, p=self.norm) for each in embeddings]
        total = embeddings[-1].new_zeros(1)
        for norm in norms:
            total = total + (norm**self.norm if require_pow else norm)
        total = total / len(embeddings[-1])
        return total / self.norm if require_pow else total


_EVERY = "every"


class LastPosition:
    """Makes transformer encoders compute their last layer only at the position that is read.

    The model's ``forward`` tells the encoder the position. The encoder returns that one state at every
    position, so that the model's own ``gather_indexes`` finds it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():  # type: ignore[attr-defined]
            if type(module) is TransformerEncoder:
                module.__class__ = _LastPositionEncoder

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """The model's own ``forward``, after telling its encoders which position is read."""
        with self._encoders_told(item_seq_len - 1):
            return super().forward(item_seq, item_seq_len)  # type: ignore[misc]

    def states(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """The states of all positions, after telling the encoders that all are read."""
        with self._encoders_told(_EVERY):
            return super().states(item_seq, item_seq_len)  # type: ignore[misc]

    @contextmanager
    def _encoders_told(self, read: torch.Tensor | str) -> Iterator[None]:
        encoders = [m for m in self.modules() if isinstance(m, _LastPositionEncoder)]  # type: ignore[attr-defined]
        for encoder in encoders:
            encoder.read = read
        try:
            yield
        finally:
            for encoder in encoders:
                encoder.read = None


class _LastPositionEncoder(TransformerEncoder):
    """RecBole's encoder with the attribute ``read``, the positions to compute while a model's ``forward`` runs."""

    read: torch.Tensor | str | None = None

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, output_all_encoded_layers: bool = True
    ) -> list[torch.Tensor]:
        if self.read is None:
            return super().forward(hidden_states, attention_mask, output_all_encoded_layers)
        if isinstance(self.read, str):
            return [encode_all(self.layer, hidden_states)]
        output = encode_last(self.layer, hidden_states, self.read)
        return [output[:, None].expand_as(hidden_states)]


class VectorisedGraph:
    """Session graphs in tensor code instead of a Python loop (SRGNN: four tensors)."""

    def _get_slice(self, item_seq: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return session_graph(item_seq)


class VectorisedGraphWithoutMask:
    """Session graphs in tensor code for GCSAN, which takes no mask."""

    def _get_slice(self, item_seq: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return session_graph(item_seq)[:3]


class FusedLoss:
    """Softmax loss over all items without building the score matrix; for models whose score is a dot product."""

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The loss of a batch; losses other than softmax are left to the model."""
        model: Any = self
        if model.loss_type != "CE":
            return super().calculate_loss(interaction)  # type: ignore[misc]
        output = model.forward(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN])
        return linear_cross_entropy(output, model.item_embedding.weight, interaction[model.POS_ITEM_ID])


class FusedLossWithEmbeddingNorm(FusedLoss):
    """:class:`FusedLoss` for GCSAN, which adds the norm of the item embeddings."""

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The loss of a batch."""
        model: Any = self
        if model.loss_type != "CE":
            return super().calculate_loss(interaction)
        return super().calculate_loss(interaction) + model.reg_weight * model.reg_loss(model.item_embedding.weight)


class EveryPosition:
    """Adds ``states`` of all positions to a model whose ``forward`` ends in ``gather_indexes``."""

    _gathers = True

    def states(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, L, d)``: after each item, what ``forward`` would give if the history ended there."""
        self._gathers = False
        try:
            return super().forward(item_seq, item_seq_len)  # type: ignore[misc]
        finally:
            self._gathers = True

    def gather_indexes(self, output: torch.Tensor, gather_index: torch.Tensor) -> torch.Tensor:
        """One position of each row, or all of them."""
        return super().gather_indexes(output, gather_index) if self._gathers else output  # type: ignore[misc]


class NextItem(FusedLoss):
    """Trains with the losses of ``layers/next_item.py``, at every position if a batch has targets there."""

    every_position = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)  # type: ignore[call-arg]
        self.next_item_loss = next_item_loss(config, dataset)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The loss of a batch; a pairwise loss is left to the model."""
        model: Any = self
        if model.loss_type != "CE":
            return super().calculate_loss(interaction)
        history = interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN]
        if TARGETS in interaction:
            hidden, target = at_targets(model.states(*history), interaction)
        else:
            hidden, target = model.forward(*history), interaction[model.POS_ITEM_ID]
        loss: torch.Tensor = model.next_item_loss(hidden, model.item_embedding.weight, target)
        return loss


def next_item_loss(config: Any, dataset: Any) -> NextItemLoss:
    """The loss that a model's settings ask for, with item counts from training if negatives go by popularity."""
    settings = NextItemSettings.of(config)
    counts = None
    if settings.negatives_by == "popularity":
        trained = torch.from_numpy(np.asarray(dataset.table.item[dataset.split.train_rows], dtype=np.int64))
        counts = torch.bincount(trained, minlength=dataset.item_num)
    return NextItemLoss(
        settings.objective or "softmax",  # a user's own class may lack these settings
        dataset.item_num,
        settings.n_negatives or 1,
        bool(settings.shared_negatives),
        counts,
        bool(settings.log_q),
        settings.calibration or 0.0,
    )


class CompressedGraph:
    """Propagation over compressed rows, and an adjacency matrix built without a dictionary of edges.

    NGCF with ``node_dropout`` runs unchanged, because it drops other edges of the matrix in each pass.
    """

    def get_norm_adj_mat(self) -> Any:
        """The normalised adjacency matrix, where RecBole's constructor asks for it."""
        model: Any = self
        if getattr(model, "node_dropout", 0):
            model.seams = ()  # the record then says that none of them ran
            return super().get_norm_adj_mat()  # type: ignore[misc]
        pairs = model.interaction_matrix
        matrix = bipartite_adjacency(pairs.row, pairs.col, model.n_users, model.n_items)
        return SparseGraph(matrix, symmetric=True)


_SEAMS: dict[str, tuple[type, ...]] = {
    "sequential_recommender.sasrec:SASRec": (NextItem, Bucketed, CheapDropout, LastPosition, EveryPosition),
    "sequential_recommender.sasrecf:SASRecF": (FusedLoss, Bucketed, CheapDropout, LastPosition),
    "sequential_recommender.fdsa:FDSA": (FusedLoss, Bucketed, CheapDropout, LastPosition),
    "sequential_recommender.gcsan:GCSAN": (
        FusedLossWithEmbeddingNorm,
        RegulariserOnDevice,
        Bucketed,
        CheapDropout,
        LastPosition,
        VectorisedGraphWithoutMask,
    ),
    "sequential_recommender.srgnn:SRGNN": (FusedLoss, Bucketed, VectorisedGraph),
    "sequential_recommender.gru4rec:GRU4Rec": (NextItem, Bucketed, CheapDropout, EveryPosition),
    "sequential_recommender.gru4recf:GRU4RecF": (FusedLoss, Bucketed, CheapDropout),
    "sequential_recommender.narm:NARM": (FusedLoss, Bucketed, CheapDropout),
    "general_recommender.lightgcn:LightGCN": (CompressedGraph, RegulariserOnDevice),
    "general_recommender.ngcf:NGCF": (CompressedGraph,),
}


def seams_of(model_class: type) -> tuple[type, ...]:
    """The overrides for a RecBole class; empty for classes that run unchanged."""
    module = model_class.__module__.removeprefix("recbole.model.")
    return _SEAMS.get(f"{module}:{model_class.__name__}", ())


@cache
def accelerated(model_class: type) -> type:
    """The faster subclass of a RecBole model class, or the class itself."""
    seams = seams_of(model_class)
    if not seams:
        return model_class
    return type(model_class.__name__, (*seams, model_class), {"__module__": model_class.__module__, "seams": seams})


def can_trim(model: Any) -> bool:
    """Whether a model never reads past a row's length, so that histories need no padding to full length."""
    return getattr(model, "reads_past_length", True) is False
