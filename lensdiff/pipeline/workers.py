"""Processes that do the units of several controls side by side; what they find is written by the run's own process.

Each holds the pair and one control. They are programs of their own and not forks, since a fork of a process with
threads may hang, and a script without `if __name__ == "__main__"` would be run again by the usual ways of beginning
one.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from lensdiff.pipeline.graph import Key
from lensdiff.pipeline.worker import Answer, Start, Task, send
from lensdiff.results import InputError

PROGRAM = "from lensdiff.pipeline.worker import main; main()"  # as `-m` its classes would be of another module
PATIENCE = 10  # seconds for one that answers no more to end
Chain = Iterator[tuple[Key, Task]]  # units one after the other: the next is asked for when the one before is recorded


class Process:
    """One process, and the thread that waits for its answers."""

    def __init__(self, start: Start, threads: int, answers: "SimpleQueue[tuple[Process, Answer | Exception | None]]"):
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
            self._answers.put((self, None if ended else error))


class Workers:
    """So many processes, begun when they are first needed.

    Attributes:
        count: of processes.
    """

    def __init__(self, count: int, start: Start, threads: int):
        self.count, self._start, self._threads = count, start, threads
        self._processes: list[Process] = []
        self._answers: SimpleQueue[tuple[Process, Answer | Exception | None]] = SimpleQueue()

    def do(self, chains: Iterable[Chain], record: Callable[[Key, Answer], None]) -> None:
        """Do all units of all chains, of as many chains at once as there are processes.

        Raises:
            InputError: a process was ended from outside.
            Exception: what a unit raises that is not for its input, or that a process ended by itself.
        """
        waiting = iter(chains)
        while len(self._processes) < self.count:
            self._processes.append(Process(self._start, self._threads, self._answers))
        at_work: dict[Process, tuple[Chain, Key]] = {}
        for process in self._processes:
            self._go_on(process, iter(()), waiting, at_work)
        while at_work:
            process, answer = self._answers.get()
            chain, key = at_work.pop(process)
            if answer is None:
                if process.failed():
                    raise RuntimeError("a process of the run failed, see above")
                raise InputError(
                    f"a process of the run was ended from outside while it did {key[0]} of {key[1]}, perhaps for want "
                    f"of memory: run again to go on, with fewer workers than {self.count} if it was that"
                )
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer.found, Exception) and not isinstance(answer.found, InputError):
                raise answer.found
            record(key, answer)
            self._go_on(process, chain, waiting, at_work)

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.end()
        self._processes.clear()

    def _go_on(
        self, process: Process, chain: Chain, waiting: Iterator[Chain], at_work: dict[Process, tuple[Chain, Key]]
    ) -> None:
        """Give a process the next unit of its chain, or of the next chain."""
        while True:
            for key, task in chain:
                at_work[process] = chain, key
                process.send(task)
                return
            try:
                chain = next(waiting)
            except StopIteration:
                return
