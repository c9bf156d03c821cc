"""RecBole's dataset classes over our flat interactions and our splits.

``make_dataset`` returns a subclass of the dataset class that RecBole would use for the model. If the
files are plain (ids, times, numbers), the interactions come from the cached arrays of
``data.inter_file``; if a model needs more (knowledge graphs, labels by threshold, ...), RecBole reads
and filters, and the result is put into the same canonical order. Either way ``table`` and ``split`` are
set, and both engines see the same rows.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType, ModelType

from recbole_llm.data.atomic import is_number, read_header, read_table
from recbole_llm.data.batch import LazyInteraction
from recbole_llm.data.candidates import contents_digest, name_part, rows_only, sampled, unusual_cases, unusual_reading
from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.inter_file import (
    KEEP,
    ReadSpec,
    as_exact_time,
    check_columns,
    load_interactions,
    no_time_facts,
    time_facts,
)
from recbole_llm.data.interactions import Interactions, TokenIndex, canonical_order, exact_repeats, offsets_of
from recbole_llm.data.parts import load_parts, part_files, parts_sha256, split_by_parts
from recbole_llm.data.published import published_split
from recbole_llm.data.recbole_reader import check_recbole_can_read, explain_number
from recbole_llm.data.sessions import cut_sessions
from recbole_llm.data.split import (
    Cases,
    Split,
    checked,
    positions,
    read_user_ranks,
    split_interactions,
    without_fold,
)
from recbole_llm.data.times import in_seconds
from recbole_llm.errors import UserError
from recbole_llm.utils.files import file_sha256

logger = logging.getLogger(__name__)

# RecBole settings that change rows or columns in ways that only RecBole's own reader implements.
RECBOLE_ONLY = (
    "threshold",
    "normalize_field",
    "normalize_all",
    "discretization",
    "additional_feat_suffix",
    "alias_of_user_id",
    "alias_of_item_id",
    "preload_weight",
    "numerical_features",
    "filter_inter_by_user_or_item",
)


class BenchDatasetMixin(Dataset):
    """What our datasets add to RecBole's.

    Attributes:
        location: where the files are.
        table: all interactions in canonical order.
        split: training rows, validation and test cases.
        sha256: hash of the ``.inter`` file, or of all three files of ready parts.
        semantics: the semantic features of this run, set before the model is built; ``None`` if it uses none.
    """

    table: Interactions
    split: Split
    sha256: str
    semantics: Any = None
    inter_feat: Any
    part_of_row: np.ndarray  # only with ready parts
    training_rows: np.ndarray | None = None  # set on the training part of a sequential dataset

    def __init__(self, config: Config, location: DatasetLocation) -> None:
        self.location = location
        super().__init__(config)
        self.split = self._make_split()
        left_out = config["left_out"]
        if left_out is not None:
            self.split = without_fold(self.table, self.split, *left_out)

    def _make_split(self) -> Split:
        """The protocol's split, with its fixed candidates."""
        options = dict(self.config.final_config_dict)
        order = self.location.file("user_last_order.tsv")
        if order is not None:
            options["user_rank"] = read_user_ranks(order)
        if options["split"] == "published":
            return published_split(self.table, self.location, options)
        if options["split"] == "parts":
            split = checked(split_by_parts(self.table, self.part_of_row, options), options)
        else:
            split = split_interactions(self.table, options)
        wanted = options.get("candidates", "all")
        if wanted in (None, "all"):
            return split
        valid, test = (self._with_candidates(split, phase, int(wanted)) for phase in ("valid", "test"))
        return replace(split, valid=valid, test=test)

    def _with_candidates(self, split: Split, phase: str, negatives: int) -> Cases:
        seed, protocol = int(self.config["candidate_seed"]), self.config["protocol"]
        unusual = self.reading() | unusual_cases(
            self.config.final_config_dict, self.location.file("user_last_order.tsv")
        )
        # Files whose name lacks this key hold candidates drawn by versions that counted the items of such rows.
        if (self.table if self._is_plain() else self._plain_table()).facts["rows_without_user_or_item"]:
            unusual["rows_without_user_or_item"] = "left out"
        name = f"{protocol}-{phase}-{negatives}-{seed}-{self.sha256[:8]}{name_part(unusual)}.candidates"
        return sampled(self.table, getattr(split, phase), negatives, seed, self.location.home / "candidates" / name)

    # ---- reading -------------------------------------------------------------------------------

    def reading(self) -> dict[str, Any]:
        """How the interactions differ from what an ordinary run reads from the same file; empty in such a run.

        RecBole's own reader may leave out rows or add items; then the digest of the interactions is included.
        """
        values = self.config.final_config_dict
        found = unusual_reading(values, self.location.name)
        if not self._is_plain():
            digest = contents_digest(self.table)
            if digest != contents_digest(self._plain_table()):
                found["contents"] = digest
        return found

    def _plain_table(self) -> Interactions:
        """The interactions as our own reader gives them."""
        return load_interactions(self.location, rows_only(ReadSpec.from_settings(self.config.final_config_dict)))[0]

    def _is_plain(self) -> bool:
        # The method resolution order is our subclass, the mixin, RecBole's class.
        plain_class = type(self).__mro__[2] in (Dataset, SequentialDataset)
        return plain_class and not any(self.config[key] for key in RECBOLE_ONLY)

    def _from_scratch(self) -> None:
        if not self._is_plain():
            check_recbole_can_read(self, [key for key in RECBOLE_ONLY if self.config[key]])
            spec = ReadSpec.from_settings(self.config.final_config_dict)
            check_columns(self.location.interactions, replace(spec, extra=()))
            try:
                super()._from_scratch()
            except ValueError as error:
                if explained := explain_number(self):
                    raise explained from error
                raise
            return
        self._get_preset()
        self._get_field_from_config()
        spec = ReadSpec.from_settings(self.config.final_config_dict)
        if self.config["split"] == "parts":
            files = part_files(self.config.final_config_dict, self.location)
            self.config["benchmark_filename"] = None  # RecBole would treat each row as a whole history
            self.sha256 = parts_sha256(files)
            self.table, self.part_of_row = load_parts(self.location, files, spec)
        else:
            self.table, self.sha256 = load_interactions(self.location, spec)
        if self.config["sessions"]:
            self.table = cut_sessions(self.table, self.config["sessions"])
        self._declare_columns()
        self.inter_feat = self._rows(None)
        self.user_feat = self._read_side(FeatureSource.USER, self.uid_field)
        self.item_feat = self._read_side(FeatureSource.ITEM, self.iid_field)
        self._init_alias()
        self.feat_name_list = [name for name in ("user_feat", "item_feat") if getattr(self, name) is not None]
        for name in self._rest_fields:
            if self.field2source[name] in (FeatureSource.USER, FeatureSource.ITEM):
                self._remap(self._get_remap_list(np.array([name])))
        self._user_item_feat_preparation()
        self._fill_nan()
        self.feat_name_list.insert(0, "inter_feat")

    def _declare_columns(self) -> None:
        """Tell RecBole's bookkeeping about the columns of the flat interactions."""
        table = self.table
        columns = {self.uid_field: (table.user_tokens, FeatureSource.USER_ID)}
        columns[self.iid_field] = (table.item_tokens, FeatureSource.ITEM_ID)
        columns |= {name: (tokens, FeatureSource.INTERACTION) for name, tokens in table.extra_tokens.items()}
        for name, (tokens, source) in columns.items():
            self.set_field_property(name, FeatureType.TOKEN, source, 1)
            self.field2id_token[name] = tokens
            self.field2token_id[name] = TokenIndex(tokens)
        floats = [name for name in table.extra if name not in table.extra_tokens]
        if table.time is not None:
            floats.append(self.time_field)
        for name in floats:
            self.set_field_property(name, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
            self.field2bucketnum[name] = 2

    def _rows(self, rows: np.ndarray | None) -> LazyInteraction:
        """Some interactions (all if ``rows`` is ``None``) as RecBole's columns, built when first read."""

        def column(values: np.ndarray, dtype: torch.dtype | None) -> Any:
            def build() -> torch.Tensor:
                chosen = torch.from_numpy(np.array(values if rows is None else values[rows]))
                return chosen.to(dtype) if dtype is not None else chosen

            return build

        table = self.table
        sources = {self.uid_field: column(table.user, torch.int64), self.iid_field: column(table.item, torch.int64)}
        if table.time is not None:
            # Integer times stay int64: float32, RecBole's type, merges seconds.
            exact = None if table.time.dtype == np.int64 else torch.float64
            sources[self.time_field] = column(table.time, exact)
        for name, values in table.extra.items():
            sources[name] = column(values, torch.int64 if name in table.extra_tokens else torch.float32)
        return LazyInteraction(sources, len(table) if rows is None else len(rows))

    def _read_side(self, source: FeatureSource, id_field: str) -> Any:
        """``.user`` or ``.item`` as a frame of the ids that occur in interactions, or ``None``.

        Rows of other ids are left out, so that loading a feature never changes the number of items.
        """
        path = self.location.file(source.value)
        load, unload = self._get_load_and_unload_col(source)
        if path is None or load == set():
            return None
        separator = self.config["field_separator"]
        header = {column.name: column.type for column in read_header(path, separator)}
        for name in load or ():
            if name not in header:
                raise UserError(f"{path} has no column {name!r} (load_col asks for it); it has {', '.join(header)}.")
        names = [n for n in header if (load is None or n in load) and not (unload and n in unload)]
        if id_field not in names:
            raise UserError(f"{path}: {id_field} must be among the loaded columns.")
        frame = read_table(path, names, separator).drop_duplicates(subset=[id_field], keep="first")
        index = self.field2token_id[id_field]
        ids = np.array([index.get(token, -1) for token in frame[id_field]], dtype=np.int64)
        frame = frame[ids > 0].reset_index(drop=True)
        frame[id_field] = ids[ids > 0]
        missing = len(index) - 1 - len(frame)
        if missing:
            logger.warning(
                "%s lacks %d of the %d ids of .inter; their features are empty", path, missing, len(index) - 1
            )
        for name in names:
            if name == id_field:
                continue
            kind = FeatureType(header[name])
            self.set_field_property(name, kind, source, 1)
            if "float" in kind.value:
                self.field2bucketnum[name] = 2
            if kind.value.endswith("_seq"):
                frame[name] = self._sequences(path, frame[name].fillna(""), name, kind)
        return frame

    def _sequences(self, path: Path, texts: Any, name: str, kind: FeatureType) -> list[np.ndarray]:
        """Cells as arrays, split at ``seq_separator`` and cut to ``seq_len`` as RecBole does.

        Raises:
            UserError: a part of a ``float_seq`` is no finite number.
        """
        blank, mark = " ", self.config["seq_separator"]
        parts = [text.split() if mark == blank else [part for part in text.split(mark) if part] for text in texts]
        if kind == FeatureType.TOKEN_SEQ:
            rows = [np.array(row, dtype=np.str_) for row in parts]
        else:
            wrong = next((part for row in parts for part in row if not is_number(part)), None)
            if wrong is not None:
                raise UserError(
                    f"{path}: {name} holds {wrong!r}, not a finite number; numbers are separated by {mark!r}."
                )
            rows = [np.array(row, dtype=np.float64) for row in parts]
        limit = (self.config["seq_len"] or {}).get(name)
        rows = [row[:limit] for row in rows] if limit else rows
        self.field2seqlen[name] = max((len(row) for row in rows), default=1)
        return rows

    def _remove_duplication(self) -> None:
        """Remove duplicates by RecBole's rule, or exact repeats only; called only when RecBole reads the files."""
        self._reading = {"rows_read": len(self.inter_feat)}
        if self.config["rm_dup_inter"] in ("first", "last"):
            super()._remove_duplication()
        elif self.config["rm_dup_inter"] != KEEP and self.time_field in self.inter_feat:
            user, item, time, order, _ = self._ordered()
            assert time is not None
            if len(repeats := exact_repeats(user, item, time, order)):
                self._reading["rows_repeated"] = len(repeats)
                self.inter_feat = self.inter_feat.drop(self.inter_feat.index[repeats])

    def _ordered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, int]:
        """Users, items and times of the frame that RecBole read, its canonical order, and the number of tied rows."""
        feat = self.inter_feat
        codes = [feat[name].astype("category") for name in (self.uid_field, self.iid_field)]
        time = None
        if self.time_field in feat:
            time = as_exact_time(feat[self.time_field].to_numpy(), self.location.interactions, self.time_field)
        user, item = (code.cat.codes.to_numpy() for code in codes)
        names = [np.asarray(code.cat.categories, dtype=np.str_) for code in codes]
        return user, item, time, *canonical_order(user, item, time, names[0], names[1])

    def _data_filtering(self) -> None:
        """Apply RecBole's filters, then the canonical order; called only when RecBole reads the files."""
        super()._data_filtering()
        *_, order, self._reading["rows_tied_in_time"] = self._ordered()
        self.inter_feat = self.inter_feat.iloc[order].reset_index(drop=True)

    def _data_processing(self) -> None:
        super()._data_processing()
        self.sha256 = file_sha256(self.location.interactions)
        self.table = self._table_from_frame()

    def _table_from_frame(self) -> Interactions:
        """Flat arrays of the interactions that RecBole read, which are in canonical order already."""
        user = self.inter_feat[self.uid_field].to_numpy().astype(np.int32)
        time, facts = None, self._reading
        if self.time_field not in self.inter_feat:
            spec = ReadSpec.from_settings(self.config.final_config_dict)
            facts |= no_time_facts(self.location.interactions, user, self.inter_feat[self.iid_field].to_numpy(), spec)
        else:
            path = self.location.interactions
            time = as_exact_time(self.inter_feat[self.time_field].to_numpy(), path, self.time_field)
            facts |= time_facts(user, time)
            time, of_unit = in_seconds(time, f"{path}, {self.time_field}")
            facts |= of_unit
        return Interactions(
            user=user,
            item=self.inter_feat[self.iid_field].to_numpy().astype(np.int32),
            time=time,
            extra={},
            offsets=offsets_of(user, self.user_num),
            user_tokens=self.field2id_token[self.uid_field],
            item_tokens=self.field2id_token[self.iid_field],
            facts=facts,
        )

    def _change_feat_format(self) -> None:
        for name in self.feat_name_list:
            feat = getattr(self, name)
            if not isinstance(feat, Interaction):
                setattr(self, name, self._dataframe_to_interaction(feat))

    # ---- splitting -----------------------------------------------------------------------------

    def training_part(self) -> Dataset:
        """This dataset with only the training interactions: all that a model's constructor may see.

        For sequential models the rows are the training prefixes, as RecBole augments them; their padded
        histories are built only if a model asks for them (FEARec does).
        """
        self._change_feat_format()
        if not isinstance(self, SequentialDataset):
            return self.copy(self._rows_of_any(self.split.train_rows))
        rows = self.split.train_targets
        train = self.copy(self._rows_of_any(rows))
        train.training_rows = self.split.train_rows
        train._aug_presets()  # field properties of the sequence columns, as data_augmentation would set them
        if isinstance(train.inter_feat, LazyInteraction):
            self._add_histories(train.inter_feat, rows)
        return train

    def _add_histories(self, prefixes: LazyInteraction, rows: np.ndarray) -> None:
        """Add the sequence columns of some prefixes, padded to full length on the host when first read."""
        longest, suffix = self.max_item_list_len, self.config["LIST_SUFFIX"]
        length = np.minimum(positions(self.table, rows), longest)
        whole = self._rows(None)

        def history(name: str) -> torch.Tensor:
            place = np.arange(longest)
            index = torch.from_numpy(np.where(place < length[:, None], (rows - length)[:, None] + place, 0))
            return whole[name][index] * torch.from_numpy(place < length[:, None])

        for name in list(prefixes):
            if name != self.uid_field:
                prefixes.add(name + suffix, partial(history, name))
        prefixes.add(self.item_list_length_field, lambda: torch.from_numpy(length))

    def _rows_of_any(self, rows: np.ndarray) -> Interaction:
        return self._rows(rows) if isinstance(self.inter_feat, LazyInteraction) else self.inter_feat[rows]

    def build(self) -> list[Dataset]:
        """Training, validation and test part in RecBole's own form, for RecBole's own loaders.

        Raises:
            UserError: the protocol has cases that RecBole's loaders cannot express.
        """
        split = self.split
        if not (split.valid.single_target and split.test.single_target and split.test.candidates is None):
            raise UserError("--engine=recbole knows one target a case and its own candidates; use --engine=fast here.")
        repeated = any(len(np.unique(cases.user)) < len(cases) for cases in (split.valid, split.test))
        if repeated and not isinstance(self, SequentialDataset):
            raise UserError("--engine=recbole takes all targets of a user for one case; use --engine=fast here.")
        self._change_feat_format()
        parts = (split.train_rows, split.valid.target_rows, split.test.target_rows)
        if isinstance(self, SequentialDataset):
            return self._augmented(parts)
        self._drop_unused_col()
        return [self.copy(self.inter_feat[rows]) for rows in parts]

    def _augmented(self, parts: tuple[np.ndarray, ...]) -> list[Dataset]:
        """RecBole's augmentation (one padded row for each prefix), then our split of its rows."""
        position = self.positions()
        self.data_augmentation()
        self.inter_feat["position"] = torch.from_numpy(position[position > 0])
        row_of = np.cumsum(position > 0) - 1
        self._drop_unused_col()
        return [self.copy(self.inter_feat[row_of[rows[position[rows] > 0]]]) for rows in parts]

    def positions(self) -> np.ndarray:
        """``(n,)`` int64: each interaction's index in its user's whole history, from 0."""
        return positions(self.table, np.arange(len(self.table)))

    # ---- what models ask of a dataset ----------------------------------------------------------

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """The user-item matrix of the interactions (for sequential models RecBole rebuilds it from prefixes)."""
        if self.training_rows is not None:
            whole = self.copy(self._rows_of_any(self.training_rows))
            whole.training_rows = None
            return Dataset.inter_matrix(whole, form, value_field)
        if isinstance(self, SequentialDataset) and self.item_list_length_field in self.inter_feat:
            return super().inter_matrix(form, value_field)
        return Dataset.inter_matrix(self, form, value_field)

    def _history_matrix(self, row: str, value_field: str | None = None, max_history_len: int | None = None) -> Any:
        """RecBole's history matrix without its Python loop: ids, values and lengths of each user (or item)."""
        users, items = self.inter_feat[self.uid_field], self.inter_feat[self.iid_field]
        values = self.inter_feat[value_field].float() if value_field else torch.ones(len(users))
        owner, other = (users, items) if row == "user" else (items, users)
        n_rows = self.user_num if row == "user" else self.item_num
        # RecBole shuffles before it cuts long histories; the order of a row is random there too.
        shuffled = torch.randperm(len(owner))
        order = shuffled[torch.sort(owner[shuffled], stable=True).indices]
        length = torch.bincount(owner, minlength=n_rows)
        width = min(int(length.max()), max_history_len or int(length.max()))
        place = torch.arange(len(order)) - (torch.cumsum(length, 0) - length)[owner[order]]
        kept = place < width
        order, place = order[kept], place[kept]
        ids = torch.zeros(n_rows, width, dtype=torch.int64)
        weights = torch.zeros(n_rows, width)
        ids[owner[order], place] = other[order]
        weights[owner[order], place] = values[order]
        return ids, weights, length.clamp(max=width)


def dataset_class(config: Config) -> type[Dataset]:
    """The dataset class that RecBole would use for the model (data/utils.py:41)."""
    module = importlib.import_module("recbole.data.dataset")
    special = getattr(module, f"{config['model']}Dataset", None)
    if special is not None:
        return special
    names = {
        ModelType.SEQUENTIAL: "SequentialDataset",
        ModelType.KNOWLEDGE: "KnowledgeBasedDataset",
    }
    return getattr(module, names.get(config["MODEL_TYPE"], "Dataset"))


def make_dataset(config: Config, location: DatasetLocation) -> Any:
    """Read and split a dataset for the model that ``config`` names.

    Raises:
        UserError: the files are missing or malformed, or too small for the protocol.
    """
    base = dataset_class(config)
    return type(f"Bench{base.__name__}", (BenchDatasetMixin, base), {})(config, location)
