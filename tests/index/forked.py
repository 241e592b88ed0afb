"""Runs a command in a forked process that is killed, as `kill -9` does, before one of its steps on local files."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable


def _steps(after: int) -> None:
    """Kills this process before a rename or a deletion, after some of them."""
    left = [after]

    def counted(work: Callable) -> Callable:
        def step(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*args, **kwargs)

        return step

    for module, name in ((os, "replace"), (os, "remove"), (shutil, "rmtree")):
        setattr(module, name, counted(getattr(module, name)))


def start(command: Callable[[], int], after: int | None = None) -> int:
    """Starts a command in a process of its own and returns its number; it is killed `after` some steps."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    code = 99
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        if not os.environ.get("SHOW_FORKED"):
            os.dup2(silent, 2)
        if after is not None:
            _steps(after)
        code = command()
    finally:
        os._exit(code)


def end(process: int) -> int:
    """Returns the exit code of a process, negative if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(command: Callable[[], int], secs: float) -> bool:
    """Runs a command for some seconds, then kills it; tells whether it had not ended by then."""
    process, begin = start(command), time.monotonic()
    while time.monotonic() - begin < secs:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return False
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    return end(process) < 0


def has_ended(process: int) -> bool:
    """Tells whether a process has ended, which must have gone well."""
    done, status = os.waitpid(process, os.WNOHANG)
    assert not done or os.waitstatus_to_exitcode(status) == 0
    return bool(done)
