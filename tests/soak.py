"""Random faults for some minutes: broken servers, killed commands, a full disk, two commands at once.

``make soak MINUTES=10`` runs it through ``tests/test_soak.py``. Each round checks what must hold after a fault. A
failed check is a finding; the summary line counts faults and findings.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_llm.experiments.store import ResultStore
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.tuning.history import Ended
from recbole_llm.utils.files import _PARTIAL
from tests.features.asking import contents, only_folder
from tests.helpers import make_featured
from tests.llm.fault_server import FAULTS
from tests.llm.test_wire import outcomes
from tests.processes import Started, start_command
from tests.stub_server import Call, Reply, StubServer, intents_from_candidates

IN_FLIGHT = 32
SHORT = ["--epochs=1", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=128", "--seed=1", "--quiet"]
RUN = ["run", "--model=GRU4Rec", "--dataset=tiny", *SHORT[1:], "--epochs=8", "--hidden_size=16", "--embedding_size=16"]
TUNE = ["tune", "--model=BPR", "--dataset=tiny", "--trials=4", *SHORT[2:], "--epochs=4"]
CACHE = Path("dataset/tiny/semantics")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass
class Soak:
    """A soak test in progress.

    Attributes:
        folder: working folder of all rounds.
        draw: random generator that chooses the faults and their times.
        server: answers all questions.
        counts: how often each fault or event occurred.
        findings: checks that failed.
        wanted: results of each command without faults.
        say: shows a line.
    """

    folder: Path
    draw: random.Random
    server: StubServer
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    wanted: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], object] = lambda line: None

    def expect(self, holds: bool, what: str) -> None:
        """Record a finding if a check does not hold."""
        if not holds:
            self.findings.append(what)
            self.say(f"finding: {what}")

    def summary(self, minutes: float) -> str:
        """Return the counts and the number of findings as one line."""
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        return f"soak of {minutes:.1f} minutes: {told}; {len(self.findings)} findings"

    # ---- commands ------------------------------------------------------------------------------

    def ended(self, process: Started, codes: tuple[int, ...] = (0,)) -> str:
        """Wait for a command, check that it ended cleanly and return its messages."""
        _, said = process.communicate(600)
        self.expect("Traceback" not in said, f"a traceback: {said[-800:]}")
        self.expect(process.returncode in codes, f"exit code {process.returncode}: {said[-400:]}")
        return said

    def killed(self, words: list[str], seconds: float, name: str) -> bool:
        """Start a command and kill it after some seconds; ``False`` if it ended before that."""
        process = start_command(*words, **ONE_THREAD)
        process._process.join(seconds)
        if process.returncode is not None:
            self.ended(process)
            return False
        process.kill()
        make_leftovers_old()
        self.counts[f"kills of {name}"] += 1
        return True

    # ---- rounds --------------------------------------------------------------------------------

    def generate(self) -> list[str]:
        """Arguments of the ``generate`` command."""
        base = ["generate", "--model=LLMDMsRec", "--dataset=tiny", "--llm=vllm", *SHORT]
        return [*base, f"--llm_base_url={self.server.base_url}", f"--llm_concurrency={IN_FLIGHT}"]

    def forget_answers(self) -> None:
        """Delete all features and cached answers of the LLM."""
        for path in [*CACHE.glob("loo-vllm-*"), *CACHE.glob("responses*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def kill_generate(self) -> None:
        """After a kill, only requests that were in flight are sent again."""
        self.forget_answers()
        begin = len(self.server.calls)
        process = start_command(*self.generate(), **ONE_THREAD)
        at = begin + self.draw.randrange(1, self.wanted["questions"])
        while len(self.server.calls) < at and process.returncode is None:
            time.sleep(0.005)
        if process.returncode is not None:
            self.ended(process)
            return
        process.kill()
        make_leftovers_old()
        self.counts["kills of generate"] += 1
        sent = [call.raw for call in self.server.calls[begin:] if call.status == 200]
        (path,) = CACHE.glob("responses*.sqlite")
        with ResponseCache(path) as cache:
            kept = len(cache)
        self.counts["answers sent"] += len(sent)
        self.counts["answers kept"] += kept
        self.expect(len(sent) - kept <= IN_FLIGHT, f"{len(sent)} answers were sent and {kept} kept")
        before = {call.raw for call in self.server.calls[begin:]}
        middle = len(self.server.calls)
        self.ended(start_command(*self.generate(), **ONE_THREAD))
        again = before & {call.raw for call in self.server.calls[middle:]}
        self.counts["asked again"] += len(again)
        self.expect(len(again) <= IN_FLIGHT, f"{len(again)} questions were asked again")
        self.expect(contents(only_folder()) == self.wanted["features"], "features differ after a kill")

    def two_at_once(self) -> None:
        """Two concurrent commands send each question only once."""
        self.forget_answers()
        begin = len(self.server.calls)
        for process in [start_command(*self.generate(), **ONE_THREAD) for _ in range(2)]:
            self.ended(process)
        asked = [call.raw for call in self.server.calls[begin:]]
        self.counts["pairs of commands"] += 1
        self.expect(len(asked) == len(set(asked)), f"{len(asked) - len(set(asked))} questions were asked twice")
        self.expect(contents(only_folder()) == self.wanted["features"], "features differ after two commands")

    def kill_run(self) -> None:
        """A run that was killed, perhaps several times, ends with the numbers of an uninterrupted one."""
        forget("results", "saved/tiny")
        for _ in range(3):
            if not self.killed(RUN, self.draw.uniform(0.2, self.wanted["run seconds"]), "run"):
                break
        self.ended(start_command(*RUN, **ONE_THREAD))
        self.expect(metrics_in("results") == self.wanted["run"], "a run that was killed has other numbers")
        self.expect(not leftovers(), f"left over: {leftovers()}")

    def kill_tune(self) -> None:
        """A search that was killed, perhaps several times, ends with the trials of an uninterrupted one."""
        forget("results", "saved/search", "saved/tiny")
        for _ in range(3):
            if not self.killed(TUNE, self.draw.uniform(0.2, self.wanted["tune seconds"]), "tune"):
                break
        self.ended(start_command(*TUNE, **ONE_THREAD))
        self.expect(trials_in("results") == self.wanted["tune"], "a search that was killed has other trials")
        self.expect(not leftovers(), f"left over: {leftovers()}")

    def full_disk(self) -> None:
        """A command that fills the disk reports it in one line, and continues once there is space."""
        if "disk" not in self.wanted:
            return
        words = self.draw.choice([RUN, TUNE])
        name = words[0]
        with small_disk(Path("disk"), self.draw.choice([16, 64, 200, 400])) as enlarge:
            folders = ["--results_dir=disk/results", "--checkpoint_dir=disk/saved"]
            said = self.ended(start_command(*words, *folders, **ONE_THREAD), (0, 2))
            self.counts["full disks"] += "cannot be written" in said
            self.counts["disks with room enough"] += "error:" not in said
            errors = [line for line in said.splitlines() if line.startswith("error:")]
            self.expect(len(errors) <= 1 and all("disk" in line for line in errors), f"no path: {errors}")
            enlarge()
            self.ended(start_command(*words, *folders, **ONE_THREAD))
            found = metrics_in("disk/results") if name == "run" else trials_in("disk/results")
            self.expect(found == self.wanted[name], f"{name} has other numbers after a full disk")

    def server_faults(self) -> None:
        """Each server fault counts as one failed attempt of a known kind."""
        once = self.draw.random() < 0.5
        folder = self.folder / f"faults-{self.counts['server faults']}"
        folder.mkdir()
        for fault, (answer, usage) in outcomes(folder, once).items():
            self.counts["server faults"] += 1
            good = answer == "fine" if once else answer is None
            self.expect(good and set(usage.errors) <= set(FAULTS[fault].kinds), f"{fault}: {answer}, {usage.errors}")
        shutil.rmtree(folder)

    # ---- all -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Run all commands without faults to obtain the expected results."""
        make_featured(self.folder, n_users=40)
        os.chdir(self.folder)
        self.ended(start_command(*self.generate(), **ONE_THREAD))
        self.wanted |= {"features": contents(only_folder()), "questions": len(self.server.calls)}
        for words, look in ((RUN, metrics_in), (TUNE, trials_in)):
            forget("results", "saved/search")
            began = time.monotonic()
            self.ended(start_command(*words, **ONE_THREAD))
            self.wanted |= {words[0]: look("results"), f"{words[0]} seconds": time.monotonic() - began}
        if can_mount(self.folder / "disk"):
            self.wanted["disk"] = True

    def run(self, minutes: float) -> None:
        """Prepare, then run one round after another until the time is up."""
        self.prepare()
        rounds = [self.kill_generate, self.kill_run, self.kill_tune, self.full_disk, self.two_at_once]
        rounds += [self.kill_generate, self.kill_generate, self.server_faults]
        began = time.monotonic()
        number = 0
        while time.monotonic() - began < 60 * minutes:
            rounds[number % len(rounds)]()
            number += 1
            self.say(self.summary((time.monotonic() - began) / 60))


