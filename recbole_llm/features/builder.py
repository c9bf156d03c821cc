"""The hook: make sure that the features a model reads exist, and make only what is missing."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.split_facts import targets_after
from recbole_llm.errors import UserError
from recbole_llm.features.encoder import Encoder, encode_texts
from recbole_llm.features.feature import ITEMS_ALONE, Context, Feature, Prerequisite
from recbole_llm.features.folder import ASKED_COLUMNS, ChangedFileError, SemanticFolder, asked_suffix
from recbole_llm.features.identity import identity
from recbole_llm.features.items import check_titles, item_texts, read_profiles
from recbole_llm.features.lookup import feature_stamps, find_feature
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.pseudonyms import pseudonymous
from recbole_llm.features.reader import SemanticFeatures
from recbole_llm.features.reading import noted_reading
from recbole_llm.features.sources import AnswerSource, AnswersPending, Ledger, Progress, chosen_endpoint
from recbole_llm.features.vectors import given_vectors
from recbole_llm.llm.budget import Usage
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.endpoint import OFFLINE
from recbole_llm.settings.layers import Settings
from recbole_llm.settings.rules import features_read
from recbole_llm.settings.schema import ITEM, USER
from recbole_llm.utils.files import file_sha256, one_process_at_a_time
from recbole_llm.utils.text import counted

logger = logging.getLogger(__name__)

Watch = Callable[[str], AbstractContextManager[None]]


class FeatureBuilder:
    """The features of one run: which exist, which are missing, and how they are made.

    Args:
        settings: the run's settings.
        location: where the dataset is; files go to its ``semantics`` folder.
        dataset: with ``table``, ``split``, ``sha256`` and ``reading()``.
        stage_one: the prerequisite model, trained only if a missing feature needs it.
        progress: wraps loops for a progress bar.
        watch: times the phases ``llm`` and ``encode``.
        asking: how the command gets its answers.

    Attributes:
        by_name: features by name, in build order: ``itemtext`` and those that the model reads under these settings.
            The folder is for all features of the method, so variants with components switched off share it.
        wanted: names of the features that the model itself reads under these settings.

    Raises:
        UserError: the source of answers, the encoder or a file cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        location: DatasetLocation,
        dataset: Any,
        stage_one: Prerequisite | None,
        progress: Progress,
        watch: Watch,
        asking: AnswerSource,
    ) -> None:
        self.settings, self.dataset, self.stage_one = settings, dataset, stage_one
        self.progress, self.watch, self.asking = progress, watch, asking
        self.endpoint = chosen_endpoint(settings, asking.asks)
        self.encoder = Encoder(str(settings["encoder"]), "mean", int(settings["encoder_max_length"]))
        self.items = item_texts(settings.values, location, dataset.table)
        made_from = identity(settings, location, dataset, self.endpoint, stage_one, self.encoder, self.items)
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self.location, self.home = location, location.semantics
        source = self.endpoint.name if self.endpoint else OFFLINE
        path = self.home / f"{settings['protocol']}-{source}-{digest}"
        self.name = str(path)
        self.scratch = _linked_copy(path) if self.asking.dry else None
        path = Path(self.scratch.name) if self.scratch else path
        self.folder = SemanticFolder(path, location.stem, made_from, noted_reading(settings))
        self._is_alone = False
        self.given = given_vectors(settings.get("vectors"))
        if settings.get("profiles"):
            if ITEM in self.given and settings.get("text_columns"):
                raise UserError(
                    f"--profiles: {settings.method.name} reads --vectors in the place of the items' texts, "
                    "profiles among them. Leave one of the two out."
                )
            tokens = dataset.table.item_tokens.tolist()
            profiles = read_profiles(Path(settings["profiles"]), self.items.title, tokens, settings["profiles_by"])
            self.items = replace(self.items, profile=profiles)
        check_titles(location, self.items, str(settings["field_separator"]))
        self.items = pseudonymous(self.items, str(settings["titles"]), int(settings["titles_seed"]))
        read = features_read(settings.method, settings.values)
        names = list(dict.fromkeys(("itemtext", *read)))
        self.by_name = {feature.name: feature for feature in map(find_feature, names)}
        self.wanted = [find_feature(name).name for name in read]
        self.stamps = feature_stamps(names)

    def missing(self) -> list[str]:
        """Features that are absent, incomplete or stale, and features that read those, in build order."""
        missing: list[str] = []
        for name in self.stamps:
            if self._reads(name) & set(missing) or not self._is_made(name):
                missing.append(name)
        return missing

    def _reads(self, name: str) -> set[str]:
        """Features whose files a feature reads."""
        return set(getattr(self.by_name[name], "needs", ()))

    def _is_made(self, name: str) -> bool:
        stamp = self.stamps[name]
        entry = self.folder.manifest["features"].get(name)
        if entry is None or entry.get("stopped"):
            return False
        if entry.get("counts", {}).get("unanswered") and self.asking.asks_again(self.name, name, self.endpoint):
            return False
        if entry.get("stamp") != stamp:
            logger.info("%s is stale (%s is now %s): it is made again", name, entry.get("stamp"), stamp)
            return False
        noted = [asked_suffix(name)] if asked_suffix(name) in self.folder.manifest["files"] else []
        return all(self.folder.has(file) for file in (*self.by_name[name].files, *noted))

    def make(self) -> list[str]:
        """Make what is missing.

        Returns:
            Features that wait for answers, if the command collects questions instead of asking them.

        Raises:
            UserError: a limit was reached; the answers so far are kept.
        """
        with suppress(ChangedFileError):  # another process may be writing it
            if not self.missing():
                return []
        with self._alone():
            # Another process may have made some or all by now; two at once would pay for every question twice.
            return self._make_missing()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock during a block, which begins by reading again what other processes have written.

        All writing happens in such a block: a manifest read earlier may lack what another process has made since.
        """
        if self._is_alone:  # a feature needs vectors, while it is made, of texts that are not committed yet
            yield
            return
        with one_process_at_a_time(self.folder.path, f"the features of {self.folder.path.name}"):
            before = self.folder
            self.folder = SemanticFolder(before.path, before.stem, before.identity, before.read_with)
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    def _make_missing(self) -> list[str]:
        missing = self.missing()
        waiting: list[str] = []
        if not missing:
            return waiting
        cache = self.responses() if self.endpoint else None
        try:
            self._check_key(missing, cache)
            for name in missing:
                if set(waiting) & self._awaits(name):
                    waiting.append(name)  # its questions depend on answers that are still missing
                    continue
                if self._reads(name) & set(missing) and self._is_made(name):
                    continue  # the features it reads were made again and came out the same
                try:
                    self._make(self.by_name[name], cache)
                except AnswersPending:
                    waiting.append(name)
        finally:
            if cache is not None:
                cache.close()
        return waiting

    def _check_key(self, missing: Sequence[str], cache: ResponseCache | None) -> None:
        """Raise now if the key is missing and no answer can come without it, not after titles have been encoded."""
        asks = any(self.by_name[name].prompts for name in missing) and self.asking.asks
        if self.endpoint is None or cache is None or self.asking.published is not None or not asks:
            return
        if not len(cache) and not self.asking.budget.asks_nothing:
            self.endpoint.key()

    def responses(self) -> ResponseCache:
        """The dataset's answer cache; the caller closes it."""
        return ResponseCache(self.location.answers)

    def _awaits(self, name: str) -> set[str]:
        """Features whose answers a feature's questions may depend on; all earlier ones if it has no ``needs``."""
        names = tuple(self.stamps)
        return set(getattr(self.by_name[name], "needs", names[: names.index(name)]))

    def _make(self, feature: Feature, cache: ResponseCache | None) -> None:
        if cache is not None:
            self._borrow(feature, cache)
        ledger = None
        if self.endpoint is not None and cache is not None:
            share = float(self.settings["answer_share"])
            ledger = Ledger(self.endpoint, cache, self.progress, share=share)
        context = Context(
            self.settings,
            self.dataset.table,
            self.dataset.split,
            self.items,
            self.folder,
            self.stage_one,
            self.progress,
            self.encode,
            self.vectors_of,
            self.asking,
            ledger,
            self.given,
            [load_prompt(name).name for name in feature.prompts],
        )
        if not self.asking.dry:
            logger.info("making %s for %s", feature.name, self.folder.path.name)
        self.folder.written.clear()
        self.asking.begin(feature.name)
        before = self._digests(feature)
        with self.watch("llm" if ledger is not None and feature.prompts else "features"):
            try:
                facts = feature.build(context)
            except UserError as error:
                if not self._is_whole(feature.name):
                    if advice := self._table_advice(feature):
                        raise UserError(f"{error} {advice}") from error
                    raise
                logger.warning("%s stays incomplete: %s", feature.name, error)
                self.asking.made.add((self.name, feature.name))
                return
        self._check_made(feature, facts)
        if ledger is not None and ledger.asked and not ledger.answered and not ledger.usage.stopped:
            # No result row may carry the name of an LLM that gave no usable answer.
            why = ledger.nothing_came(f"for {feature.name}")
            raise UserError(f"{why} No model is trained on that; --semantics=none trains it without.")
        if self._digests(feature) != before:
            self._forget_readers(feature.name)
        if ledger is not None and feature.prompts:
            self.folder.write(asked_suffix(feature.name), ASKED_COLUMNS, ((key,) for key in ledger.used))
        self._commit(feature, facts, ledger)
        self.asking.made.add((self.name, feature.name))
        if ledger is not None:
            ledger.check_not_stopped()

    def _check_made(self, feature: Feature, facts: Any) -> None:
        """Raise a ``UserError`` if a builder left out a file that it lists, or the facts."""
        # A file that an earlier version of the feature wrote may still be there.
        if lacking := [suffix for suffix in feature.files if suffix not in self.folder.written]:
            names = ", ".join(lacking)
            raise UserError(
                f"the feature {feature.name}: build wrote no {names}, which `files` lists. "
                "Write each with `context.folder.write`."
            )
        if not isinstance(facts, dict):
            raise UserError(
                f"the feature {feature.name}: build returns a dict of facts, such as {{'coverage': 1.0}}, not {facts}."
            )

    def _table_advice(self, feature: Feature) -> str:
        """What to check where published answers do not cover a feature's questions about a table of candidates."""
        table = self.settings.get("candidate_table")
        if self.endpoint is None or not self.endpoint.published or not table or not self._reads(feature.name):
            return ""
        values = self.settings
        return (
            f"The questions are about the candidates of --candidate_table={table} with --dataset={self.location.name}, "
            f"--protocol={values['protocol']} and --MAX_ITEM_LIST_LENGTH={values['MAX_ITEM_LIST_LENGTH']}. A table "
            "belongs to one dataset, one protocol and one length of histories: give the table of these, or the "
            "settings of this table."
        )

    def _borrow(self, feature: Feature, cache: ResponseCache) -> None:
        """Let the cache take published answers to a feature's prompts; a dry run does not keep them."""
        if self.asking.published is None or self.endpoint is None or not feature.prompts:
            return
        prompts = [load_prompt(name).name for name in feature.prompts]
        cache.lender = self.asking.published.lender(self.endpoint.model, prompts)
        cache.borrows = not self.asking.dry
        new = {(str(cache.path), self.endpoint.model, prompt) for prompt in prompts} - self.asking.compared
        self.asking.compared |= new
        if differ := cache.differing([prompt for _, _, prompt in sorted(new)], self.endpoint.model):
            published = "the published one" if differ == 1 else "the published ones"
            logger.warning(
                "%s: %s kept here %s from %s; what is kept here is used",
                cache.path, counted(differ, "answer"), "differs" if differ == 1 else "differ", published,
            )  # fmt: skip

    def _is_whole(self, name: str) -> bool:
        """Whether a feature is complete and up to date, apart from gaps."""
        entry = self.folder.manifest["features"].get(name, {})
        return entry.get("stamp") == self.stamps[name] and not entry.get("stopped")

    def _digests(self, feature: Feature) -> list[str | None]:
        """SHA-256 of each of a feature's files as the manifest has it; ``None`` for a file that is not listed."""
        return [self.folder.manifest["files"].get(suffix, {}).get("sha256") for suffix in feature.files]

    def _digest(self) -> str:
        """A hash of the text table and of the files of all features."""
        files = [digest for feature in self.by_name.values() for digest in self._digests(feature)]
        return hashlib.sha256(repr([self.folder.manifest["files"]["text"]["sha256"], *files]).encode()).hexdigest()

    def _forget_readers(self, name: str) -> None:
        """Remove from the manifest all features that were made, directly or not, from a feature's former files."""
        for other in self.stamps:
            if name in self._reads(other):
                self.folder.manifest["features"].pop(other, None)
                self._forget_readers(other)

    def _commit(self, feature: Feature, facts: dict[str, Any], ledger: Ledger | None) -> None:
        usage = ledger.usage if ledger is not None else Usage()
        before = self.folder.manifest["features"].get(feature.name, {})
        if before.get("stamp") == self.stamps[feature.name]:
            usage.add_spoilt(before.get("usage", {}))
        # If the feature was complete before and covers no less now, what is missing are gaps, counted as such.
        only_gaps = self._is_whole(feature.name) and facts.get("coverage", 1.0) >= before.get("coverage", 1.0)
        entry: dict[str, Any] = {
            "stamp": self.stamps[feature.name],
            "sees": getattr(feature, "visible", ITEMS_ALONE),
            "files": list(feature.files),
            "counts": dict(ledger.counts) if ledger is not None else {},
            **({"unreadable": ledger.unreadable} if ledger is not None and ledger.unreadable else {}),
            **facts,
            "usage": usage.facts(),
            "stopped": "" if only_gaps or ledger is None else usage.stopped or ledger.limited,
        }
        if ledger is not None:
            entry["prompts"] = {name: load_prompt(name).facts() for name in feature.prompts}
        self.folder.commit(feature.name, entry)

    def encode(self) -> np.ndarray:
        """Vectors of all texts in the folder, encoded now if they are missing; other processes wait meanwhile."""
        with suppress(ChangedFileError):  # another process may be writing them
            if (known := self.folder.vectors(self.encoder.id)) is not None:
                return known
        with self._alone():
            known = self.folder.vectors(self.encoder.id)
            if known is None:
                known = self.vectors_of(self.folder.texts.texts, self.encoder.pooling)
                self.folder.write_vectors(self.encoder.id, known)
                self.folder.save_manifest()
        return known

    def vectors_of(self, texts: Sequence[str], pooling: str) -> np.ndarray:
        """``(n, d)`` vectors of texts, encoded with the given pooling."""
        device, encoder = str(self.dataset.config["device"]), replace(self.encoder, pooling=pooling)
        with self.watch("encode"):
            return encode_texts(texts, encoder, self.location.vectors, device, self.progress)

    def features(self) -> SemanticFeatures:
        """What models read. Texts are encoded now or, if the items have given vectors, when a model asks for them."""
        if ITEM not in self.given:
            self.encode()
        table = self.dataset.table
        tokens = {ITEM: table.item_tokens.tolist(), USER: table.user_tokens.tolist()}
        facts = _facts(self.folder, self.by_name, self.encoder)
        cut = self.endpoint.knowledge_cut if self.endpoint else None
        if cut is not None:
            facts |= {"knowledge_cut": cut.isoformat(), "after_cut": targets_after(table, self.dataset.split, cut)}
        facts["vectors"] = [vectors.facts(tokens[key]) for key, vectors in self.given.items()]
        return SemanticFeatures(
            self.folder,
            table,
            self.encode,
            self.settings["semantics"],
            facts,
            int(self.settings["seed"]),
            self.given,
            str(self.settings["whitening"]),
            self._digest(),
        )


