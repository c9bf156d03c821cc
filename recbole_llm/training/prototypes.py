"""Training of NCL, which finds prototypes of users and items anew while it trains (arXiv 2202.06200)."""

from __future__ import annotations

from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.training.trainer import BenchTrainer


class PrototypeTrainer(BenchTrainer):
    """The E-step every ``m_step`` epochs, and the loss of prototypes from epoch ``warm_up_step`` on.

    RecBole's own trainer for NCL (trainer/trainer.py:1287) has a loop that validates, saves and stops by itself.

    Raises:
        UserError: the dataset has fewer users or items than prototypes.
    """

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        wanted, most = int(config["num_clusters"]), min(model.n_users, model.n_items)
        if wanted > most:
            raise UserError(
                f"num_clusters={wanted}: NCL finds as many prototypes of users and of items, and this dataset has room "
                f"for {most}. Give fewer, such as --num_clusters={max(1, most // 10)}."
            )

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float | tuple[float, ...]:
        if epoch_idx % int(self.config["m_step"]) == 0:
            self.model.e_step()
        warm = epoch_idx >= int(self.config["warm_up_step"])

        def losses(batch: Any) -> Any:
            found = self.model.calculate_loss(batch)
            return found if warm else found[:-1]

        # A loss function is given even when it is the model's: recorded steps would keep the first prototypes.
        return super()._train_epoch(train_data, epoch_idx, loss_func or losses, show_progress)
