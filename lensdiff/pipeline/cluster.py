"""Units of a run on a Ray cluster: each actor holds the models, and does one unit at a time.

Of a control's responses it does those that are decoded together, which then end together where the actor ends.

The run's own process decides what is done and alone writes results; an actor is told a unit, reads what that reads from
the results directory, and answers. So checkpoints and the results directory lie where every node sees them, under the
same path. An actor that ends costs the unit that it was in, which another one does again; a unit that ends `ATTEMPTS`
of them has failed. Messages are bytes that we pickle, so that an array arrives as it was sent.
"""

import logging
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from lensdiff.models.progress import unseen
from lensdiff.pipeline.config import RayOptions
from lensdiff.pipeline.door import NO_RAY
from lensdiff.pipeline.identity import code_identity
from lensdiff.pipeline.threads import threads_for
from lensdiff.pipeline.worker import Start, Worker
from lensdiff.pipeline.workers import Answers, Ended, Engine, Ready, Workers
from lensdiff.results import InputError

ATTEMPTS = 3  # actors that one unit may end
OWN = "local"  # the address of a cluster that is begun for the run, on this machine
PATIENCE = 10  # seconds for the thread of an actor that was ended


class Held:
    """What an actor is: a worker with its models in memory."""

    def __init__(self, start: bytes, folder: str, code: list[Any], parameters: int | None):
        self._start, self._folder, self._code, self._parameters = start, Path(folder), code, parameters
        self._worker: Worker | None = None

    def ready(self) -> str:
        """Return why it cannot work here, or "" where it can."""
        if not self._folder.is_dir():
            return f"a node of the cluster has no folder {self._folder}: run from one that all of them see"
        if code_identity() != self._code:
            return "a node of the cluster has other versions of lensdiff or of the packages that its results depend on"
        os.chdir(self._folder)  # paths are meant from where the run was begun
        return ""

    def answer(self, task: bytes) -> bytes:
        """Return the pickled answer to a pickled task."""
        with unseen(), threads_for(self._parameters):  # as many threads as the run's own process would use
            if self._worker is None:
                self._worker = Worker(pickle.loads(self._start))
            return pickle.dumps(self._worker.answer(pickle.loads(task)), protocol=pickle.HIGHEST_PROTOCOL)


class Actor:
    """One actor, and the thread that waits for its answers."""

    def __init__(self, ray: Any, handle: Any, answers: Answers):
        self._ray, self._handle, self._answers = ray, handle, answers
        self._tasks: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = Thread(target=self._listen, daemon=True)
        self._thread.start()

    def send(self, message: object) -> None:
        """Give it a task; of one that has ended, the listener tells."""
        self._tasks.put(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

    def failed(self) -> bool:
        """Whether it ended for a fault of its own: of an actor nobody knows."""
        return False

    def end(self) -> None:
        """End it, in the middle of a unit too."""
        with suppress(Exception):  # it, or the whole cluster, is gone
            self._ray.kill(self._handle)
        self._tasks.put(None)
        self._thread.join(PATIENCE)

    def _listen(self) -> None:
        try:
            if reason := self._ray.get(self._handle.ready.remote()):
                self._answers.put((self, InputError(reason)))
                return
            self._answers.put((self, Ready()))
            while (task := self._tasks.get()) is not None:
                self._answers.put((self, pickle.loads(self._ray.get(self._handle.answer.remote(task)))))
        except self._ray.exceptions.RayTaskError as error:  # what the actor's own code raised
            self._answers.put((self, error.cause if isinstance(error.cause, Exception) else error))
        except self._ray.exceptions.RayError as error:
            self._answers.put((self, Ended(str(error).strip().split("\n", 1)[0])))
        except Exception as error:  # nobody may wait for it
            self._answers.put((self, error))


def actors(options: RayOptions, start: Start, parameters: int | None) -> Workers:
    """Return the actors of a cluster that a config names, or of one that is begun on this machine.

    Args:
        parameters: of a model: a small one is read with one thread (`threads_for`).

    Raises:
        InputError: the package is not installed, no cluster answers, or it has no room for one actor.
    """
    ray, leave = join(options)
    try:
        count = _count(options, ray.cluster_resources())
        given = pickle.dumps(start, protocol=pickle.HIGHEST_PROTOCOL), str(Path.cwd()), code_identity(), parameters
        room = {"num_cpus": options.cpus_per_actor, "num_gpus": options.gpus_per_actor, "max_restarts": 0}
        kind = ray.remote(Held).options(**room, max_task_retries=0, scheduling_strategy="SPREAD")
    except BaseException:
        leave()
        raise
    return Workers(
        Engine(
            count,
            lambda answers: Actor(ray, kind.remote(*given), answers),
            attempts=ATTEMPTS,
            everything=True,
            patience=options.patience,
            close=leave,
        )
    )


def join(options: RayOptions) -> tuple[Any, Callable[[], None]]:
    """Return the package, connected to the cluster, and how to leave it: what was connected before stays so.

    Nothing is reported to anybody, and no page is served.

    Raises:
        InputError: as `actors`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(NO_RAY) from error
    if ray.is_initialized():
        return ray, lambda: None
    own: dict[str, Any] = {"include_dashboard": False} if options.address is None else {}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=options.address or OWN, **own, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        what = str(error).strip().split("\n", 1)[0]
        raise InputError(f"no Ray cluster answers at {options.address or OWN}: {what}") from error
    return ray, ray.shutdown


def _count(options: RayOptions, there: dict[str, float]) -> int:
    """Return how many actors there are: as many as asked for, else as fit.

    Raises:
        InputError: not one fits.
    """
    wanted = {"CPU": options.cpus_per_actor, "GPU": options.gpus_per_actor}
    fit = [int(there.get(name, 0) / each) for name, each in wanted.items() if each]
    if fit and not min(fit):
        short = next(name for name, each in wanted.items() if each and there.get(name, 0) < each)
        raise InputError(
            f"an actor asks for {wanted[short]:g} {short} (ray.{short.lower()}s_per_actor), "
            f"the cluster has {there.get(short, 0):g}"
        )
    return options.actors or max(1, min(fit, default=1))
