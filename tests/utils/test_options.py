"""Options of verbs: those of another type are refused, those that can be read as it are read."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pytest
import torch
from typing_extensions import Doc

from recbole_llm import api
from recbole_llm.errors import UserError
from recbole_llm.utils.options import checked, of_types
from recbole_llm.utils.text import NAMES


@checked
def verb(
    model: Annotated[str | type | Sequence[str | type], Doc("Models.")] = "",
    *,
    objectives: str | Sequence[str] = "accuracy",
    protocol: str | Sequence[str] | None = None,
    trials: Annotated[int, Doc("Trials.")] = 50,
    minutes: float | None = None,
    quiet: bool = True,
    folder: Annotated[str | Path | None, Doc("Folder.")] = None,
    row: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """What reaches a verb."""
    of_names = {"model": model, "objectives": objectives, "protocol": protocol}
    return {**of_names, "trials": trials, "minutes": minutes, "quiet": quiet, "folder": folder, "row": row, **settings}


@pytest.mark.parametrize(
    ("name", "given", "reached"),
    [
        ("trials", "3", 3),
        ("trials", np.int64(3), 3),
        ("trials", torch.tensor(3), 3),
        ("minutes", 2, 2.0),
        ("minutes", np.float32(0.5), 0.5),
        ("minutes", None, None),
        ("quiet", "no", False),
        ("quiet", np.bool_(False), False),
        ("folder", Path("a"), "a"),
        ("folder", 2024, "2024"),
        ("row", Path("a"), "a"),
        ("quiet", None, True),
        ("trials", None, 50),
        ("model", Path, Path),
        ("model", ["Pop", Path], ["Pop", Path]),
        ("objectives", "accuracy,seconds", "accuracy,seconds"),
        ("objectives", ("accuracy", "seconds"), ("accuracy", "seconds")),
        ("objectives", (word for word in ("accuracy", "seconds")), ["accuracy", "seconds"]),
        ("objectives", None, "accuracy"),
        ("objectives", 3, "3"),
        ("protocol", [3, np.int64(4)], ["3", "4"]),
        ("protocol", pd.Series([3, 4]), ["3", "4"]),
        ("protocol", [Path("a/b.yaml")], ["a/b.yaml"]),
        ("epochs", "3", "3"),  # a setting, which has rules of its own
    ],
)
def test_a_value_that_can_be_read_as_the_type_is_read(name: str, given: Any, reached: Any) -> None:
    found = verb(**{name: given})[name]
    assert found == reached
    assert type(found) is type(reached)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("trials", "many", "--trials=many: give a whole number."),
        ("trials", 3.5, "--trials=3.5: give a whole number."),
        ("trials", True, "--trials=True: give a whole number."),
        ("minutes", [1], "--minutes=[1]: give a number."),
        ("quiet", "perhaps", "--quiet=perhaps: give true or false."),
        ("folder", False, "--folder=False: give a path or a text."),
        ("folder", [], "--folder=[]: give a path or a text."),
        ("row", {"model": "EASE"}, "--row={'model': 'EASE'}: give a text."),
        ("model", True, f"--model=True: give {NAMES}."),
        ("objectives", {"accuracy": 1}, f"--objectives={{'accuracy': 1}}: give {NAMES}."),
        ("protocol", ["loo", None], f"--protocol=['loo', None]: give {NAMES}."),
        ("protocol", [["loo"]], f"--protocol=[['loo']]: give {NAMES}."),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, given: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        verb(**{name: given})
    assert str(caught.value) == message


def test_pythons_own_message_names_the_verb() -> None:
    with pytest.raises(TypeError, match=r"verb\(\) takes from 0 to 1 positional arguments but 2 were given"):
        verb("a", "b")


def test_the_verbs_take_their_own_defaults() -> None:
    for name in ("run", "tune", "estimate", "generate", "probe", "advise", "recommend", "table", "report", "suite"):
        verb = getattr(api, name)
        defaults = {
            parameter.name: parameter.default
            for parameter in inspect.signature(verb).parameters.values()
            if parameter.default is not parameter.empty
        }
        read = of_types(verb, defaults)
        assert read == {name: defaults[name] for name in read}
