"""What RecBole's own reader of files does not do, said before it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole.data.dataset import KnowledgeBasedDataset

from recbole_llm.errors import UserError


def check_recbole_can_read(dataset: Any, causes: Sequence[str]) -> None:
    """Refuse what RecBole's own reader does not do, or answers with a traceback.

    Args:
        dataset: about to be read by RecBole.
        causes: the settings that only RecBole's reader knows; none where the model asks for it.

    Raises:
        UserError: histories are to be cut into sessions, parts are ready, or a knowledge graph is missing.
    """
    config = dataset.config
    if config["split"] == "parts":
        cause = f"with {causes[0]}" if causes else f"for {config['model']}"
        raise UserError(
            f"--protocol={config['protocol']}: {cause} RecBole reads one .inter file itself, and no own parts."
        )
    if config["sessions"]:
        cause = f"with {causes[0]}" if causes else f"for {config['model']}"
        raise UserError(
            f"--protocol={config['protocol']} cuts histories into sessions, and {cause} RecBole reads the "
            "files itself, whole users only. Take a protocol without sessions, such as loo, or give --sessions=~."
        )
    if isinstance(dataset, KnowledgeBasedDataset):
        _check_graph(config, dataset.location)


def _check_graph(config: Any, location: Any) -> None:
    """Whether the knowledge graph's two files are there and are to be loaded."""
    stem, load = location.stem, config["load_col"]
    graph = [config[f"{name}_ID_FIELD"] for name in ("HEAD_ENTITY", "RELATION", "TAIL_ENTITY")]
    columns = {"kg": graph, "link": [config["ITEM_ID_FIELD"], config["ENTITY_ID_FIELD"]]}
    unnamed = [suffix for suffix in columns if load is not None and suffix not in load]
    absent = [suffix for suffix in columns if not (location.folder / f"{stem}.{suffix}").is_file()]
    if unnamed or absent:
        keys = " ".join(f"--load_col.{suffix}=[{','.join(names)}]" for suffix, names in columns.items())
        state = ", ".join(
            [*(f"load_col lacks {suffix}" for suffix in unnamed), *(f"there is no {stem}.{s}" for s in absent)]
        )
        raise UserError(
            f"--model={config['model']} needs a knowledge graph, and {state}. Put {stem}.kg and {stem}.link into "
            f"{location.folder} and give {keys}."
        )
