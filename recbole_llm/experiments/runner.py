"""From a planned run to its record: data, features, model, training, test."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import init_seed
from torch import distributed

from recbole_llm.compat.config import BenchConfig, resolve_device
from recbole_llm.compat.fast import accelerated, seams_of
from recbole_llm.data.candidates import rarity
from recbole_llm.data.dataset import make_dataset
from recbole_llm.data.inter_file import ReadSpec, load_interactions
from recbole_llm.data.item_codes import add_item_codes
from recbole_llm.data.parts import PARTS, load_parts, part_files
from recbole_llm.data.refit import with_validation
from recbole_llm.data.split_facts import cold_counts, cut_days, later_training, split_warnings, targets_in_history
from recbole_llm.data.times import notices, warnings
from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import summarise
from recbole_llm.evaluation.names import higher_is_better
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.execution.base import Job, JobError, each_result
from recbole_llm.execution.processes import ProcessExecutor, visible_gpus
from recbole_llm.execution.sharing import free_memory_mib
from recbole_llm.experiments.candidate_model import CandidateModel, CandidateTable
from recbole_llm.experiments.list_metrics import list_counter, list_metrics_of
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.published import lend
from recbole_llm.experiments.record import DatasetFacts, MetricValue, Record, SemanticFacts
from recbole_llm.experiments.refit import chosen_epochs
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.builder import FeatureBuilder
from recbole_llm.features.item_texts import ITEM_COLUMNS
from recbole_llm.features.sources import AnswerSource
from recbole_llm.registry import EXTERNAL_LIBRARY, SEQUENTIAL
from recbole_llm.settings.layers import Settings, stage_one_settings
from recbole_llm.settings.rules import reads_codes
from recbole_llm.training import checkpoint
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.distributed import Together, is_joined, join
from recbole_llm.training.initial import start_from_vectors
from recbole_llm.training.loaders import training_loader
from recbole_llm.training.reference import ReferenceTrainer
from recbole_llm.utils.environment import forget_peak_memory, hardware, peak_memory_mib
from recbole_llm.utils.files import one_process_at_a_time
from recbole_llm.utils.progress import Bars, Stopwatch
from recbole_llm.utils.text import counted, percent

logger = logging.getLogger(__name__)

UNSUPPORTED = {"DIEN": "its dataset samples negative histories while RecBole reads and augments the files"}
STAGES = {"S3Rec": ("pretrain", "finetune"), "RaCT": ("actor_pretrain", "critic_pretrain", "finetune")}
# Facts that show whether an older version read other rows, or other times, from the same file.
OF_READING = ("rows_repeated", "times_per_second", "times_as_dates")
UNNAMED = 0.1  # from this share of items without a title, profile or vector on, a warning is given
USERLESS = ("Pop", "Random")  # general models that do not know users
PAIR_BYTES = 12  # of each pair of items in EASE: three tables in single precision while it inverts one


def _check_room_of_pairs(n_items: int) -> None:
    """Refuse EASE where its tables do not fit; the system would end the process without a word.

    Raises:
        UserError: they take more than the memory that is free.
    """
    free, needed = free_memory_mib(on_gpu=False), PAIR_BYTES * n_items**2 / 2**20
    if free and needed > free[0]:
        raise UserError(
            f"--model=EASE inverts a table of all pairs of items: {n_items - 1:,} items take {needed / 1024:,.1f} GiB, "
            f"and {free[0] / 1024:,.1f} are free. Leave out rare items (--item_inter_num_interval=[20,inf)), or take "
            "ItemKNN."
        )


class StopTraining(Exception):  # noqa: N818 - a signal, as StopIteration is
    """Raised after an epoch to end a training there."""


class Runner:
    """Makes runs; results are kept only in the store.

    Args:
        store: where records are looked up and written.
        bars: progress bars.
        force: also make runs that have a record.
        asks_again: repeat questions that an earlier command got no answer to; not in a worker, which shares its files.

    Attributes:
        ahead: by the key of a run, the seconds by phase of features that were made before it, for its record.
    """

    def __init__(
        self, store: ResultStore, bars: Bars | None = None, force: bool = False, asks_again: bool = True
    ) -> None:
        self.ahead: dict[str, dict[str, float]] = {}
        self.store, self.bars, self.force, self.asks_again = store, bars or Bars(False), force, asks_again
        self._warned: set[str] = set()
        self._readings: dict[Any, tuple[dict[str, Any], dict[str, float | int]]] = {}  # facts and statistics
        # How answers are obtained, with one budget for all runs; made by the first run that asks.
        self.asking: AnswerSource | None = None
        self._fresh: set[str] = set()

    def finished(self, run: Run) -> Record | None:
        """The record of a run that is done and need not be made again."""
        if self.force and run.key not in self._fresh:
            return None
        record = self.store.find(run.key)
        if record is None or record.status != "ok":
            return None
        if run.key not in self._fresh and (why := self._read_otherwise(run, record)):
            logger.warning("%s has a record from before %s; it is run again", run.title(), why)
            return None
        return record

    def _read_otherwise(self, run: Run, record: Record) -> str:
        """What an older version read differently from the same files, so that its results differ; else empty."""
        if record.features is not None and record.features.coverage.get("itemtext") == 0:
            return "items without any title were refused"
        then = record.data.reading if record.data else {}
        if not then:
            return ""
        now, counts = self._reading(run)
        of_one_file = run.settings["split"] != "parts"
        if of_one_file and any(then.get(name, 0) != now.get(name, 0) for name in OF_READING):
            return "repeated rows and the unit of times were looked at"
        lacking = now.get("rows_without_user_or_item")
        if then.get("rows_without_user_or_item", lacking) != lacking:  # RecBole's own reader does not count them
            return "ids that are quoted and empty were missing ids"
        counted = ("items",) if run.settings["sessions"] else ("users", "items")
        known = record.data.statistics if record.data and then.get("rows_without_user_or_item") else {}
        if any(known.get(name, counts[name]) != counts[name] for name in counted):
            return "users and items that stand only in rows without the other were left out"
        return ""

    def _reading(self, run: Run) -> tuple[dict[str, Any], dict[str, float | int]]:
        """Facts and statistics of a run's interactions as they are read today."""
        location, values = run.location, run.settings.values
        spec = ReadSpec.from_settings(values)
        parts = part_files(values, location) if values["split"] == "parts" else {}
        key = (location.folder, location.stem, spec, *parts.values())
        if key not in self._readings:
            table, _ = load_parts(location, parts, spec) if parts else load_interactions(location, spec)
            self._readings[key] = table.facts, table.statistics()
        return self._readings[key]

    def run(self, run: Run) -> Record:
        """The record of a run: found, or made by training and testing the model.

        Raises:
            UserError: it cannot be made; nothing is recorded.
        """
        found = self.finished(run)
        if found is None:
            with one_process_at_a_time(run.folder, run.title()):
                found = self.finished(run) or self._make(run)
        return found

    def _make(self, run: Run) -> Record:
        """Train and test, even if there is a record; a refit is preceded by the run that chooses its epochs."""
        if (chooser := run.chooser()) is not None:
            self.run(chooser)
        if int(run.settings["nproc"]) > 1:
            return run_together(run, self)
        return self.make_here(run)

    def make_here(self, run: Run) -> Record:
        """Train and test in this process, which may be the first of several."""
        logger.info("running %s", run.title())
        forget_peak_memory()
        watch = Stopwatch(self.ahead.pop(run.key, None))
        record = run.blank_record()
        with watch("pretrain"):
            stage = self._pretrain(run)
        prepared = self.prepare(run, watch, record, stage)
        # Before training, so that missing data for a metric are reported before hours are spent.
        lists, notes = list_counter(run.settings, run.location, prepared.dataset, prepared.config)
        record.notes += notes
        trainer = self._train(run, prepared, watch, record)
        with watch("evaluate"):
            ranks = trainer.rank(prepared.eval_loader("test"), "test", lists, count_pools=True)
            self._measure(record, ranks, lists, prepared)
        record.seconds = watch.report()
        record.memory_mib = peak_memory_mib(prepared.config["device"])
        record.hardware = hardware(prepared.config["device"])
        record.accelerations = [seam.__name__ for seam in getattr(prepared.model, "seams", ())]
        kind = run.settings.method.load()
        if run.settings["engine"] == "fast" and kind.__module__.startswith("recbole.") and not seams_of(kind):
            record.notes.append("RecBole's own forward pass")
        ranks_path = self.store.ranks_path(record)
        ranks.save(ranks_path)
        record.ranks_file = ranks_path.name
        self.store.put(record)
        trainer.keep()
        self._fresh.add(run.key)
        return record

    def validate(
        self,
        run: Run,
        folder: Path,
        on_epoch: Callable[[int, float, Ranks | None], None],
        max_seconds: float | None = None,
    ) -> Record:
        """Train and validate for a search: the test cases are never ranked and the record is not kept.

        Args:
            run: what to train.
            folder: of the checkpoints, from which an interrupted training is resumed.
            on_epoch: called with epoch (from 1), validation score and ranks. A resumed training repeats the calls for
                its earlier epochs, with ``None`` for ranks. If it raises ``StopTraining``, the training ends.
            max_seconds: of training and validation, including the time before an interruption; training ends with the
                epoch in which they run out.
        """

        def after(epoch: int, score: float) -> None:
            on_epoch(epoch + 1, score, trainer.validated)
            if max_seconds is not None and sum(trainer.seconds.values()) > max_seconds:
                raise StopTraining

        watch, record = Stopwatch(), run.blank_record()
        prepared = self.prepare(run, watch, record, self._pretrain(run))
        trainer, train_data = self._trainer(run, prepared, folder, watch, record)
        trainer.resume(train_data)
        trainer.on_epoch = after
        try:
            for entry in trainer.curve:
                if "valid" in entry:  # with eval_step > 1 not every epoch is validated
                    on_epoch(entry["epoch"], entry["valid"][trainer.valid_metric], None)
            trainer.fit(train_data, prepared.eval_loader("valid"))
        except StopTraining:
            pass  # the results so far count
        self._note_training(run, trainer, record)
        record.seconds = watch.report()
        return record

    def rank_validation(self, run: Run, aside: ResultStore) -> tuple[Record, Ranks]:
        """Train, and rank the validation cases with the weights of the best epoch; the test cases are never ranked.

        Args:
            run: what to train. A training that was interrupted, or that an ordinary run has begun, is continued.
            aside: where record and ranks are kept, since they are not results.
        """
        with one_process_at_a_time(run.folder, run.title()):
            record = aside.find(run.key)
            if record is not None and (path := aside.ranks_of(record)).is_file():
                return record, Ranks.load(path)
            logger.info("training %s for its validation cases", run.title())
            watch, record = Stopwatch(), run.blank_record()
            prepared = self.prepare(run, watch, record, self._pretrain(run))
            trainer = self._train(run, prepared, watch, record)
            ranks = trainer.rank(prepared.eval_loader("valid"), "validation")
            record.seconds = watch.report()
            ranks.save(aside.ranks_path(record))
            record.ranks_file = aside.ranks_path(record).name
            aside.put(record)
            return record, ranks

    def train_along(self, run: Run) -> None:
        """Train as one of several processes, of which the first one makes the record."""
        watch, record = Stopwatch(), run.blank_record()
        self._train(run, self.prepare(run, watch, record), watch, record)

    def make_features(self, run: Run) -> Path | None:
        """Make the semantic features of a run and what they need; returns their folder, ``None`` if it reads none.

        This is done before runs are spread over workers, which would otherwise all make the same features. The seconds
        are those of the run's record (``ahead``).
        """
        if run.settings["semantics"] == "none":
            return None
        dataset = self.read_dataset(run)
        watch = Stopwatch(self.ahead.get(run.key))
        self._add_semantics(run, dataset, watch, None)
        self.ahead[run.key] = watch.seconds
        return Path(dataset.semantics.facts()["folder"])

    # ---- steps ---------------------------------------------------------------------------------

    def prepare(
        self, run: Run, watch: Stopwatch, record: Record | None = None, stage: dict[str, Any] | None = None
    ) -> Prepared:
        """Read the data, make what the model needs, build the model.

        Args:
            run: what to build.
            watch: times the phases.
            record: takes the facts about data and features.
            stage: settings of one stage of a model that RecBole trains in several.
        """
        settings = run.settings.replaced(**(stage or {}))
        method = settings.method
        config, dataset = self._read(run, settings, watch)
        model_class = method.load()
        by_user = method.kind != SEQUENTIAL and method.name not in USERLESS
        if dataset.split.unseen_users and by_user:
            raise UserError(
                f"--model={method.name} knows users by their ids, and the protocol {settings['protocol']} tests users "
                "that it has not seen; use a sequential model or another protocol."
            )
        if method.trained_as == "RaCT" and settings["metrics_k"] > dataset.item_num:
            raise UserError(
                f"metrics_k={settings['metrics_k']}: {method.name} looks at so many of the items, and "
                f"{run.location.name} has {dataset.item_num - 1}: give --metrics_k={dataset.item_num - 1} or less."
            )
        if method.trained_as == "EASE":
            _check_room_of_pairs(dataset.item_num)
        if settings["semantics"] != "none":
            self._add_semantics(run, dataset, watch, record)
        if settings["refit"]:
            dataset.split = with_validation(dataset.table, dataset.split, config.final_config_dict)
        if reads_codes(settings.values):
            add_item_codes(dataset, dataset.semantics.item_codes() if dataset.semantics is not None else None)
        with watch("build"):
            init_seed(config["seed"], config["reproducibility"])
            train_part = dataset.training_part()
            built = accelerated(model_class) if settings["engine"] == "fast" else model_class
            model = built(config, train_part).to(config["device"])
            if settings["init"] == "vectors" and dataset.semantics is not None:
                start_from_vectors(model, *dataset.semantics.item_vectors(ITEM_COLUMNS))
        prepared = Prepared(config, dataset, train_part, model, method.kind == SEQUENTIAL, by_user)
        if record is not None:
            self._describe(prepared, run, record)
        return prepared

    def _describe(self, prepared: Prepared, run: Run, record: Record) -> None:
        """Fill in what a run's record says about its data and its model."""
        dataset, model = prepared.dataset, prepared.model
        record.language_model = getattr(model, "language_model", None)
        record.legacy_leaks = bool(run.settings.get("legacy_leaks"))
        record.lists = getattr(model, "lists_facts", None)
        record.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        record.warnings = self._warnings(prepared, record)
        record.data = DatasetFacts(
            name=run.location.stem,
            sha256=dataset.sha256,
            statistics=dataset.table.statistics(),
            reading={k: int(v) for k, v in dataset.table.facts.items()},
            train_interactions=len(dataset.split.train_rows),
            valid_cases=0 if run.settings["refit"] else len(dataset.split.valid),
            test_cases=len(dataset.split.test),
            rarity=rarity(dataset.table, dataset.split.train_rows, dataset.split.test),
            files=run.shown_files() | run.files,
            cold=cold_counts(dataset.table, dataset.split),
            later_training=later_training(dataset.table, dataset.split),
            cuts=cut_days(dataset.split),
        )

    def _warnings(self, prepared: Prepared, record: Record) -> list[str]:
        """What a reader of a run's results must know about its data and texts; also logged."""
        dataset = prepared.dataset
        ready = dataset.config["split"] == "parts"
        found = [*warnings(dataset.table.facts), *split_warnings(dataset.table, dataset.split, ready)]
        if (threshold := dataset.config["threshold"]) is not None:
            found.append(_said_of_threshold(threshold))
        unknown = cold_counts(dataset.table, dataset.split)["user_cases"]
        if unknown and prepared.by_user:
            cases = counted(unknown, "case")
            found.append(f"users are known by their ids: for {cases} of others all items are ranked alike")
        repeated = targets_in_history(dataset.table, dataset.split) if dataset.config["mask_history"] else 0
        if repeated:
            found.append(
                f"{repeated:,} of {len(dataset.split.test.target_rows):,} targets stand in the user's own history; "
                "seen items are left out of the ranking, but for these: what repeats a history finds them"
            )
        if record.refit and record.features is not None:
            found.append("refit: features and prompts are those of the training part alone")
        named = 1.0 if record.features is None else record.features.coverage.get("itemtext", 1.0)
        if (unnamed := round(1 - named, 4)) >= UNNAMED:
            found.append(f"{percent(unnamed)} of the items have no title and are called by their ids")
        found += _said_of_gaps(dataset, record)
        for text in found:
            self._warn_once(f"{record.dataset}: {text}")
        return found

    def _read(self, run: Run, settings: Settings, watch: Stopwatch) -> tuple[Any, Any]:
        """RecBole's configuration and the dataset with its split."""
        method = settings.method
        if method.kind == EXTERNAL_LIBRARY:
            raise UserError(f"--model={method.name} predicts labels, not rankings; it cannot stand in this comparison.")
        if (reason := UNSUPPORTED.get(method.trained_as)) is not None:
            raise UserError(f"--model={method.name} is not supported: {reason}.")
        if method.protocols and settings["protocol"] not in method.protocols:
            raise UserError(
                f"--model={method.name} knows the protocols {', '.join(method.protocols)}, not {settings['protocol']}."
            )
        model_class = method.load()
        if not issubclass(model_class, AbstractRecommender):
            raise UserError(
                f"--model={method.target} is no model: a model extends one of RecBole's classes, such as "
                "SequentialRecommender or GeneralRecommender."
            )
        with watch("data"):
            config = BenchConfig(settings, model_class, run.location.folder, run.location.stem)
            init_seed(config["seed"], config["reproducibility"])
            dataset = make_dataset(config, run.location)
        parts = ", ".join(str(run.settings[part]) for part in PARTS if run.settings.get(part))
        source = parts or dataset.location.file("inter") or dataset.location.folder
        for notice in notices(dataset.table.facts):
            self._warn_once(f"{source}: {notice}")
        return config, dataset

    def _warn_once(self, text: str) -> None:
        """Warn of something once, however many runs it is true of."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)

    def _add_semantics(self, run: Run, dataset: Any, watch: Stopwatch, record: Record | None) -> None:
        if self.asking is None:
            self.asking = AnswerSource.of(run.settings)
            self.asking.mends = self.asks_again
        lend(self.asking, run)
        stage_one = self.candidate_model(run, watch) if run.settings.method.stage_one else None
        builder = FeatureBuilder(run.settings, run.location, dataset, stage_one, self.bars, watch, self.asking)
        builder.make()
        dataset.semantics = features = builder.features()
        if record is not None:
            record.features = SemanticFacts(**features.facts())
            record.stage_one = stage_one.key if stage_one else None

    def read_dataset(self, run: Run) -> Any:
        """The dataset of a run with its split, without a model."""
        return self._read(run, run.settings, Stopwatch())[1]

    def candidate_run(self, run: Run) -> Run:
        """The run of this run's stage-one model: same data and settings, but its own seed."""
        return Run.of(stage_one_settings(run.settings))

    def candidate_model(self, run: Run, watch: Stopwatch) -> CandidateModel | CandidateTable:
        """The trained model or models, or the table, that a run's candidates come from; fold models are not results.

        Raises:
            UserError: folds with a model that knows a user only by an id.
        """
        table = run.settings.get("candidate_table")
        if table:
            return CandidateTable(Path(table), run.files["candidate_table"], lambda: self.read_dataset(run))
        whole = self.candidate_run(run)
        aside = Runner(ResultStore(Path(whole.settings["checkpoint_dir"]) / "folds"), self.bars)
        return CandidateModel(whole, int(run.settings["candidate_folds"]), self, aside, watch)

    def is_trained(self, run: Run) -> bool:
        """Whether a run has its record and its weights."""
        return self.finished(run) is not None and (run.folder / "best.pt").is_file()

    def trained(self, run: Run) -> Prepared:
        """The run's model with its best weights; trained now if there is no checkpoint."""
        best = run.folder / "best.pt"
        if not self.is_trained(run):
            with one_process_at_a_time(run.folder, run.title()):
                if not self.is_trained(run):
                    self._make(run)
        stage = self._last_stage(run)
        if run.settings.method.serves_alone:
            stage["semantics"] = "none"  # no file is read, no question asked, no encoder loaded
        prepared = self.prepare(run, Stopwatch(), stage=stage)
        checkpoint.restore_model(prepared.model, checkpoint.load(best, prepared.config["device"]), best)
        prepared.model.eval()
        return prepared

    def _last_stage(self, run: Run) -> dict[str, Any]:
        """Settings that rebuild a finished model of several stages; its weights come from its own checkpoint."""
        stages = STAGES.get(run.settings.method.trained_as, ())
        if not stages or run.settings.get("pre_model_path"):
            return {}
        return {"train_stage": stages[-1], "pre_model_path": str(run.folder / stages[-2] / "best_so_far.pt")}

    def _pretrain(self, run: Run) -> dict[str, Any]:
        """Run all but the last stage of a model that RecBole trains in several; returns settings for the last one.

        RecBole leaves the stages to its user. The checkpoint of an early stage is not a result.
        """
        stages = STAGES.get(run.settings.method.trained_as, ())
        if not stages or run.settings.get("pre_model_path"):
            return {}
        changes: dict[str, Any] = {"train_stage": stages[0]}
        for following in stages[1:]:
            prepared = self.prepare(run, Stopwatch(), stage=changes)
            trainer = make_trainer(prepared.config, prepared.model)
            trainer.place(run.folder / changes["train_stage"])
            trainer.progress = self.bars
            logger.info("%s: stage %s", run.title(), changes["train_stage"])
            if self.force:
                trainer.discard()
            trainer.fit(training_loader(prepared)[0])
            changes = {"train_stage": following, "pre_model_path": trainer.saved_model_file}
        return changes

    def _train(self, run: Run, prepared: Prepared, watch: Stopwatch, record: Record) -> Any:
        trainer: Any
        if run.settings["engine"] == "recbole":
            trainer = ReferenceTrainer(prepared, run.folder)
            with watch("train"):
                trainer.fit()
            record.recbole_metrics = trainer.test_metrics
            if prepared.sequential == bool(run.settings["mask_history"]):
                # RecBole's evaluator masks the user's history for general models and ranks it for sequential ones.
                record.notes.append("chosen by RecBole's validation, which masks otherwise")
            return self._note_training(run, trainer, record)
        trainer, train_data = self._trainer(run, prepared, run.folder, watch, record)
        if self.force:
            trainer.discard()
        else:
            trainer.resume(train_data)
        trainer.fit(train_data, None if trainer.plan is not None else prepared.eval_loader("valid"))
        trainer.restore_best()
        for phase, seconds in trainer.seconds.items():
            watch.add(phase, seconds)
        return self._note_training(run, trainer, record)

    def _trainer(self, run: Run, prepared: Prepared, folder: Path, watch: Stopwatch, record: Record) -> tuple[Any, Any]:
        """Our trainer and the batches it trains on."""
        trainer = make_trainer(prepared.config, prepared.model)
        trainer.place(folder)
        trainer.progress = self.bars
        features = prepared.dataset.semantics
        trainer.features_digest = "" if features is None else features.digest
        with watch("build"):
            train_data, note = training_loader(prepared)
        if note:
            record.notes.append(note)
        if is_joined():
            Together.take_over(trainer, train_data)
        if (chooser := run.chooser()) is not None:
            self._plan(trainer, chooser, record)
            return trainer, train_data
        chosen, cases = len(prepared.cases("valid")), len(prepared.dataset.split.valid)
        if chosen < cases:
            record.notes.append(f"validated on {chosen} of {cases} cases: the users with the smallest hashes")
        return trainer, train_data

    def _plan(self, trainer: Any, chooser: Run, record: Record) -> None:
        """Let a refit train as many epochs as the run that chooses them took to its best epoch."""
        chosen = self.store.find(chooser.key)
        if chosen is None or chosen.status != "ok":
            raise UserError(f"{chooser.title()} has no record that says how long a refit trains.")
        trainer.follow(chosen_epochs(chosen))
        record.chosen_by = chosen.key
        record.notes.append(f"refit on training and validation data: epochs as {chosen.key} chose them, {trainer.plan}")

    def _note_training(self, run: Run, trainer: Any, record: Record) -> Any:
        record.curve = trainer.curve
        record.epochs = len(trainer.curve)
        record.best_epoch = trainer.best_epoch if trainer.best_epoch > 0 else None
        record.valid_metric = str(run.settings["valid_metric"]).lower()
        record.valid_metrics = dict(trainer.best_valid_result or {})
        recorded = getattr(trainer, "recorded", None)
        if recorded is not None and recorded.recorded:
            record.accelerations.append("RecordedSteps")
        if recorded is not None and recorded.why_not:
            record.notes.append(f"training steps were not recorded: {recorded.why_not}")
        return trainer

    def _measure(self, record: Record, ranks: Any, lists: Any, prepared: Prepared) -> None:
        def with_direction(values: dict[str, float]) -> dict[str, MetricValue]:
            return {n: MetricValue(value=v, higher_is_better=higher_is_better(n)) for n, v in values.items()}

        record.metrics = with_direction(summarise(ranks, prepared.config["metrics"], prepared.config["topk"]))
        if lists is not None:
            record.list_metrics = with_direction(list_metrics_of(lists, ranks, prepared.config["list_metrics"]))


