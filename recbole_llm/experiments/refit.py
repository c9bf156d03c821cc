"""How long a refit trains: as many epochs as led to the weights that validation chose."""

from __future__ import annotations

import math

from recbole_llm.experiments.record import Record


def chosen_epochs(record: Record) -> list[int]:
    """The epochs behind the weights that a run kept, one number per stage.

    A stage begins with the best weights so far. So the epochs of each stage count up to its best one, and none count if
    the stage brought no improvement. Stages after the best epoch are left out. If nothing was validated, all epochs
    count.
    """
    if record.best_epoch is None:
        return [record.epochs or 0]
    validated = [entry for entry in record.curve if "valid" in entry and entry["epoch"] <= record.best_epoch]
    stages = list(dict.fromkeys(entry.get("stage", "") for entry in validated))
    if len(stages) < 2:
        return [record.best_epoch]
    # The last epoch of each stage.
    ends = {entry.get("stage", ""): entry["epoch"] for entry in record.curve if "valid" in entry}
    best, began, found = -math.inf, 0, []
    for stage in stages:
        kept = began
        for entry in validated:
            score = entry["valid"][record.valid_metric]
            # As in early stopping, the later of equal ones.
            if entry.get("stage", "") == stage and score is not None and score >= best:
                best, kept = score, entry["epoch"]
        found.append(kept - began)
        began = ends[stage]
    found[-1] = record.best_epoch - ends[stages[-2]]
    return found
