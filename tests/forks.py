"""Processes of their own, forked from one that has imported what they need: each starts in milliseconds."""

import functools
import struct
import subprocess
import sys

_SERVER = """
import os, signal, struct, sys
exec(sys.argv[1])
while head := sys.stdin.buffer.read(8):
    data = sys.stdin.buffer.read(struct.unpack("<Q", head)[0])
    if not (process := os.fork()):
        signal.alarm(120)
        try:
            said = run(data)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        print(said)
        sys.stdout.flush()
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@functools.cache
def _server(code: str) -> subprocess.Popen:
    # It ends with this process, whose end of the pipe is closed then.
    return subprocess.Popen([sys.executable, "-c", _SERVER, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run(code: str, data: bytes) -> str:
    """Runs a function in a process of its own, at most two minutes; fails if the process does.

    Args:
        code: what is run before the process is forked: imports, and the function `run` from bytes to one line.
        data: given to the function.

    Returns:
        The line.
    """
    server = _server(code)
    server.stdin.write(struct.pack("<Q", len(data)) + data)
    server.stdin.flush()
    lines = []
    while not (line := server.stdout.readline().decode()).startswith("ended "):
        assert line, "the process that forks has ended"
        lines.append(line)
    assert line == "ended 0\n", line
    return "".join(lines).rstrip("\n")
