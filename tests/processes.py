"""Python in a process of its own, which can be killed, forked from one that has imported what is slow to import."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from multiprocessing import reduction
from typing import Any

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["mteb", "mrl_text.encoding", "mrl_text.search", "mrl_text.training", "tests.processes"])

COMMAND = "from mrl_text.__main__ import main; main()"


def _run(code: str, arguments: tuple[str, ...], environment: dict[str, str], *outputs: Any) -> None:
    gc.freeze()  # what was imported before is not looked at again, and so not copied
    os.environ.clear()
    os.environ.update(environment)
    for output, there in zip(outputs, (1, 2), strict=True):
        descriptor = output.detach()
        os.dup2(descriptor, there)
        os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(one, "w", buffering=1, closefd=False) for one in (1, 2))
    sys.argv = ["-c", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(environment.get("OMP_NUM_THREADS", 1)))
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})


class Started:
    """Code that runs in the environment of the moment; used as ``subprocess.Popen`` is.

    Args:
        code: Python.
        *arguments: ``sys.argv[1:]`` of it.
        **environment: variables to add.
    """

    def __init__(self, code: str, *arguments: object, **environment: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the object
        ours, theirs = os.pipe()
        self.stdout = os.fdopen(ours, encoding="utf-8")
        given = tuple(map(str, arguments)), {**os.environ, **environment}
        outputs = reduction.DupFd(theirs), reduction.DupFd(self._errors.fileno())
        self._process = context.Process(target=_run, args=(code, *given, *outputs))
        self._process.start()
        os.close(theirs)
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def errors(self) -> str:
        """What it wrote to standard error so far."""
        descriptor = self._errors.fileno()  # the place in the file is its writer's, too
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def poll(self) -> int | None:
        """Its exit status, minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; its exit status."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def killed_while_reporting(code: str, argument: object, seconds: float) -> int:
    """Kill code so long after it began; the largest of the numbers that it printed, a line each."""
    process = Started(code, argument)
    line = process.stdout.readline()  # it has begun
    time.sleep(seconds)
    process.kill()
    reported = [int(one) for one in [line, *process.stdout.read().splitlines()] if one.strip()]
    process.wait()
    return max(reported, default=0)


def command(*arguments: object, **environment: str) -> Started:
    """``mrl-text`` with these arguments."""
    return Started(COMMAND, *arguments, **environment)
