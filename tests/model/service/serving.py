"""Services in processes of their own, on a free port of this machine."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from tests.world import REPOSITORY

_FAKE = """
from model.service import application, server
from model.service.limits import Limits
from tests.model.service.fake import Fake

limits = Limits(**{limits!r})
app = application.build(Fake({secs}), limits)
server.run(app, "127.0.0.1", 0, limits, lambda port: print(f"on :{{port}} ", flush=True))
print("stopped", flush=True)
"""


@dataclasses.dataclass
class Service:
    """A service that runs."""

    process: subprocess.Popen
    port: int
    errors: IO[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Asks it to stop; returns the exit code, and what it wrote."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=60)
        self.errors.seek(0)
        return self.process.returncode, out, self.errors.read()


@contextlib.contextmanager
def serving(argv: list[str]) -> Iterator[Service]:
    """Yields the service of a command that prints `:PORT ` when it takes requests; ends it afterwards."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:
        # A pipe that nobody reads would fill up and stop it.
        errors = stack.enter_context(tempfile.TemporaryFile("w+"))
        command = [sys.executable, *argv]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        stack.enter_context(process)
        stack.callback(process.kill)
        for line in process.stdout:
            if found := re.search(r":(\d+) ", line):
                yield Service(process, int(found[1]), errors)
                return
        errors.seek(0)
        raise AssertionError(errors.read())


def fake(secs: float = 0.0, **limits: float) -> contextlib.AbstractContextManager[Service]:
    """Returns a service of the fake recogniser."""
    return serving(["-c", _FAKE.format(secs=secs, limits=limits)])
