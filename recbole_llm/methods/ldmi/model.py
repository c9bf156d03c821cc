"""LDMI: LLM-Driven Dual-Level Multi-Interest Modeling for Recommendation (arXiv 2507.10917; ACL Findings 2026).

User-individual level. Capsule routing gives collaborative interests ``V = {v_k}``. The LLM divides the history freely
(``.interest``), which gives semantic clusters ``g_m``, each the mean of the item vectors at its positions. The
alignment module assigns clusters to interests, so that their granularity adapts to behaviour:

     a_{m,k} = softmax_k(W_k g_m . W_q v_k / sqrt(d)),   h_k = sum_m a_{m,k} W_v g_m / sum_m a_{m,k}
     z_k = v_k + gamma_k s LayerNorm(h_k),   gamma_k = sigmoid(w . [v_k ; h_k])

LayerNorm gives vectors of length ``sqrt(d)``; capsules are shorter than ``interest_scale``. The factor ``s`` is learned
and starts at ``interest_scale / sqrt(d)``. Without it (``cluster_scale: own``) the clusters would dominate the scores.

User-crowd level. Cliques of similar users, chosen by maximum coverage, become synthesised users, whose items the LLM
divides too (``.synuser``). With ``p_{g,m}`` the mean vector of cluster ``m`` of synthesised user ``g``:

     L_A: pulls each item to its own cluster (without itself), away from the same user's other clusters
     L_B: pulls the interest read out for target ``t`` to a cluster that holds ``t``, away from other clusters
     L = L_rec + lambda (L_A [+ L_B])

Known from the sources: the LLM's clusters, the alignment, synthesised users by a max covering problem, contrast among
interests, capsules with a fixed K. Reconstructed, since no code and no equations could be found: the forms of the
alignment, its scale, the gate, the cliques, L_A and L_B; each has a switch. A position without a cluster forms one of
its own; a history without any cluster gives ``z = v``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llm.errors import UserError
from recbole_llm.layers.alignment import cross_entropy_where
from recbole_llm.layers.text_bag import InteractionKeys
from recbole_llm.layers.waits import at_hand
from recbole_llm.methods.baselines.comirec import ComiRecDR
from recbole_llm.methods.ldmi.settings import LDMISettings


def cluster_means(
    items: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean vectors of the clusters of each row.

    Args:
        items: ``(B, L, d)``.
        labels: ``(B, L)`` any integers; equal labels in a row form a cluster.
        mask: ``(B, L)`` bool, true at items.

    Returns:
        Means ``(B, L, d)`` (at most ``L`` clusters), sizes ``(B, L)``, and the cluster of each position ``(B, L)``.
    """
    keyed = labels.masked_fill(~mask, torch.iinfo(labels.dtype).max)
    ascending, order = keyed.sort(dim=1)
    new = torch.zeros_like(ascending)
    new[:, 1:] = (ascending[:, 1:] != ascending[:, :-1]).long()
    number = torch.empty_like(labels).scatter_(1, order, new.cumsum(1))
    member = mask.to(items.dtype)
    sizes = torch.zeros_like(member).scatter_add_(1, number, member)
    sums = torch.zeros_like(items).scatter_add_(1, number[:, :, None].expand_as(items), items * member[:, :, None])
    return sums / sizes.clamp(min=1.0)[:, :, None], sizes, number


class Crowd(NamedTuple):
    """``G`` synthesised users with up to ``T`` items each, and so up to ``T`` clusters.

    Attributes:
        items: ``(G, T)`` ids, 0 padded.
        vectors: ``(G, T, d)`` item vectors.
        means: ``(G, T, d)``, ``p``: mean vector of each cluster.
        sizes: ``(G, T)`` number of items in each cluster; 0 where there is no cluster.
        number: ``(G, T)`` the cluster of each item.
    """

    items: torch.Tensor
    vectors: torch.Tensor
    means: torch.Tensor
    sizes: torch.Tensor
    number: torch.Tensor