def _linked_copy(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder with links to another one's files; safe, since files are replaced, never changed in place."""
    copy = tempfile.TemporaryDirectory(prefix="recbole-llm-dry-")
    if folder.is_dir():
        for path in folder.iterdir():
            Path(copy.name, path.name).symlink_to(path.resolve())
    return copy


def _facts(folder: SemanticFolder, names: Container[str], encoder: Encoder) -> dict[str, Any]:
    """Facts for the record about the features that the model reads."""
    llm = folder.identity["llm"]
    features = {name: entry for name, entry in folder.manifest["features"].items() if name in names}
    usages = [entry["usage"] for entry in features.values() if "usage" in entry]
    total = {
        name: sum(usage.get(name, 0) for usage in usages)
        for name in ("requests", "cached", "failed", "tokens_in", "tokens_out")
    }
    return {
        "llm": llm["name"],
        "llm_model": llm.get("model"),
        "server": llm.get("settings", {}).get("server"),
        "encoder": encoder.id,
        "folder": str(folder.path),
        "manifest_sha256": file_sha256(folder.path / "manifest.json"),
        "coverage": {name: entry["coverage"] for name, entry in features.items() if "coverage" in entry},
        "filled": {name: entry["filled"] for name, entry in features.items() if entry.get("filled")},
        "price": round(sum(usage.get("price", 0.0) for usage in usages), 6),
        **total,
    }