def forget(*folders: str) -> None:
    """Remove folders."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def metrics_in(folder: str) -> list[Any]:
    """Metrics of all records in a folder."""
    return [(record.model, record.metrics, record.valid_metrics) for record in ResultStore(folder)]


def trials_in(folder: str) -> list[Any]:
    """Trials of the study in a folder, without their durations."""
    (history,) = Path(folder, "studies").glob("*.jsonl")
    trials = [Ended.model_validate_json(line) for line in history.read_text().splitlines()[1:]]
    return [trial.model_copy(update={"seconds": None}) for trial in trials]


def leftovers() -> list[Path]:
    """Half-written files of killed commands."""
    return [path for path in Path().rglob(".*") if _PARTIAL.fullmatch(path.name)]


def make_leftovers_old() -> None:
    """Age half-written files: a command does not remove recent ones, which another may be about to lock."""
    for path in leftovers():
        os.utime(path, (0, 0))


def can_mount(place: Path) -> bool:
    """Whether a small file system can be mounted here."""
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True).returncode:
        return False
    subprocess.run(["umount", place], check=True)
    return True


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Any:
    """Mount a file system of some kilobytes; yields a function that enlarges it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def delayed(draw: random.Random) -> Callable[[Call], Reply]:
    """Good answers, each after a random delay."""
    return lambda call: replace(intents_from_candidates(call), delay=draw.uniform(0, 0.1))
