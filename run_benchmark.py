"""The command line as a script: ``python run_benchmark.py --model=LLMDMsRec --dataset=ml-100k``."""

from __future__ import annotations

import sys

from recbole_llm.cli import main

if __name__ == "__main__":
    sys.exit(main())
