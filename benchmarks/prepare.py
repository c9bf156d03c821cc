"""Seconds and peak memory of ``prepare`` on generated raw files in the format of Amazon 2014.

    python -m benchmarks.prepare --reviews=1000000

The files are shaped like Books (5-core): 14.7 reviews per user, 24 per item, about 1,000 bytes per review with
its text, days as times, reviews sorted by item, and 6.4 records of metadata for each reviewed item. The work runs
in a child process, so that its peak memory is measured apart. The last column extrapolates to the 8,898,041
reviews of Books: time in proportion to reviews, memory as the fixed part plus the rest in proportion. Names and
arrays outgrow the processor's cache on the way, so the real time is longer than the extrapolated one;
``--reviews=8898041`` measures it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

BOOKS = 8_898_041
USERS, ITEMS, RECORDS = 603_668 / BOOKS, 367_982 / BOOKS, 2_370_585 / BOOKS
WORDS = ("story", "read", "character", "plot", "author", "page", "chapter", "love", "series", "people", "life", "world")


def _texts(generator: np.random.Generator, count: int, mean_words: int) -> list[str]:
    lengths = generator.geometric(1 / mean_words, count)
    vocabulary = [f"{word}{suffix}" for word in WORDS for suffix in ("", "s", "ed", "ing", "er", "ly", "ness", " the")]
    return [" ".join(generator.choice(vocabulary, length)) for length in lengths]


def _skewed(generator: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Numbers below ``count``, small ones more often."""
    return (count * generator.random(size) ** 2).astype(np.int64)


def generate(folder: Path, reviews: int) -> dict[str, int]:
    """Write ``reviews_Gen_5.json.gz`` and ``meta_Gen.json.gz``; returns their unpacked sizes in bytes."""
    generator = np.random.default_rng(1)
    n_users, n_items, n_records = (max(10, int(share * reviews)) for share in (USERS, ITEMS, RECORDS))
    user = np.concatenate([np.repeat(np.arange(n_users), 6), _skewed(generator, n_users, reviews)])[:reviews]
    item = np.concatenate([np.repeat(np.arange(n_items), 6), _skewed(generator, n_items, reviews)])[:reviews]
    generator.shuffle(user)
    order = np.argsort(item, kind="stable")
    user, item = user[order], item[order]
    day = 86_400 * generator.integers(10_000, 16_200, reviews)
    texts = _texts(generator, 3000, 100)
    written = {"reviews": 0, "metadata": 0}
    with gzip.open(folder / "reviews_Gen_5.json.gz", "wb", compresslevel=4) as stream:
        for u, i, t in zip(user.tolist(), item.tolist(), day.tolist(), strict=True):
            review = {
                "reviewerID": f"A{u:012X}",
                "asin": f"B{i:09d}",
                "reviewerName": f"Reader {u}",
                "helpful": [u % 7, 7],
                "reviewText": texts[(u * 31 + i) % len(texts)],
                "overall": float(1 + (u + i) % 5),
                "summary": "A great book",
                "unixReviewTime": t,
                "reviewTime": "01 1, 2013",
            }
            written["reviews"] += stream.write(json.dumps(review).encode() + b"\n")
    texts = _texts(generator, 3000, 60)
    with gzip.open(folder / "meta_Gen.json.gz", "wb", compresslevel=4) as stream:
        for record in range(n_records):
            literal = {
                "asin": f"B{record:09d}",
                "title": f"It's volume {record} &amp; more",
                "description": texts[record % len(texts)],
                "imUrl": f"http://images.example/{record}.jpg",
                "related": {"also_bought": [f"B{(record * 17 + k) % n_records:09d}" for k in range(20)]},
                "salesRank": {"Books": record},
                "categories": [["Books", "Literature & Fiction", "Genre Fiction"], ["Books", "Romance"]],
            }
            written["metadata"] += stream.write(repr(literal).encode() + b"\n")
    return written


def measure(raw: Path, out: Path) -> dict[str, float]:
    """One run of ``prepare`` in this process."""
    from recbole_llm.raw.prepare import prepare as prepare_dataset
    from recbole_llm.raw.source import RawFile, RawSpec

    files = {"reviews": (RawFile("reviews_Gen_5.json.gz"),), "items": (RawFile("meta_Gen.json.gz"),)}
    start = _peak_mib()
    began, worked = time.perf_counter(), time.process_time()
    report = prepare_dataset(RawSpec("gen", "generated", "amazon2014", files, kcore=5), raw, out)
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "cpu": cpu, "start_mib": start, "peak_mib": _peak_mib(), **report.counts}


def _peak_mib() -> float:
    """Peak memory of this program; ``ru_maxrss`` would include the parent's memory before the start."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Generate, measure in a child, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reviews", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the files here; a temporary folder by default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.folder, options.folder / "out")))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        written = generate(folder, options.reviews)
        words = [sys.executable, "-m", "benchmarks.prepare", "--child", f"--folder={folder}"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    factor = BOOKS / options.reviews
    rows = [
        ["raw, unpacked (MB)", sum(written.values()) / 1e6, factor * sum(written.values()) / 1e6],
        ["seconds", found["seconds"], factor * found["seconds"]],
        ["seconds of processor", found["cpu"], factor * found["cpu"]],
        [
            "peak memory (MiB)",
            found["peak_mib"],
            found["start_mib"] + factor * (found["peak_mib"] - found["start_mib"]),
        ],
    ]
    print(f"{found['users']:,} users, {found['items']:,} items, {found['interactions']:,} interactions are left")
    print(tabulate(rows, ["", f"{options.reviews:,} reviews", f"{BOOKS:,} (extrapolated)"], floatfmt=",.0f"))


if __name__ == "__main__":
    main()
