"""Jobs one after the other in this process."""

from __future__ import annotations

from collections import deque
from typing import Any

from recbole_llm.execution.base import Job, JobError, JobResult
from recbole_llm.utils.files import is_no_room


class SerialExecutor:
    """Runs a job when its result is fetched."""

    slots = 1
    shares_files = True
    host = "localhost"

    def __init__(self) -> None:
        self._taken: deque[Job] = deque()

    @property
    def free(self) -> int:
        """How many more jobs can be submitted now."""
        return self.slots - len(self._taken)

    @property
    def under_way(self) -> int:
        """How many submitted jobs have not run yet."""
        return len(self._taken)

    def submit(self, job: Job) -> None:
        """Keep a job; it runs in :meth:`next`."""
        self._taken.append(job)

    def next(self, timeout: float | None = None) -> JobResult | None:
        """Run the submitted job; only the error of a disk that cannot be written is raised."""
        if not self._taken:
            return None
        job = self._taken.popleft()
        try:
            return JobResult(job, job.function(*job.arguments))
        except Exception as error:  # a user's model can raise anything
            if is_no_room(error):
                raise
            return JobResult(job, error=error)
        except SystemExit as error:  # RecBole and users' models may call exit()
            return JobResult(job, error=JobError(f"exit({error.code}) was called"))

    def put(self, value: Any) -> Any:
        """Return the value unchanged."""
        return value

    def close(self) -> None:
        """Drop jobs that have not run; none is running, since jobs run only inside :meth:`next`."""
        self._taken.clear()
