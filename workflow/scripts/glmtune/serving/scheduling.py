"""Who is answered when: rows of one model share a batch, models take turns, one step each.

One thread computes; whoever asks gets events through a callback and may cancel at any moment.
Rows are admitted in the order in which they came. A model that has to be loaded first waits until
there is room for it, and those behind it wait with it, so that nobody waits for ever.
Knows token ids only.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from glmtune.errors import ResourceError, UserError, explain
from glmtune.generation.engine import Engine, Event, Request
from glmtune.serving.catalog import Served
from glmtune.serving.library import Library


class QueueFull(ResourceError):
    """More wait already than may wait."""


class TimedOut(ResourceError):
    """An answer took longer than it may."""


@dataclass(eq=False)
class Job:
    """A row that was asked for; `tell` gets its events, or what went wrong, in the other thread."""

    served: Served
    request: Request
    tell: Callable[[Event | Exception], None]
    deadline: float = float("inf")
    """On the clock of `time.monotonic`."""
    row: int | None = None
    """Its number in the engine of its model; None: it waits."""


@dataclass
class _Batch:
    """The rows of one model that are answered now."""

    engine: Engine
    jobs: dict[int, Job] = field(default_factory=dict)


class Scheduler:
    """Answers jobs in a thread of its own from `start` to `stop`."""

    def __init__(self, library: Library, *, max_waiting: int) -> None:
        self._library = library
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting: list[Job] = []
        self._batches: dict[str, _Batch] = {}
        self._cancelled: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; returns when the step that runs has ended."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, all or none; raises QueueFull if they are too many."""
        with self._lock:
            if len(self._waiting) + len(jobs) > self._max_waiting:
                raise QueueFull(
                    f"{len(self._waiting)} answers are waiting; expected at most "
                    f"{self._max_waiting}; try again in a moment"
                )
            self._waiting += jobs
        self._wake.set()

    def cancel(self, job: Job) -> None:
        """Answer a job no further; nothing happens if it has ended."""
        self._cancelled.put(job)
        self._wake.set()

    @property
    def load(self) -> dict[str, int]:
        """How many rows are answered and how many wait."""
        running = sum(len(batch.jobs) for batch in list(self._batches.values()))
        return {"running": running, "waiting": len(self._waiting)}

    def _run(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            self._drop_cancelled()
            self._drop_late()
            self._admit()
            for name in list(self._batches):
                self._step(name)
            if not self._batches and not self._waiting:
                self._wake.wait()

    def _drop_cancelled(self) -> None:
        while not self._cancelled.empty():
            self._forget(self._cancelled.get())

    def _drop_late(self) -> None:
        now = time.monotonic()
        running = [job for batch in self._batches.values() for job in batch.jobs.values()]
        for job in [*running, *self._waiting]:
            if job.deadline < now:
                self._forget(job)
                job.tell(TimedOut("the answer took longer than --timeout allows; it was stopped"))

    def _forget(self, job: Job) -> None:
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
        batch = self._batches.get(job.served.name)
        # A later engine of the same model counts its rows from 0 again.
        if batch and job.row is not None and batch.jobs.get(job.row) is job:
            del batch.jobs[job.row]
            batch.engine.cancel(job.row)
            self._close_if_idle(job.served.name)

    def _admit(self) -> None:
        """Give waiting jobs a row each, in their order, as far as there is room."""
        for job in list(self._waiting):
            try:
                if not self._add(job):
                    return
            except Exception as error:
                job.tell(_told(error))
            with self._lock:
                self._waiting.remove(job)

    def _add(self, job: Job) -> bool:
        """Whether there was room for a job."""
        busy = {each.served.folder for b in self._batches.values() for each in b.jobs.values()}
        if not self._library.has_room(job.served, busy):
            return False
        loaded = self._library.open(job.served)
        if self.load["running"] >= loaded.rows:
            return False
        batch = self._batches.get(job.served.name)
        if batch is None:
            batch = _Batch(Engine(loaded.model, slots=loaded.rows))
            self._batches[job.served.name] = batch
        job.row = batch.engine.add(job.request)
        batch.jobs[job.row] = job
        return True

    def _step(self, name: str) -> None:
        """One token for every row of a model."""
        batch = self._batches[name]
        try:
            self._library.open(next(iter(batch.jobs.values())).served)
            events = batch.engine.step()
        except Exception as error:
            del self._batches[name]
            for job in batch.jobs.values():
                job.tell(_told(error))
            return
        for event in events:
            job = batch.jobs[event.row]
            if event.end is not None:
                del batch.jobs[event.row]
            job.tell(event)
        self._close_if_idle(name)

    def _close_if_idle(self, name: str) -> None:
        """An engine keeps memory for its rows: without any it goes."""
        if name in self._batches and not self._batches[name].jobs:
            del self._batches[name]


def _told(error: Exception) -> Exception:
    """What a user can fix, in words; a bug as it is."""
    if isinstance(error, UserError):
        return error
    sentence = explain(error)
    return error if sentence is None else ResourceError(sentence)
