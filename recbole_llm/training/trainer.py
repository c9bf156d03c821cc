"""The training loop: RecBole's without its waits for the device, evaluated by ranks, with resumable checkpoints.

``make_trainer`` makes ``BenchTrainer`` a base of RecBole's special trainer for a model (``S3RecTrainer``,
``RecVAETrainer``, ...): methods that the special trainer overrides stay overridden, all others are ours.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import ModelType, calculate_valid_score, early_stopping

from recbole_llm.data.batch import LazyInteraction
from recbole_llm.data.loaders import EvalLoader, Shape, TrainLoader
from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import summarise
from recbole_llm.evaluation.names import UNCUT_METRICS
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.layers.waits import at_hand
from recbole_llm.training import checkpoint
from recbole_llm.training.lists import TopLists
from recbole_llm.training.loaders import loader_state, restore_loader
from recbole_llm.training.ranking import autocast, rank_cases
from recbole_llm.training.recorded import RecordedSteps, host_attributes
from recbole_llm.utils.text import counted

logger = logging.getLogger(__name__)

# State that RecBole's models change in training but declare nowhere: DiffRec's history of losses, by which it samples
# its steps, the order in which LINE takes users, KGAT's attention, and NCL's prototypes.
_NAMELESS = (
    *("Lt_history", "Lt_count", "random_list", "A_in"),
    *("user_centroids", "user_2cluster", "item_centroids", "item_2cluster"),
)
FEW_STEPS = 100  # an epoch with fewer steps ends before a model has learnt much
SAVE_EVERY_SECONDS = 30.0  # a resumable checkpoint is written at most this often, and after the last epoch

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


def _no_progress(items: Iterable[Any], title: str) -> Iterable[Any]:
    return items


class BenchTrainer(Trainer):
    """Trains and evaluates one model.

    Attributes:
        plan: epochs of a refit, see :meth:`follow`; ``None`` if validation ends the training.
        folder: of the checkpoints: ``best_so_far.pt`` (best weights by validation), ``last.pt`` (state to resume from),
            ``best_of_last.pt`` (the best weights when ``last.pt`` was written, if there are better ones by now) and
            ``best.pt`` (weights of a finished training).
        curve: one entry per epoch: loss, seconds, validation metrics.
        progress: shows a bar over batches; set by the caller.
        validated: ranks of the last validation.
        on_epoch: called with (epoch, validation score) after each validation; may raise to stop.
        recorded: the training steps as CUDA graphs; ``None`` if steps may not be recorded.
        features_digest: of the semantic features that the model reads; empty if it reads none.
    """

    folder: Path
    progress: Progress = staticmethod(_no_progress)  # type: ignore[assignment]
    on_epoch: Callable[[int, float], None] | None = None
    plan: Sequence[int] | None = None
    validated: Ranks | None = None
    recorded: RecordedSteps | None = None
    features_digest = ""
    process = 0  # rank among the processes that train together
    best_valid_score: float
    best_valid_result: dict[str, float] | None
    cur_step: int
    epochs: int

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.curve: list[dict[str, Any]] = []
        self.seconds = {"train": 0.0, "validate": 0.0}
        self.best_epoch = -1
        self._labels_checked = False
        # Of our models and RecBole's it is known what they change in training; of others it is found.
        self._at_first = {} if _is_known(model) else host_attributes(model)
        self._unkept = ""
        if rounds := getattr(model, "rounds", 0):  # an epoch for each of its choices; patience must not end them
            self.epochs, self.stopping_step, self.eval_step = rounds, rounds, 1
        self.place(Path(config["checkpoint_dir"]))

    def place(self, folder: Path) -> None:
        """Choose the folder of the checkpoints."""
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)  # RecBole's pretraining writes into it directly
        self.checkpoint_dir = str(folder)
        self.saved_model_file = str(folder / "best_so_far.pt")
        self._best_of_last = folder / "best_of_last.pt"
        self._keeps_best_of_last = False

    # ---- training ------------------------------------------------------------------------------

    def follow(self, plan: Sequence[int]) -> None:
        """Train for a number of epochs that was chosen before, and keep the last weights.

        Args:
            plan: epochs of each stage; a single number if there are no stages.
        """
        self._longest = int(self.epochs)  # the warm-up is as long as it was while the epochs were chosen
        self.plan = list(plan)
        self.epochs = sum(self.plan)

    def _keep_to_plan(self, epoch: int, entry: dict[str, Any]) -> None:
        """Called after each epoch of a plan; staged trainings enter their next stage here."""

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super()._build_optimizer(**kwargs)
        if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and _floats_only(optimizer):
            # One kernel over all parameters; the arithmetic is Adam's.
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = True, False
        self._warm_up(optimizer)
        return optimizer

    def _warm_up(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise the learning rates from zero; the step count is kept in the optimiser, and so in its checkpoint."""
        if not (self.config["warmup_steps"] or self.config["warmup_share"]):
            return
        for group in optimizer.param_groups:
            group["full_lr"], group["decay"], group["steps"] = group["lr"], 1.0, 0

        def before_step(stepping: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            if self.recorded is None:
                self._raise_rates(stepping)

        optimizer.register_step_pre_hook(before_step)

    def _raise_rates(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rates of the next step, if there is a warm-up."""
        for group in optimizer.param_groups:
            if "steps" in group:
                group["steps"] += 1
                risen = min(1.0, group["steps"] / max(1, self._warmup_steps()))
                _set_rate(group, group["full_lr"] * group["decay"] * risen)

    def _warmup_steps(self) -> int:
        """Steps of the warm-up: ``warmup_steps``, or ``warmup_share`` of the most possible steps if that is more."""
        together = int(self.config["gradient_accumulation_steps"] or 1)
        share = float(self.config["warmup_share"] or 0.0)
        steps = -(-len(self._loader) // together) * self._most_epochs() if share else 0
        return max(int(self.config["warmup_steps"] or 0), int(share * steps))

    def _most_epochs(self) -> int:
        """The number of epochs that ``warmup_share`` refers to."""
        return int(self.epochs) if self.plan is None else self._longest

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float | tuple[float, ...]:
        """Train one epoch; losses are fetched from the device once, at its end.

        Returns:
            Mean loss of a batch, or the mean of each of its parts (RecBole returns sums).
        """
        self.model.train()
        total: list[torch.Tensor] = []
        count, together = 0, int(self.config["gradient_accumulation_steps"] or 1)
        title = f"epoch {epoch_idx + 1}"
        self.recorded = self._recordings(train_data) if loss_func is None and together == 1 else None
        if self.recorded is not None:
            for parts in self.recorded.epoch(self.progress(_Blocks(train_data), title)):
                total = [a + b for a, b in zip(total, parts, strict=True)] if total else [p.clone() for p in parts]
                count += 1
        else:
            for batch in self.progress(train_data, title):
                if count % together == 0:
                    self.optimizer.zero_grad(set_to_none=True)
                of_step = min(together, len(train_data) - count // together * together)  # the last one may have fewer
                parts = self._gradients(batch, loss_func, of_step)
                total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
                count += 1
                if count % together == 0:
                    self._step()
        if count % together:
            self._step()
        values = self._means(total, count)
        if not all(map(math.isfinite, values)):
            raise UserError(f"training diverged in epoch {epoch_idx + 1} (loss {values}): try a smaller learning_rate.")
        return values[0] if len(values) == 1 else values

    def _gradients(self, batch: Any, loss_func: Any, together: int) -> list[torch.Tensor]:
        """Add the gradients of a batch and return its losses."""
        if not isinstance(batch, LazyInteraction):
            batch = batch.to(self.device)
        with autocast(self.config):
            losses = (loss_func or self.model.calculate_loss)(batch)
        if not self._labels_checked:
            self._check_labels(batch)
        parts = losses if isinstance(losses, tuple) else (losses,)
        loss: Any = sum(parts[1:], parts[0])
        self._reduced(loss / together if together > 1 else loss).backward()
        return [part.detach() for part in parts]

    def _check_labels(self, batch: Any) -> None:
        """Refuse a model that learns from sampled items as if users had them: it read the items, and not the labels."""
        label, item = self.config["LABEL_FIELD"], self.config["ITEM_ID_FIELD"]
        self._labels_checked = True
        sampled = self.config["train_neg_sample_args"]["distribution"] != "none"
        if sampled and isinstance(batch, LazyInteraction) and batch.unread(label) and not batch.unread(item):
            raise UserError(
                f"train_neg_sample_args: half of the items that {type(self.model).__name__} learns from, or more, are "
                f"negatives, which only the column {label!r} tells from those that users have, and its calculate_loss "
                "does not read that. Give --train_neg_sample_args=~ to leave the negatives out."
            )

    def _recordings(self, train_data: Any) -> RecordedSteps | None:
        """The steps as CUDA graphs; ``None`` on a CPU, for other loaders than ours, and if processes share batches."""
        ours = isinstance(train_data, TrainLoader) and type(self)._reduced is BenchTrainer._reduced
        if not ours or not self.config["cuda_graphs"] or at_hand(train_data.table.item):
            return None
        known = self.recorded
        if known is not None and known.optimizer is self.optimizer and known.loader is train_data:
            return known

        def step(rows: torch.Tensor, shape: Shape) -> list[torch.Tensor]:
            self.optimizer.zero_grad(set_to_none=True)
            parts = self._gradients(train_data.made(rows, shape), None, 1)
            self._step()
            return parts

        return RecordedSteps(
            self.model, self.optimizer, train_data, step, lambda: self._raise_rates(self.optimizer), self.device
        )

    def _decay(self, epoch: int) -> None:
        """Set the learning rates of an epoch: multiplied by ``lr_decay`` every ``lr_decay_epochs``."""
        every = int(self.config["lr_decay_epochs"] or 0)
        if not every:
            return
        for optimizer in self._optimizers().values():
            for group in optimizer.param_groups:
                group["decay"] = float(self.config["lr_decay"]) ** (epoch // every)
                _set_rate(group, group.setdefault("full_lr", float(group["lr"])) * group["decay"])

    def _reduced(self, loss: Any) -> Any:
        """The loss to be differentiated; ``training.distributed`` averages its gradient over processes."""
        return loss

    def _means(self, total: list[torch.Tensor], count: int) -> tuple[float, ...]:
        """Turn sums over batches into means."""
        return tuple(float(part) / count for part in total)

    def _step(self) -> None:
        """One step of the optimiser with the accumulated gradients."""
        if self.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.optimizer.step()

    def fit(
        self,
        train_data: Any,
        valid_data: EvalLoader | None = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train until validation stops improving; keeps the best weights in ``best_so_far.pt``.

        With ``epochs: 0`` these are the initial weights, as in RecBole.

        Returns:
            Best validation score and the metrics of that epoch.
        """
        self._loader = train_data
        self._warn_of_few_steps()
        self._return_to_best()
        if self.config["tensorboard"]:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(str(Path("log_tensorboard") / self.folder.name))
        if saved and self.epochs < 1:  # for example S3Rec without its pretraining
            self._save_checkpoint(-1)
        saved_at = time.monotonic()
        for epoch in range(self.start_epoch, self.epochs):
            started = time.monotonic()
            self._decay(epoch)
            loss = self._train_epoch(train_data, epoch, show_progress=show_progress)
            trained = time.monotonic()
            self.seconds["train"] += trained - started
            entry: dict[str, Any] = {"epoch": epoch + 1, "seconds": round(trained - started, 3)}
            entry["loss"] = [*loss] if isinstance(loss, tuple) else loss
            self._add_train_loss_to_tensorboard(epoch, loss)
            self.curve.append(entry)
            stop, final = False, epoch + 1 == self.epochs
            if self.plan is not None:
                self._keep_to_plan(epoch, entry)
            # Always validate after the last epoch; RecBole would discard what was learnt since the last validation.
            if valid_data is not None and self.eval_step > 0 and (final or (epoch + 1) % self.eval_step == 0):
                stop = self._validate(valid_data, epoch, entry, saved, callback_fn)
            elif saved and final:  # without validation the last weights are the model's
                self._save_checkpoint(epoch)
            if verbose:
                logger.info("%s", self._epoch_line(entry))
            over = stop or final
            if saved and (over or self._is_due(saved_at)):
                self._save_last(epoch, over)
                saved_at = time.monotonic()
            if stop:
                break
        return self.best_valid_score, self.best_valid_result

    def _warn_of_few_steps(self) -> None:
        """Warn of epochs with few steps: a batch size that suits one dataset may be a tenth of another."""
        steps = len(self._loader)
        traditional = getattr(self.model, "type", None) == ModelType.TRADITIONAL
        if steps < FEW_STEPS and not traditional and getattr(self.model, "learns", True):
            logger.warning(
                "an epoch of %s has only %s: give a smaller --train_batch_size than %d, or --min_epoch_steps=%d",
                type(self.model).__name__,
                counted(steps, "step"),
                int(self.config["train_batch_size"]),
                FEW_STEPS,
            )

    def _validate(self, valid_data: EvalLoader, epoch: int, entry: dict[str, Any], saved: bool, callback: Any) -> bool:
        began = time.monotonic()
        score, result = self._valid_epoch(valid_data)
        self.seconds["validate"] += time.monotonic() - began  # before the callbacks, where a search reads the time
        entry["valid"] = {name: round(value, 6) for name, value in result.items()}
        self.best_valid_score, self.cur_step, stop, improved = early_stopping(
            score, self.best_valid_score, self.cur_step, max_step=self.stopping_step, bigger=self.valid_metric_bigger
        )
        self.tensorboard.add_scalar("Vaild_score", score, epoch)  # RecBole's spelling
        if improved:
            self.best_valid_result, self.best_epoch = result, epoch + 1
            if saved:
                self._save_checkpoint(epoch)
        for report in (callback, self.on_epoch):
            if report is not None:
                report(epoch, score)
        return bool(stop)

    def _epoch_line(self, entry: dict[str, Any]) -> str:
        loss = entry["loss"]
        text = f"epoch {entry['epoch']:>3}/{self.epochs}  loss {sum(loss) if isinstance(loss, list) else loss:.4f}"
        if "valid" in entry:
            value, metric = entry["valid"][self.valid_metric], self.config["valid_metric"]
            text += f"  {metric} {value:.4f} (best {self.best_valid_score:.4f}, epoch {self.best_epoch})"
        return f"{text}  {entry['seconds']:.1f} s"

    # ---- checkpoints ---------------------------------------------------------------------------

    def _is_due(self, saved_at: float) -> bool:
        return time.monotonic() - saved_at > SAVE_EVERY_SECONDS

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint; ``training.distributed`` leaves it to the first process."""
        checkpoint.save(path, state)

    def _chances(self) -> list[dict[str, Any]]:
        """States of all random generators, one entry per process."""
        return [{"generators": checkpoint.random_state(self.device), "loader": loader_state(self._loader)}]

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = Path(kwargs.get("saved_model_file", self.saved_model_file))
        if path == Path(self.saved_model_file):
            self._put_best_aside(path)
        self._write(
            path, {"epoch": epoch + 1, "score": float(self.best_valid_score), **checkpoint.model_state(self.model)}
        )

    def _put_best_aside(self, best: Path) -> None:
        """Keep the best weights that ``last.pt`` refers to until a later ``last.pt`` is written.

        After a kill the epochs since ``last.pt`` are trained again. On a device whose results are not reproducible they
        need not be as good.
        """
        if self.process == 0 and not self._keeps_best_of_last and (self.folder / "last.pt").is_file():
            if best.is_file():
                best.replace(self._best_of_last)
            self._keeps_best_of_last = True

    def _best_at(self, stopping: Sequence[float]) -> Path | None:
        """The file with the weights of the best epoch in ``stopping``, by number and score; ``None`` if it is gone."""
        for path in (Path(self.saved_model_file), self._best_of_last):
            if path.is_file():
                found = checkpoint.load(path)
                if (found.get("epoch"), found.get("score")) == (stopping[-1], stopping[0]):
                    return path
        return None

    def _return_to_best(self) -> None:
        """Go back to the best weights that a resumed training refers to, if those on disk are from lost epochs."""
        if self.process != 0 or self.start_epoch < 1 or self.best_epoch < 1:
            return
        if self._best_at([float(self.best_valid_score), self.best_epoch]) == self._best_of_last:
            self._best_of_last.replace(self.saved_model_file)

    def _own_state(self) -> list[tuple[str, str, Any, Any]] | None:
        """What a user's model has changed beside its weights; ``None`` if it cannot be kept.

        A training that went on without it would end with other numbers.

        Returns:
            For each attribute its module, its name, which tensors are on the CPU (:func:`_on_cpu`), and its value.
        """
        if not self._at_first:
            return []
        modules, found = dict(self.model.named_modules()), []
        for (module, name), value in host_attributes(self.model).items():
            if name == "training" or self._at_first.get((module, name)) == value:
                continue
            changed = getattr(modules[module], name)
            if not checkpoint.holds(changed):
                if self._unkept != name:
                    logger.warning(
                        "%s changes its attribute %s in training, and a checkpoint cannot hold a %s: if the training "
                        "is interrupted, it begins anew. Numbers, tensors, arrays, lists and dicts are kept, and so "
                        "are the global random generators of torch, numpy and Python; use these instead.",
                        *(type(self.model).__name__, name, type(changed).__name__),
                    )
                self._unkept = name
                return None
            found.append((module, name, _on_cpu(changed), changed.detach() if torch.is_tensor(changed) else changed))
        return found

    def _save_last(self, epoch: int, over: bool) -> None:
        """Save everything that the next epoch depends on; after the last one, only what the record needs."""
        own = self._own_state()
        if own is None:
            return
        state = {
            "next_epoch": self.epochs if over else epoch + 1,
            "counters": {k: v for k, v in vars(self.model).items() if type(v) in (int, float) or k in _NAMELESS},
            "random": self._chances(),
            "stopping": [float(self.best_valid_score), self.cur_step, self.best_epoch],
            "best_valid_result": dict(self.best_valid_result or {}),
            "curve": self.curve,
            "seconds": self.seconds,
            "features": self.features_digest,
            "own": own,
        }
        if not over:  # the test uses the best weights, which have their own file
            state["model"] = checkpoint.model_state(self.model)
            state["optimizers"] = {name: _plain_state(value) for name, value in self._optimizers().items()}
            state["schedulers"] = {name: value.state_dict() for name, value in self._schedulers().items()}
        self._write(self.folder / "last.pt", state)
        self._drop_best_of_last()

    def _drop_best_of_last(self) -> None:
        if self.process == 0:
            self._best_of_last.unlink(missing_ok=True)
        self._keeps_best_of_last = False

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by attribute; RecVAE's trainer has two and sets ``optimizer`` to one or the other."""
        found = {name: value for name, value in vars(self).items() if isinstance(value, torch.optim.Optimizer)}
        return {name: value for name, value in found.items() if name != "optimizer"} or found

    def _schedulers(self) -> dict[str, torch.optim.lr_scheduler.LRScheduler]:
        """Learning-rate schedulers that a special trainer or a model has."""
        kind = torch.optim.lr_scheduler.LRScheduler
        owners = {"trainer": vars(self), "model": vars(self.model)}
        return {f"{o}.{name}": v for o, found in owners.items() for name, v in found.items() if isinstance(v, kind)}

    def resumable(self) -> dict[str, Any] | None:
        """The state in ``last.pt``; ``None`` if there is none or, with a warning, if it cannot be resumed from."""
        path = self.folder / "last.pt"
        if not path.is_file():
            return None
        state = checkpoint.load(path, self.device)
        if not isinstance(state["random"], list):
            logger.warning("%s was written by an older version; training begins anew", path)
            return None
        # For example, more answers have arrived since.
        if state.get("features", self.features_digest) != self.features_digest:
            logger.warning("%s began with other features than there are now; training begins anew", path)
            return None
        if state["stopping"][-1] > 0:
            best = self._best_at(state["stopping"])
        else:  # not validated yet, or never validated: then the file holds the last weights
            best = Path(self.saved_model_file)
        over = state["next_epoch"] >= self.epochs
        if best is None or (over and not best.is_file()):
            logger.warning("%s is without its best weights; training begins anew", path)
            return None
        # For example, an older version found another number of items in the same files.
        if not checkpoint.fits(self.model, state["model"] if "model" in state else checkpoint.load(best)):
            logger.warning("%s holds weights of other sizes than the model's; training begins anew", path)
            return None
        return state

    def resume(self, train_data: Any) -> bool:
        """Continue from ``last.pt`` if possible, as if training had not been interrupted; returns whether it did."""
        state = self.resumable()
        if state is None:
            return False
        if "model" in state:
            checkpoint.restore_model(self.model, state["model"], self.folder / "last.pt")
            for name, optimizer in self._optimizers().items():
                optimizer.load_state_dict(state["optimizers"][name])
            for name, scheduler in self._schedulers().items():
                scheduler.load_state_dict(state["schedulers"][name])
        for name, value in state["counters"].items():  # for example the annealing step of RecBole's autoencoders
            setattr(self.model, name, value)
        modules = dict(self.model.named_modules())
        for module, name, on_cpu, value in state.get("own", ()):
            setattr(modules[module], name, _back_on_cpu(value, on_cpu))
        self.start_epoch = state["next_epoch"]
        self.best_valid_score, self.cur_step, self.best_epoch = state["stopping"]
        self.best_valid_result = state["best_valid_result"] or None
        self.curve, self.seconds = state["curve"], state["seconds"]
        chances = state["random"][self.process]
        restore_loader(train_data, chances["loader"])
        checkpoint.restore_random_state(chances["generators"], self.device)
        logger.info("continuing after epoch %d (%s)", len(self.curve), self.folder / "last.pt")
        return True

    def restore_best(self) -> None:
        """Load the weights of the best validation."""
        best = Path(self.saved_model_file)
        checkpoint.restore_model(self.model, checkpoint.load(best, self.device), best)

    def discard(self) -> None:
        """Discard an interrupted training; the best weights of this one will replace its own."""
        (self.folder / "last.pt").unlink(missing_ok=True)
        self._drop_best_of_last()

    def keep(self) -> None:
        """Rename the best weights to ``best.pt``; until then an older run's weights are served.

        Call this after the record is stored: until then a run that is resumed still needs ``last.pt``.
        """
        Path(self.saved_model_file).replace(self.folder / "best.pt")
        (self.folder / "last.pt").unlink(missing_ok=True)
        self._drop_best_of_last()

    # ---- evaluation ----------------------------------------------------------------------------

    def rank(
        self,
        eval_data: EvalLoader,
        title: str = "ranking",
        lists: TopLists | None = None,
        count_pools: bool = False,
        kept: bool = True,
    ) -> Ranks:
        """Ranks of all targets of ``eval_data`` with the model's current weights.

        Args:
            eval_data: the cases.
            title: of the progress bar.
            lists: counts the items of the lists.
            count_pools: note how many items each case ranked.
            kept: the ranks are stored, so metrics at other cut-offs than the settings' may be computed from them later.
                If they are not, or if its settings say so (``bounded``), a model that can do so (``to_depth``) looks
                for the first places only.
        """
        self.model.eval()
        depth = self._depth() if hasattr(self.model, "to_depth") and (self.model.bounded or not kept) else 0
        limited = self.model.to_depth(depth, lists is not None) if depth else nullcontext()
        with autocast(self.config), limited:
            ranks = rank_cases(
                self.model,
                eval_data,
                mask_history=bool(self.config["mask_history"]),
                score_block_mib=int(self.config["score_block_mib"]),
                progress=lambda items: self.progress(items, title),
                lists=lists,
                count_pools=count_pools and not depth,
            )
        return replace(ranks, cut_off=depth)

    def _depth(self) -> int:
        """The largest cut-off of the metrics; 0 if one of them has none."""
        metrics = [*self.config["metrics"], self.valid_metric]
        if any(str(metric).lower() in UNCUT_METRICS for metric in metrics):
            return 0
        return max(*self.config["topk"], int(self.valid_metric.split("@")[1]))

    def _valid_epoch(self, valid_data: EvalLoader, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        result = self.evaluate(valid_data, load_best_model=False)
        return calculate_valid_score(result, self.valid_metric), result

    def evaluate(
        self,
        eval_data: EvalLoader,
        load_best_model: bool = True,
        model_file: Any = None,
        show_progress: bool = False,
    ) -> dict[str, float]:
        """The configured metrics over ``eval_data``."""
        if load_best_model:
            self.restore_best()
        metrics = list(dict.fromkeys([*self.config["metrics"], self.valid_metric.split("@")[0]]))
        topk = sorted({*self.config["topk"], int(self.valid_metric.split("@")[1])})
        pools = any(metric.lower() in UNCUT_METRICS for metric in metrics)
        self.validated = self.rank(eval_data, "validation", count_pools=pools, kept=False)
        return OrderedDict(summarise(self.validated, metrics, topk))


class Pretraining(BenchTrainer):
    """Stages before the last one of RecBole's staged models: not validated, and resumed from ``last.pt`` after a kill.

    RecBole saves every ``save_step`` epochs, which may be never, and cannot resume.
    """

    def pretrain(
        self, train_data: Any, verbose: bool = True, show_progress: bool = False
    ) -> tuple[float, dict[str, float] | None]:
        """Train ``pretrain_epochs`` epochs; the weights are then in ``best_so_far.pt``."""
        self.epochs = int(self.config["pretrain_epochs"])
        self.resume(train_data)
        return BenchTrainer.fit(self, train_data, None, verbose, True, show_progress)


def _is_known(model: Any) -> bool:
    """Whether a model is one of ours or RecBole's."""
    known = ("recbole_llm", "recbole", "torch", "abc", "builtins", "typing")
    return all(kind.__module__.partition(".")[0] in known for kind in type(model).__mro__)


class _Blocks:
    """The rows of an epoch's batches."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._loader.blocks()


def _set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a learning rate; in place if it is a tensor, which recorded steps read."""
    if torch.is_tensor(group["lr"]):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _on_cpu(value: Any) -> Any:
    """Whether a tensor is on the CPU; for a list or dict with such tensors, the same of each entry."""
    if torch.is_tensor(value):
        return value.device.type == "cpu"
    if isinstance(value, dict):
        by_key = {key: _on_cpu(inner) for key, inner in value.items()}
        return by_key if any(by_key.values()) else False
    if isinstance(value, (list, tuple)):
        by_place = [_on_cpu(inner) for inner in value]
        return by_place if any(by_place) else False
    return False


def _back_on_cpu(value: Any, on_cpu: Any) -> Any:
    """A value as loaded to the training's device, with those tensors on the CPU that were there (:func:`_on_cpu`)."""
    if isinstance(on_cpu, dict):
        return {key: _back_on_cpu(inner, on_cpu[key]) for key, inner in value.items()}
    if isinstance(on_cpu, list):
        return [_back_on_cpu(inner, each) for inner, each in zip(value, on_cpu, strict=True)]
    return value.cpu() if on_cpu else value


def _plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state without what only recorded steps need, since another machine may resume from it."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        if torch.is_tensor(group["lr"]):
            group["lr"], group["capturable"] = float(group["lr"]), False
    return state


def _floats_only(optimizer: torch.optim.Optimizer) -> bool:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return all(p.is_floating_point() and not p.is_sparse and p.device.type in ("cpu", "cuda") for p in parameters)
