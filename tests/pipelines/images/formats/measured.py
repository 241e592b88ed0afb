"""What decoding an image takes, in a process of its own."""

import subprocess
import sys
import textwrap

_SCRIPT = textwrap.dedent("""
    import pathlib, sys, time
    from pipelines.images.decode import DecodeError, decode
    data = sys.stdin.buffer.read()
    peak = lambda: 1024 * int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    before, begin = peak(), time.process_time()
    try:
        image = decode(data, 100_000_000).image
        found = f"{image.width} x {image.height}"
    except DecodeError as error:
        found = error.reason
    print(peak() - before, time.process_time() - begin, found)
""")


def measure(data: bytes) -> tuple[int, float, str]:
    """Returns the bytes at the peak above those of the imports, the seconds, and the size or why it is refused."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], input=data, capture_output=True, check=True)
    peak, secs, found = done.stdout.decode().strip().split(" ", 2)
    return int(peak), float(secs), found
