"""Ways that are compared in turn, each in a process of its own, which waits while the others run."""

import subprocess
from collections.abc import Mapping, Sequence


class Child:
    """A process that answers each line on its standard input with one line, a rate for example."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None, quiet: bool = False):
        """Starts it.

        Args:
            command: its command line.
            environment: its variables; None for those of this process.
            quiet: whether what it says on standard error is dropped.
        """
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            env=environment,
            text=True,
        )

    def line(self) -> str:
        """Returns the next line that it writes; empty if it has ended."""
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        """Writes it a line and returns its answer."""
        assert self._process.stdin
        print(line, file=self._process.stdin, flush=True)
        return self.line()

    def rate(self) -> float:
        """Runs it once and returns its rate."""
        return float(self.ask("go"))

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