def _said_of_gaps(dataset: Any, record: Record) -> list[str]:
    """What files of profiles and vectors lack, where it is much: those of other data fit some ids by chance."""
    if record.features is None:
        return []
    lacking = {
        "items have no profile": 1 - dataset.semantics.folder.manifest["features"]["itemtext"].get("profiles", 1)
    }
    for vectors in record.features.vectors:
        what = f"{vectors['of'].removesuffix('_id')}s have no vector in {vectors['name']}"
        lacking[what] = vectors["missing"] / (vectors["known"] + vectors["missing"])
    shares = {what: round(share, 4) for what, share in lacking.items()}
    return [f"{percent(share)} of the {what}" for what, share in shares.items() if share >= UNNAMED]


def _said_of_threshold(threshold: dict[str, float]) -> str:
    """What labels made from ratings do not do, here as in RecBole."""
    ((column, value),) = threshold.items()
    return (
        "threshold makes labels, which only models that learn from them without sampled negatives read: rows with "
        f"{column} below {value} are history and targets all the same; --val_interval={{{column}: '[{value},inf)'}} "
        "leaves them out"
    )


# ---- one run trained by several processes (--nproc) ------------------------------------------------


def run_together(run: Run, runner: Runner) -> Record:
    """Train with as many processes as the setting ``nproc`` says; the first one tests and stores.

    Raises:
        UserError: the run cannot be trained this way, or one of the processes failed.
    """
    world = int(run.settings["nproc"])
    # DistributedDataParallel notes what learns when it is built; gradients of parts thawed later would not be shared.
    in_stages = run.settings.method.trained_as in STAGES or run.settings.get("stage_epochs")
    if run.settings["engine"] != "fast" or in_stages:
        raise UserError(f"--nproc={world} is for models of one stage and for --engine=fast.")
    if _device_of(run).type == "cuda" and world > (count := len(visible_gpus())):
        raise UserError(
            f"--nproc={world}: each process takes a GPU of its own, and torch sees {counted(count, 'GPU')}; give fewer "
            "processes, or --device=cpu."
        )
    runner.make_features(run)
    with tempfile.TemporaryDirectory() as folder, closing(ProcessExecutor(world, retries=0)) as executor:
        ahead = runner.ahead.pop(run.key, {})
        shared = (world, str(Path(folder) / "meeting"), run, str(runner.store.folder), runner.force, ahead)
        jobs = [Job(f"process {rank} of {run.title()}", run_rank, (rank, *shared), tag=rank) for rank in range(world)]
        found = None
        for result in each_result(executor, jobs):
            if isinstance(result.error, JobError):
                raise UserError(f"--nproc={world}: process {result.job.tag} failed: {result.reason}")
            if result.error is not None:
                raise result.error
            found = result.value if result.job.tag == 0 else found
    assert isinstance(found, Record)
    return found


def _device_of(run: Run) -> torch.device:
    return resolve_device(*(run.settings[name] for name in ("device", "use_gpu", "gpu_id")))


def run_rank(
    rank: int, world: int, meeting: str, run: Run, results: str, force: bool, ahead: dict[str, float]
) -> Record | None:
    """Train in one of the processes; the first one returns the record."""
    join(rank, world, Path(meeting), _device_of(run))
    try:
        runner = Runner(ResultStore(results), force=force, asks_again=False)
        runner.ahead[run.key] = ahead
        if rank == 0:
            return runner.make_here(run)
        runner.train_along(run)
        return None
    finally:
        distributed.destroy_process_group()
