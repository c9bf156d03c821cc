"""``--engine=recbole``: RecBole's own loaders, training loop and evaluator, over the same split.

Ranks are also counted by our own code, so that records are comparable and the two evaluators check each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from recbole.utils import get_trainer

from recbole_llm.data.loaders import EvalLoader
from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import parse_metric
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.training.lists import TopLists
from recbole_llm.training.loaders import recbole_loaders
from recbole_llm.training.ranking import rank_cases


class ReferenceTrainer:
    """RecBole's trainer with the results that a record needs.

    Raises:
        UserError: the model learns in stages, or from batches of its own, which RecBole's loop would ignore.

    Attributes:
        test_metrics: of RecBole's evaluator on the test part, after :meth:`fit`.
        curve: loss of each epoch, and the validation score of those that were validated.
    """

    def __init__(self, prepared: Any, folder: Path) -> None:
        if hasattr(prepared.model, "enter_stage") or hasattr(prepared.model, "train_loader"):
            raise UserError(
                f"--engine=recbole: {prepared.config['model']} learns in stages or from batches of its own, which "
                "RecBole's loop does not know; take --engine=fast."
            )
        self.prepared = prepared
        config = prepared.config
        config["checkpoint_dir"] = str(folder)
        # RecBole's loaders mask histories for general models only; rank() follows mask_history for all models alike.
        self.train, self.valid, self.test = recbole_loaders(config, prepared.dataset)
        self.trainer = self._recbole_trainer()
        self.folder = folder
        self.trainer.saved_model_file = str(folder / "best_so_far.pt")
        self.curve: list[dict[str, Any]] = []
        self.test_metrics: dict[str, float] = {}
        self.best_epoch = -1
        self.best_valid_result: dict[str, float] | None = None

    def _recbole_trainer(self) -> Any:
        """RecBole's trainer, built with the validation metric added: its evaluator must compute it to choose epochs."""
        config = self.prepared.config
        name, cut = parse_metric(config["valid_metric"])
        given = {key: config[key] for key in ("metrics", "topk")}
        config["metrics"] = [*given["metrics"], *({name} - {metric.lower() for metric in given["metrics"]})]
        config["topk"] = sorted({*given["topk"], cut})
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, self.prepared.model)
        for key, value in given.items():
            config[key] = value
        return trainer

    def fit(self) -> None:
        """Train with RecBole's loop, load the best weights, evaluate with RecBole's evaluator."""
        config = self.prepared.config
        metric = config["valid_metric"].lower()
        best, scores = float("-inf"), dict[int, float]()

        def note(epoch: int, score: float) -> None:
            nonlocal best
            if score >= best:
                best, self.best_epoch = score, epoch + 1
            scores[epoch] = float(score)

        _, result = self.trainer.fit(
            self.train, self.valid, verbose=False, saved=True, show_progress=False, callback_fn=note
        )
        for epoch, loss in self.trainer.train_loss_dict.items():
            valid = {"valid": {metric: scores[epoch]}} if epoch in scores else {}  # with eval_step > 1 not every epoch
            self.curve.append({"epoch": epoch + 1, **valid, "loss": float(loss)})
        self.best_valid_result = {k: float(v) for k, v in (result or {}).items()}
        found = self.trainer.evaluate(self.test, load_best_model=True, show_progress=False)
        self.test_metrics = {name: float(value) for name, value in found.items()}

    def keep(self) -> None:
        """Rename the best weights to ``best.pt``; until then an older run's weights keep that name."""
        Path(self.trainer.saved_model_file).replace(self.folder / "best.pt")

    def rank(
        self, eval_data: EvalLoader, title: str = "ranking", lists: TopLists | None = None, count_pools: bool = False
    ) -> Ranks:
        """Ranks of ``eval_data`` from the model's scores, counted by our own code."""
        config = self.prepared.config
        self.prepared.model.eval()
        with torch.no_grad():
            return rank_cases(
                self.prepared.model,
                eval_data,
                bool(config["mask_history"]),
                int(config["score_block_mib"]),
                lists=lists,
                count_pools=count_pools,
            )
