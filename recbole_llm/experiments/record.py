"""The record of one run: everything that tables, tests and later checks need.

The schema is versioned, and records of older versions are read: each step of ``_UPGRADES`` brings a record
to the next version. ``Record.model_json_schema()`` is the documented form (``docs/reference/results.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from recbole_llm.evaluation.names import higher_is_better
from recbole_llm.utils.portable import portable

SCHEMA = 3
TOLERANCE = 1e-9  # of a metric against the mean over its ranks
SHOWN_FILE = "shown."  # prefix to the name of a file that only list metrics read
_SHOWN = ("error", "settings", "origin", "features", "lists", "notes", "warnings")  # parts that may name files
# Labels of rows with invented titles (--titles).
TITLES = {"pseudonym": "pseudonyms", "pseudonym_all": "pseudonyms, categories too"}


def _from_1(values: dict[str, Any]) -> dict[str, Any]:
    """Version 1 marked every metric as better when higher."""
    metrics = values.get("metrics")
    if not isinstance(metrics, dict) or not all(isinstance(metric, dict) for metric in metrics.values()):
        return values  # validation reports what is wrong
    directed = {name: {**metric, "higher_is_better": higher_is_better(name)} for name, metric in metrics.items()}
    return {**values, "metrics": directed}


def _from_2(values: dict[str, Any]) -> dict[str, Any]:
    """Version 2 called EIMF's behavioural module ``ibim``; now it is ``backbone``, as for LLM-DMsRec."""
    renamed = {
        part: {"backbone" if key == "ibim" else key: value for key, value in values[part].items()}
        for part in ("settings", "origin")
        if isinstance(values.get(part), dict)
    }
    return {**values, **renamed}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}


class MetricValue(BaseModel):
    """One metric of one run."""

    model_config = ConfigDict(extra="ignore")

    value: float
    higher_is_better: bool = True


class Point(TypedDict, total=False):
    """One epoch of a curve."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc] # keys of a trainer of one's own

    epoch: int
    stage: str  # of a model that trains in stages
    loss: float | list[float | None] | None  # a list if the model has several; JSON has null for infinite ones
    seconds: float
    valid: dict[str, float | None]  # metrics, in epochs that were validated


def loss_of(point: Point) -> float | None:
    """The loss of one epoch of a curve, summed if a model has several; ``None`` if there is none."""
    loss = point.get("loss")
    parts = [*loss] if isinstance(loss, (list, tuple)) else [loss]
    known = [part for part in parts if part is not None]
    return float(sum(known)) if len(known) == len(parts) else None


class DatasetFacts(BaseModel):
    """What the metrics were computed on."""

    model_config = ConfigDict(extra="ignore")

    name: str
    sha256: str
    statistics: dict[str, float] = Field(default_factory=dict)
    reading: dict[str, int] = Field(default_factory=dict, description="rows read, filtered, tied in time, ...")
    train_interactions: int = 0
    valid_cases: int = 0
    test_cases: int = 0
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of every file that was read, by its name")
    cold: dict[str, int] = Field(
        default_factory=dict,
        description="test cases of users, and test targets of items, without a training interaction; targets that are "
        "no cases since nothing stands before them",
    )
    later_training: float | None = Field(
        default=None, description="share of the training interactions that are later than a test target, on average"
    )
    cuts: dict[str, str] = Field(default_factory=dict, description="where validation and test begin (protocol gts)")
    rarity: dict[str, float] = Field(
        default_factory=dict, description="sampled rankings: what rarity in training alone says of the test targets"
    )

    def key_files(self) -> dict[str, str]:
        """The files that enter a run's key: all but those that only list metrics read."""
        return {name: digest for name, digest in self.files.items() if not name.startswith(SHOWN_FILE)}


class SemanticFacts(BaseModel):
    """Where the semantic features came from and what they cost."""

    model_config = ConfigDict(extra="ignore")

    llm: str = Field(description="name of the source; `offline` is a rule, not an LLM")
    llm_model: str | None = None
    server: str | None = Field(default=None, description="address of the LLM, where it is not that of its file")
    encoder: str | None = None
    folder: str | None = None
    manifest_sha256: str | None = None
    vectors: list[dict[str, Any]] = Field(
        default_factory=list, description="files of vectors made elsewhere: hash, size, how much of the data they know"
    )
    coverage: dict[str, float] = Field(default_factory=dict, description="share of keys with an answer, by feature")
    filled: dict[str, int] = Field(
        default_factory=dict,
        description="keys without an answer that the offline rule filled, by feature (--fill=offline)",
    )
    requests: int = 0
    cached: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    knowledge_cut: str | None = Field(default=None, description="the last day of which the LLM can know anything")
    after_cut: float | None = Field(default=None, description="share of the test targets that are later")
    price: float = Field(default=0.0, description="US dollars paid for the answers, cached ones included")


