"""All measurements and tests that need a GPU, one command after the other; each measurement writes its JSON.

    python -m benchmarks.gpu --data_path=FOLDER
    python -m benchmarks.gpu --data_path=FOLDER --parts=tests,train --folder=/tmp/measured

If a part fails or takes too long, the table at the end says so, and the other parts still run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from benchmarks.common import RESULTS
from recbole_llm.errors import UserError, check_known


class Part(NamedTuple):
    """One command to run.

    Attributes:
        words: the words after ``python -m``.
        limit: most seconds that it may take.
        on_data: whether it reads the dataset of the options; other measurements read ml-100k.
        name: name of its JSON; empty where there is none.
    """

    words: tuple[str, ...]
    limit: int
    on_data: bool = False
    name: str = ""


PARTS = {
    # Tests of recorded steps, then of every model of the registry.
    "tests": Part(
        ("pytest", "-m", "cuda", "tests/experiments/test_estimate.py", "tests/training/test_recorded.py"), 300
    ),
    "contracts": Part(("pytest", "-m", "cuda", "tests/methods/test_contracts.py"), 900),
    # Seconds per step, busy share of the GPU and launches: recorded steps, plain ones and RecBole's.
    "train": Part(("benchmarks.train", "--models=SASRec,GRU4Rec,LightGCN,SRGNN"), 600, True, "train"),
    "bf16": Part(("benchmarks.train", "--models=SASRec,GRU4Rec", "--precision=bf16"), 300, True, "train-bf16"),
    # Whether recorded steps train as plain ones do.
    "curves": Part(
        ("benchmarks.curves", "--ways=steps", "--models=SASRec,GRU4Rec,LightGCN"), 600, True, "recorded-curves"
    ),
    "evaluate": Part(("benchmarks.evaluate", "--models=BPR,SASRec,GRU4Rec", "--repeats=2"), 600, True, "evaluate"),
    # ISRF at T5-small's size.
    "decoding": Part(("benchmarks.decoding", "--preset=scratch", "--semantics=none"), 600, False, "decoding-scratch"),
}


def command(part: Part, options: argparse.Namespace) -> list[str]:
    """The command of a part."""
    words = [sys.executable, "-m", *part.words]
    if not part.name:
        return words
    dataset = options.dataset if part.on_data else "ml-100k"
    words += [f"--dataset={dataset}", "--device=cuda"]
    words += [f"--output={Path(options.folder) / f'{part.name}-{dataset}-cuda.json'}"]
    return [*words, f"--data_path={options.data_path}"] if part.on_data and options.data_path else words


def main() -> int:
    """Run the parts, and show which of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="beauty")
    parser.add_argument("--data_path", default=None, help="folder of atomic files, for beauty and the like")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, in this order")
    parser.add_argument("--folder", default=str(RESULTS), help="where the JSON is written")
    options = parser.parse_args()
    import torch

    names = options.parts.split(",")
    try:
        for name in names:
            check_known(f"--parts: {name!r} is none", name, PARTS)
    except UserError as error:
        parser.error(str(error))
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here.")
    rows = []
    for name in names:
        words = command(PARTS[name], options)
        print(f"\n== {name}: {' '.join(words[1:])}", flush=True)
        began = time.monotonic()
        try:
            code: int | str = subprocess.run(words, check=False, timeout=PARTS[name].limit).returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {PARTS[name].limit} s"
        rows.append([name, round(time.monotonic() - began), code or "ok"])
        print(tabulate(rows, ["part", "seconds", "end"]), flush=True)
    return int(any(row[2] != "ok" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
