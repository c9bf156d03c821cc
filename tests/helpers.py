"""Helpers that build models, runs and small datasets for tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import find_method
from recbole_llm.settings.layers import Settings, layer_settings
from recbole_llm.utils.progress import Bars, Stopwatch

Cli = Callable[..., int]  # the command line as a test calls it: words in, exit code out
GENRES = ("Lipstick", "Shampoo", "Perfume", "Brush")


def write_tiny(folder: Path, n_users: int = 80, n_items: int = 48, seed: int = 7) -> Path:
    """Write atomic files of a small dataset that a model can learn.

    Users walk along the items of one genre (``item i`` is often followed by ``item i + 4``); each has 3 to 14
    interactions, some in the same second. Titles hold an entity, a quotation mark and commas.
    """
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for user in range(n_users):
        item = int(generator.integers(n_items))
        now = 1_400_000_000 + int(generator.integers(10_000_000))
        seen: set[int] = set()
        for _ in range(int(generator.integers(3, 15))):
            while item in seen:
                item = int(generator.integers(n_items))
            seen.add(item)
            rows.append((f"u{user}", f"i{item}", int(generator.integers(1, 6)), now))
            now += 0 if generator.random() < 0.15 else int(generator.integers(1, 5000))
            item = (item + 4) % n_items if generator.random() < 0.8 else int(generator.integers(n_items))
    generator.shuffle(rows)
    with (folder / f"{folder.name}.inter").open("w", encoding="utf-8") as stream:
        stream.write("user_id:token\titem_id:token\trating:float\ttimestamp:float\n")
        stream.writelines(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in rows)
    with (folder / f"{folder.name}.item").open("w", encoding="utf-8") as stream:
        stream.write("item_id:token\ttitle:token_seq\tcategories:token_seq\tbrand:token\n")
        for item in range(n_items):
            genre = GENRES[item % 4]
            stream.write(f'i{item}\t{genre} No. {item // 4} &amp; Co, 5" size\t{genre} Beauty\tBrand{item % 5}\n')
    return folder


class MostRows(TorchDispatchMode):
    """Notes the most rows of the tensors of some number of dimensions that operators return.

    Args:
        dimensions: of the tensors that count.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions, self.rows = dimensions, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(each, torch.Tensor) and each.dim() == self.dimensions:
                self.rows = max(self.rows, len(each))
        return found


def blank_ids(folder: Path) -> None:
    """Give a small dataset ids with blanks, some of which look percent-encoded already: ``item%20 5`` for ``i5``."""
    for path in folder.glob("tiny.*"):
        header, _, rows = path.read_text(encoding="utf-8").partition("\n")
        rows = re.sub(r"^u(\d)", r"user \1", rows, flags=re.MULTILINE)
        path.write_text(header + "\n" + re.sub(r"(^|\t)i(\d+\t)", r"\1item%20 \2", rows, flags=re.MULTILINE), "utf-8")


def layered(model: str = "SASRec", dataset: str = "tiny", **overrides: Any) -> Settings:
    """Settings of a model, with ``overrides`` as if given on the command line."""
    protocol = overrides.pop("protocol", None)
    return layer_settings(find_method(model), dataset, protocol, overrides=overrides)


def settings_of(model: str, dataset: str = "tiny", **overrides: Any) -> Settings:
    """Layered settings of a model, with short histories and small batches by default."""
    defaults = {"MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128, "epochs": 2, "seed": 1}
    return layered(model, dataset, **{**defaults, **overrides})


def make_run(model: str, dataset: str = "tiny", **overrides: Any) -> Run:
    """A run of a grid."""
    return Run.of(settings_of(model, dataset, **overrides))


def prepare(model: str, dataset: str = "tiny", **overrides: Any) -> Prepared:
    """A model that is ready for training, with its data."""
    return runner().prepare(make_run(model, dataset, **overrides), Stopwatch())


def runner(results: str | Path = "results", force: bool = False) -> Runner:
    """A runner without progress bars."""
    return Runner(ResultStore(results), force=force)


def make_featured(folder: Path, n_users: int = 80) -> Path:
    """Make a workspace whose ``dataset/tiny`` has LLM-DMsRec's offline features and stage I model (``epochs=1``)."""
    write_tiny(folder / "dataset" / "tiny", n_users=n_users)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare("LLMDMsRec", epochs=1)
    return folder


class StopAt(Bars):
    """Replaces the progress bars: raises Ctrl-C in the loop with the given title after some steps."""

    def __init__(self, title: str, steps: int = 0) -> None:
        super().__init__(False)
        self.title, self.steps = title, steps

    def __call__(self, items: Iterable[Any], title: str) -> Iterable[Any]:
        """Return ``items``, interrupted if this is the loop with the given title."""
        return self._some(items) if title == self.title else items

    def _some(self, items: Iterable[Any]) -> Iterable[Any]:
        for number, item in enumerate(items):
            if number == self.steps:
                raise KeyboardInterrupt
            yield item


def layered_from_file(tmp_path: Path, text: str, model: str = "SASRec", **overrides: Any) -> Settings:
    """Settings of a model with a settings file of the user's that holds ``text``."""
    (tmp_path / "mine.yaml").write_text(text)
    return layer_settings(find_method(model), "tiny", config_files=[tmp_path / "mine.yaml"], overrides=overrides)