class Record(BaseModel):
    """One run of a grid: a model with its settings on a dataset under a protocol with a seed."""

    model_config = ConfigDict(extra="ignore")

    schema_version: int = SCHEMA
    key: str
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None

    model: str
    dataset: str
    protocol: str
    seed: int
    semantics: str = "none"
    engine: str = "fast"
    tuned: bool = False
    trials: int | None = Field(default=None, description="search trials behind the settings of a tuned run")
    trial_epochs: int | None = Field(default=None, description="epochs of such a trial at most; none: as the run's")
    trial_minutes: float | None = Field(default=None, description="minutes of such a trial at most")

    refit: bool = Field(default=False, description="validation data trained too, after they had chosen the epochs")
    chosen_by: str | None = Field(default=None, description="of a refit: key of the run that chose the epochs")

    metrics: dict[str, MetricValue] = Field(default_factory=dict, description="test metrics")
    list_metrics: dict[str, MetricValue] = Field(
        default_factory=dict, description="test metrics of the shown lists (coverage, popularity, ...)"
    )
    valid_metrics: dict[str, float] = Field(default_factory=dict)
    valid_metric: str = ""
    recbole_metrics: dict[str, float] | None = Field(
        default=None, description="test metrics of RecBole's own evaluator (--engine=recbole)"
    )
    ranks_file: str | None = Field(default=None, description="file of ranks beside the record")

    best_epoch: int | None = None
    epochs: int | None = None
    curve: list[Point] = Field(default_factory=list)

    settings: dict[str, Any] = Field(default_factory=dict, description="all settings after layering")
    origin: dict[str, str] = Field(
        default_factory=dict, description="which layer set a key that is not RecBole's default"
    )
    data: DatasetFacts | None = None
    features: SemanticFacts | None = None
    lists: dict[str, Any] | None = Field(
        default=None, description="lists made elsewhere that were ranked: hash of their file, what of it was counted"
    )
    language_model: str | None = Field(default=None, description="the language model inside the method")
    legacy_leaks: bool = Field(default=False, description="prompts and graphs hold what is tested, as a release had it")
    stage_one: str | None = Field(default=None, description="key of the record of the prerequisite model")

    seconds: dict[str, float] = Field(default_factory=dict)
    memory_mib: dict[str, float] = Field(default_factory=dict)
    parameters: int | None = None
    accelerations: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    commit: str | None = None
    created: str = ""
    notes: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list, description="what a reader of the numbers must know")

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, values: Any) -> Any:
        """Bring a record of an older version to this one; a record made here has no version yet.

        Records are meant to be published, so machine paths that a run or an older version left in them are removed.
        """
        if not isinstance(values, dict):
            return values
        values = {name: portable(part) if name in _SHOWN else part for name, part in values.items()}
        while isinstance(version := values.get("schema_version"), (int, float)) and version in _UPGRADES:
            values = {**_UPGRADES[int(version)](values), "schema_version": version + 1}
        return values

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """Which run it is and how it ended, in one line; all fields would fill pages of a notebook."""
        yield from ((name, getattr(self, name)) for name in ("label", "dataset", "protocol", "seed", "status"))
        if self.error is not None:
            yield "error", self.error
        if (value := self.metric(self.valid_metric)) is not None:
            yield self.valid_metric, value
        yield "key", self.key

    @property
    def label(self) -> str:
        """The model as a table names it: with its semantics and its language model, if any."""
        return self.labelled(None if self.semantics == "none" and self.features is None else self.source)

    def labelled(self, source: str | None) -> str:
        """The model's label with ``source``, or nothing, as the origin of its semantics."""
        marks = [source] if source else []
        marks += [self.language_model] if self.language_model else []
        marks += ["legacy leaks"] if self.legacy_leaks else []
        marks += ["refit"] if self.refit else []
        marks += [self.lists["name"], "foreign"] if self.lists else []
        return f"{self.model} ({', '.join(marks)})" if marks else self.model

    @property
    def reads(self) -> dict[str, str] | None:
        """SHA-256 of each file that the run read besides the interactions, by name; and ``server``, its LLM's address.

        ``None`` if the record does not say: the run failed before, or an older version wrote it. Lists made elsewhere
        are left out, since several seeds have several files under one name.
        """
        if self.data is None or not self.data.files:
            return None
        files = {name: digest for name, digest in self.data.key_files().items() if name not in ("inter", "lists")}
        return files | ({"server": self.features.server} if self.features and self.features.server else {})

    @property
    def source(self) -> str:
        """Where the semantics came from: the LLM, ``offline`` or the control, files of vectors, invented titles."""
        names = [self.semantics]
        if self.semantics == "llm" and self.features is not None:
            names = [self.features.llm_model or self.features.llm, *(["mixed"] if self.features.filled else [])]
        if self.features is not None:
            names += [str(vectors["name"]) for vectors in self.features.vectors]
        names += [TITLES[name] for name in [self.settings.get("titles")] if name in TITLES]
        return ", ".join(names)

    def metric(self, name: str) -> float | None:
        """A test metric's value, ``None`` where it was not computed."""
        found = self.metrics.get(name.lower()) or self.list_metrics.get(name.lower())
        return found.value if found else None
