"""Places that do units side by side; what they find is written by the run's own process.

A place is a process of this machine (`Process`) or an actor of a cluster (`lensdiff.pipeline.cluster`), and holds the
pair and one control. A unit whose place ended is given to another one, so often as its engine has patience for.

Processes are programs of their own and not forks, since a fork of a process with threads may hang, and a script without
`if __name__ == "__main__"` would be run again by the usual ways of beginning one.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol, runtime_checkable

from lensdiff.pipeline.graph import Key
from lensdiff.pipeline.worker import Answer, Start, Task, send
from lensdiff.results import InputError

PROGRAM = "from lensdiff.pipeline.worker import main; main()"  # as `-m` its classes would be of another module
PATIENCE = 10  # seconds for one that answers no more to end
Keys = tuple[Key, ...]  # of a task
Chain = Iterator[tuple[Keys, Task]]  # one after the other: the next is asked for when the one before is recorded


@dataclass(frozen=True)
class Ready:
    """A place has begun, and can be given its first task."""


@dataclass(frozen=True)
class Ended:
    """A place answers no more; `reason` is what is known of why."""

    reason: str = ""


@runtime_checkable
class Place(Protocol):
    """Does one task at a time, and puts `Ready`, answers and its end into a queue, each with itself."""

    def send(self, message: object) -> None:
        """Give it a task."""

    def failed(self) -> bool:
        """Return whether one that has ended did so by itself, for a fault of its own."""
        ...

    def end(self) -> None:
        """End it, in the middle of a unit too: a unit that was not recorded is done again."""


Answers = SimpleQueue[tuple[Place, Ready | Answer | Ended | Exception]]


@dataclass(frozen=True)
class Engine:
    """Where the units of a run are done.

    Attributes:
        count: of places; begin: makes one.
        attempts: how many places a unit may cost; with 1 a place that ends is the end of the run.
        everything: whether all units are done there, and not those of controls alone.
        patience: seconds to wait where there is work and no place has begun yet.
        close: is called when all places are ended.
    """

    count: int
    begin: Callable[[Answers], Place]
    attempts: int = 1
    everything: bool = False
    patience: int | float | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Job:
    """A task that is to be done, the chain that goes on after it, and how many places it has cost."""

    chain: Chain
    keys: Keys
    task: Task
    ended: int = 0


class Process:
    """One process, and the thread that waits for its answers."""

    def __init__(self, start: Start, threads: int, answers: Answers):
        there = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": there, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run's own process, which ends this one
        )
        self._answers = answers
        answers.put((self, Ready()))
        self.send(start)
        Thread(target=self._listen, daemon=True).start()

    def send(self, message: object) -> None:
        """Give it what it is to know or to do; of one that has ended, the listener tells."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            send(message, self._process.stdin)

    def failed(self) -> bool:
        """Whether one that answers no more has ended by itself, and was not ended from outside."""
        try:
            return self._process.wait(PATIENCE) >= 0
        except subprocess.TimeoutExpired:  # its answers were cut off, and it goes on
            return False

    def end(self) -> None:
        """End it, in the middle of a unit too: a unit that was not recorded is done again."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # what was written and not read
                stream.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                self._answers.put((self, pickle.load(self._process.stdout)))
        except Exception as error:  # where it ended, or was ended, in the middle of a message too, nobody may wait on
            ended = isinstance(error, EOFError | OSError | ValueError | pickle.UnpicklingError)
            self._answers.put((self, Ended() if ended else error))


def processes(count: int, start: Start, threads: int) -> "Workers":
    """Return so many processes of this machine, each with so many threads."""
    return Workers(Engine(count, lambda answers: Process(start, threads, answers)))


class Workers:
    """The places of an engine, begun when they are first needed.

    Attributes:
        engine: that they are of.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self._places: list[Place] = []
        self._idle: list[Place] = []
        self._answers: Answers = SimpleQueue()
        self._lost = 0  # places that ended before they had begun, one after the other

    @property
    def count(self) -> int:
        """The number of places."""
        return self.engine.count

    def do(self, chains: Iterable[Chain], record: Callable[[Keys, Answer], None]) -> None:
        """Do all units of all chains, of as many chains at once as there are places.

        Raises:
            InputError: a place was ended from outside, and the engine has no patience with that; or there is none.
            Exception: what a unit raises that is not for its input, or that a place ended by itself.
        """
        waiting, again = iter(chains), deque[Job]()
        at_work: dict[Place, Job] = {}
        while True:
            self._begin()
            while self._idle and (job := again.popleft() if again else _begun(waiting)) is not None:
                self._give(self._idle.pop(0), job, at_work)
            if self._idle and not at_work:
                return
            place, answer = self._wait(bool(at_work))
            if place not in self._places:
                continue  # what one says that was let go
            if isinstance(answer, Ready):
                self._idle.append(place)
                self._lost = 0
                continue
            job = at_work.pop(place, None)
            if isinstance(answer, Ended):
                left = self._lose(place, answer, job, record)
                again.extend([] if left is None else [left])
                continue
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer.found, Exception) and not isinstance(answer.found, InputError):
                raise answer.found
            assert job is not None
            record(job.keys, answer)
            if (following := _next(job.chain)) is not None:
                self._give(place, following, at_work)
            else:
                self._idle.append(place)

    def close(self) -> None:
        """End all places."""
        try:
            for place in self._places:
                place.end()
        finally:
            self._places.clear()
            self._idle.clear()
            self.engine.close()

    def _begin(self) -> None:
        while len(self._places) < self.count:
            self._places.append(self.engine.begin(self._answers))

    def _give(self, place: Place, job: Job, at_work: dict[Place, Job]) -> None:
        at_work[place] = job
        place.send(job.task)

    def _wait(self, working: bool) -> tuple[Place, Ready | Answer | Ended | Exception]:
        try:
            return self._answers.get(timeout=None if working else self.engine.patience)
        except Empty:
            raise InputError(
                f"no worker could begin within {self.engine.patience:.0f} s: is there anything free of what one asks "
                "for? Run again to go on"
            ) from None

    def _lose(self, place: Place, ended: Ended, job: Job | None, record: Callable[[Keys, Answer], None]) -> Job | None:
        """Let go of a place that ended, and return what is to be done again, or after what cannot be done.

        Raises:
            InputError: one ended, and a unit may cost none; or none can begin.
        """
        if self.engine.attempts == 1:
            if place.failed():
                raise RuntimeError("a process of the run failed, see above")
            doing = "did nothing" if job is None else f"did {job.task.step} of {job.task.units[0]}"
            raise InputError(
                f"a process of the run was ended from outside while it {doing}, perhaps for want of memory: run again "
                f"to go on, with fewer workers than {self.count} if it was that"
            )
        place.end()
        self._places.remove(place)
        if place in self._idle:
            self._idle.remove(place)
        if job is None:
            self._lost += 1
            if self._lost > self.engine.attempts * self.count:
                raise InputError(f"no worker can be begun: {ended.reason}")
            return None
        if job.ended + 1 < self.engine.attempts:
            return replace(job, ended=job.ended + 1)
        reason = (
            f"each of the {self.engine.attempts} workers that it was given to was ended, perhaps for want of memory"
        )
        record(job.keys, Answer(InputError(reason), (), 0.0))
        return _next(job.chain)


def _next(chain: Chain) -> Job | None:
    """Return the next unit of a chain."""
    for keys, task in chain:
        return Job(chain, keys, task)
    return None


def _begun(chains: Iterator[Chain]) -> Job | None:
    """Return the first unit of the next chain that has one."""
    return next((job for chain in chains if (job := _next(chain)) is not None), None)
