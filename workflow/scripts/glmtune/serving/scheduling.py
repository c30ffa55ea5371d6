"""Who is answered when: rows of one model share a batch, models take turns, one step each.

One thread computes; whoever asks gets events through a callback and may cancel at any moment.
A free row goes to the model that has the fewest, so that a long queue for one does not keep another
waiting. Where a model has no room in memory, those in memory still answer what was asked before it
was missed, and nothing that comes later: so it is loaded soon, nobody waits for ever, and each
loading serves all that waits for it. Knows token ids only.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
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
    number: int = 0
    """How many were asked for before it."""


@dataclass
class _Batch:
    """The rows of one model that are answered now."""

    engine: Engine
    jobs: dict[int, Job] = field(default_factory=dict)


class Scheduler:
    """Answers jobs in a thread of its own from `start` to `stop`."""

    def __init__(self, library: Library, *, max_waiting: int) -> None:
        self._library = library
        self.max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting: list[Job] = []
        self._submitted = 0
        # While a model waits for room in memory: the first job that may not go before it.
        self._too_late: int | None = None
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
            if len(self._waiting) + len(jobs) > self.max_waiting:
                raise QueueFull(
                    f"{len(self._waiting)} answers are waiting; expected at most "
                    f"{self.max_waiting}; try again in a moment"
                )
            for job in jobs:
                job.number = self._submitted
                self._submitted += 1
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
        """Give waiting jobs a row each, as far as there is room."""
        is_missed = False  # a model that waits for room in memory
        for job in self._in_turn():
            if self.load["running"] >= self._library.limits.max_rows:
                return
            is_loaded = self._library.is_loaded(job.served)
            is_late = self._too_late is not None and job.number >= self._too_late
            if is_missed and (is_late or not is_loaded):
                continue
            try:
                if not self._has_memory(job.served):
                    is_missed = True
                    self._too_late = self._submitted if self._too_late is None else self._too_late
                    continue
                if not self._add(job):
                    return
                if not is_loaded:  # the one that was missed
                    self._too_late = None
            except Exception as error:
                job.tell(_told(error))
            with self._lock:
                self._waiting.remove(job)
        if not is_missed:
            self._too_late = None

    def _in_turn(self) -> list[Job]:
        """What waits, the models with the fewest rows first; of equal ones who came first."""
        with self._lock:
            waiting = list(self._waiting)
        rows = Counter({name: len(batch.jobs) for name, batch in self._batches.items()})
        places = []
        for job in waiting:
            places.append((rows[job.served.name], job.number, job))
            rows[job.served.name] += 1
        return [job for *_, job in sorted(places, key=lambda place: place[:2])]

    def _has_memory(self, served: Served) -> bool:
        busy = {each.served.folder for b in self._batches.values() for each in b.jobs.values()}
        return self._library.has_room(served, busy)

    def _add(self, job: Job) -> bool:
        """Whether there was a row for a job."""
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