class LDMI(ComiRecDR):
    """Capsule interests aligned with the LLM's clusters, and contrast over synthesised users.

    Settings besides ComiRecDR's: ``align``, ``clusters`` (``llm``; as controls ``items``, one for each item, or
    ``history``, one for all items), ``align_softmax`` (``interest``, or ``cluster``: ordinary cross-attention),
    ``gate`` (``sigmoid``, ``one``, ``zero``), ``cluster_scale``, ``cluster_text``, ``contrast`` (``item``: L_A,
    ``real``: L_B, ``both``, ``none``), ``contrast_weight``, ``temperature``, ``synthesised_per_step``, and the
    features' settings.

    With ``align: False`` (or ``gate: zero``) and ``contrast_weight: 0`` it equals ComiRecDR with the same
    ``routing_transform``: the same numbers from the same seed.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = LDMISettings.of(config)
        self.gate, self.contrast = settings.gate, settings.contrast
        self.divided_by = settings.clusters
        self.over_clusters = settings.align_softmax == "cluster"
        self.contrast_weight = settings.contrast_weight
        self.temperature = settings.temperature
        self.n_synthesised = settings.synthesised_per_step
        features = dataset.semantics
        self.aligned = settings.aligns and features is not None
        self.contrasts = settings.contrasts and features is not None
        if self.aligned and config["transform"]:
            raise UserError(
                f"transform={config['transform']}: LDMI finds the clusters of a history by position, which a "
                "transform changes; leave out the transform, or the clusters (--align=False)."
            )
        if self.aligned:
            self.keys = InteractionKeys(features.user_offsets())
            self.register_buffer("labels", features.row_labels("interest", "interest_id"), persistent=False)
            self.query, self.key, self.value = (nn.Linear(self.size, self.size, bias=False) for _ in range(3))
            self.norm = nn.LayerNorm(self.size)
            self.scale: nn.Parameter | None = None
            if settings.cluster_scale == "matched":
                self.scale = nn.Parameter(torch.tensor(self.interest_scale / self.size**0.5))
            self.gate_layer = nn.Linear(2 * self.size, 1, bias=False)
            self.text: nn.Linear | None = None
            if settings.cluster_text:
                vectors = features.text_vectors()
                self.register_buffer("vectors", vectors, persistent=False)
                self.register_buffer("text_of_row", features.row_labels("interest", "interest_text"), persistent=False)
                self.text = nn.Linear(vectors.shape[1], self.size, bias=False)
        if self.contrasts:
            items, labels = features.synthesised_users()
            self.register_buffer("synthesised_items", items, persistent=False)
            self.register_buffer("synthesised_labels", labels, persistent=False)

    # ---- user-individual level -----------------------------------------------------------------

    def history_rows(self, interaction: Any, width: int) -> torch.Tensor:
        """``(B, width)`` rows of the interactions in the batch's histories (padding: any row)."""
        user, position = interaction[self.USER_ID], interaction["position"]
        length = interaction[self.ITEM_SEQ_LEN]
        first = self.keys.offsets[user] + position - length
        return (first[:, None] + torch.arange(width, device=first.device)).clamp(max=len(self.labels) - 1)

    def align(self, capsules: torch.Tensor, item_seq: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """``Z`` ``(B, K, d)`` from the capsules ``V`` ``(B, K, d)``.

        Args:
            capsules: ``(B, K, d)``.
            item_seq: ``(B, L)`` ids.
            rows: ``(B, L)`` rows of these interactions, see :meth:`history_rows`.
        """
        items, mask = self.embedded(item_seq)
        labels = self.labels[rows]
        covered = (labels >= 0) & mask
        alone = -1 - torch.arange(labels.shape[1], device=labels.device)
        if self.divided_by == "history":
            labels = labels.clamp(max=0)
        labels = torch.where(covered & (self.divided_by != "items"), labels, alone)
        clusters, sizes, _ = cluster_means(items, labels, mask)
        if self.text is not None:
            clusters = clusters + self.cluster_text(rows, labels, mask)
        weights = self.assignment(clusters, capsules, sizes > 0)
        assigned = weights.transpose(1, 2) @ self.value(clusters) / (weights.sum(1)[:, :, None] + 1e-9)
        gamma = covered.any(dim=1)[:, None, None].to(capsules.dtype)
        if self.gate == "sigmoid":
            gamma = gamma * torch.sigmoid(self.gate_layer(torch.cat([capsules, assigned], dim=2)))
        added = self.norm(assigned)
        return capsules + gamma * (added if self.scale is None else self.scale * added)

    def assignment(self, clusters: torch.Tensor, capsules: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """``a`` ``(B, M, K)``: how much of each cluster belongs to each interest.

        Args:
            clusters: ``(B, M, d)``.
            capsules: ``(B, K, d)``.
            real: ``(B, M)`` bool, which clusters exist; the others get no weight.
        """
        scores = self.key(clusters) @ self.query(capsules).transpose(1, 2) / self.size**0.5
        if self.over_clusters:
            return scores.masked_fill(~real[:, :, None], -torch.inf).softmax(dim=1)
        return scores.softmax(dim=2) * real[:, :, None]

    def cluster_text(self, rows: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``W_t t_m`` ``(B, L, d)``: the vector of the name that the LLM gave each cluster, projected."""
        assert self.text is not None
        texts = self.text_of_row[rows]
        vectors = self.vectors[texts.clamp(min=0)] * (texts >= 0)[:, :, None]
        means, _, _ = cluster_means(vectors, labels, mask)
        return self.text(means)

    def serving_interests(self, interaction: Any) -> torch.Tensor:
        """``Z`` where there are clusters, ``V`` otherwise; ``(B, K, d)``."""
        item_seq, item_seq_len = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if not self.aligned:
            return self.interests(item_seq, item_seq_len)
        rows = self.history_rows(interaction, item_seq.shape[1])
        return self._by_length(self._aligned, item_seq, item_seq_len, rows)

    def _aligned(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self.align(self.capsules(item_seq, item_seq_len), item_seq, rows)

    # ---- user-crowd level ----------------------------------------------------------------------

    def crowd(self) -> Crowd:
        """A random sample of the synthesised users."""
        count = len(self.synthesised_items)
        chosen = torch.randperm(count, device=self.synthesised_items.device)[: self.n_synthesised]
        items, labels = self.synthesised_items[chosen], self.synthesised_labels[chosen]
        vectors, mask = self.embedded(items)
        return Crowd(items, vectors, *cluster_means(vectors, labels, mask))

    def item_contrast(self, crowd: Crowd) -> torch.Tensor:
        """``L_A``: each item against its synthesised user's clusters; its own, without the item, is the positive."""
        items, vectors, means, sizes, number = crowd
        own_size = sizes.gather(1, number)
        own = means.gather(1, number[:, :, None].expand_as(vectors))
        without = (own * own_size[:, :, None] - vectors) / (own_size - 1).clamp(min=1.0)[:, :, None]
        normal = F.normalize(vectors, dim=2)
        scores = normal @ F.normalize(means, dim=2).transpose(1, 2)
        mine = (normal * F.normalize(without, dim=2)).sum(dim=2)
        scores = scores.float().scatter(2, number[:, :, None], mine.float()[:, :, None]) / self.temperature
        scores = scores.masked_fill((sizes == 0)[:, None, :], -torch.inf)
        several = (sizes > 0).sum(dim=1, keepdim=True) > 1
        counts = (items > 0) & (own_size > 1) & several
        if not at_hand(counts):
            return cross_entropy_where(scores.flatten(0, 1), number.flatten(), counts.flatten())
        if not bool(counts.any()):
            return vectors.new_zeros(())
        return F.cross_entropy(scores[counts], number[counts])

    def real_contrast(self, user: torch.Tensor, target: torch.Tensor, crowd: Crowd) -> torch.Tensor:
        """``L_B``: the interest read out for the target against the sample's clusters.

        The first cluster that holds the target is the positive; others that hold it are left out.

        Args:
            user: ``(B, d)`` the interests.
            target: ``(B,)`` item ids.
            crowd: the sample.
        """
        items, _, means, sizes, number = crowd
        group, slots = items.shape
        flat = (torch.arange(group, device=items.device)[:, None] * slots + number).flatten()
        real = (sizes > 0).flatten()
        found = target[:, None] == items.flatten()[None, :]
        holds = torch.zeros(len(target), group * slots, device=items.device).index_add_(1, flat, found.float()) > 0
        answered = holds.any(dim=1)
        if at_hand(answered):
            if not bool(answered.any()):
                return user.new_zeros(())
            holds, user = holds[answered], user[answered]
        anchor = F.normalize(user, dim=1)
        scores = anchor @ F.normalize(means.reshape(group * slots, -1), dim=1).T / self.temperature
        right = holds.float().argmax(dim=1)
        others = holds.clone()
        others[torch.arange(len(right), device=right.device), right] = False
        scores = scores.masked_fill(others | ~real, -torch.inf)
        if at_hand(answered):
            return F.cross_entropy(scores, right)
        return cross_entropy_where(scores, right, answered)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Recommendation loss of ``Z`` plus the weighted contrast."""
        target = interaction[self.POS_ITEM_ID]
        interests = self.serving_interests(interaction)
        user = self.readout(interests, self.item_embedding(target))
        loss = self.recommendation_loss(user, target)
        if not self.contrasts:
            return loss
        crowd, contrast = self.crowd(), loss.new_zeros(())
        if self.contrast in ("item", "both"):
            contrast = contrast + self.item_contrast(crowd)
        if self.contrast in ("real", "both"):
            contrast = contrast + self.real_contrast(user, target, crowd)
        return loss + self.contrast_weight * contrast
