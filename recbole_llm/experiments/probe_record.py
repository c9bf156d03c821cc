"""The results of probing an LLM's memory of a dataset: a file that tables read beside the records of runs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

PROBES = ("title", "next", "item", "row")
PROBE_SCHEMA = 1


class Recall(BaseModel):
    """How much of what one probe asks for an LLM reproduces.

    ``chance`` is how often the same answers fit the other questions. It includes what a model names regardless of the
    question, such as the most popular items.
    """

    model_config = ConfigDict(extra="ignore")

    asked: int
    answered: int = Field(description="questions with a usable answer, an empty one included; recall is of these")
    hits: int
    recall: float
    chance: float
    low: float = Field(description="95 % interval of the recall (Wilson)")
    high: float
    p: float = Field(description="of as many hits by chance, with one match more than was seen (binomial)")


class ProbeRecord(BaseModel):
    """What one LLM remembers of one dataset, under one set of titles."""

    model_config = ConfigDict(extra="ignore")

    schema_version: int = PROBE_SCHEMA
    key: str
    dataset: str
    protocol: str
    data_sha256: str
    llm: str
    llm_model: str
    titles: str = "real"
    titles_seed: int | None = None
    questions: int = Field(description="questions of each probe at most")
    probes: dict[str, Recall] = Field(description="title, next, item and row, as far as the data have them")
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    price: float = Field(default=0.0, description="US dollars paid for the answers, cached ones included")
    prompts: dict[str, str] = Field(default_factory=dict, description="versions of the prompts")
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None
    created: str = ""
