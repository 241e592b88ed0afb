"""What decoding an image takes, and what may become of one that was changed."""

import contextlib
import random
import resource
import textwrap
import time
from collections.abc import Iterator

from pipelines.images.decode import DecodeError, decode
from tests import forks

_SCRIPT = textwrap.dedent("""
    import pathlib, time
    from pipelines.images.decode import DecodeError, decode
    peak = lambda: 1024 * int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    def run(data):
        before, begin = peak(), time.process_time()
        try:
            image = decode(data, 100_000_000).image
            found = f"{image.width} x {image.height}"
        except DecodeError as error:
            found = error.reason
        return f"{peak() - before} {time.process_time() - begin} {found}"
""")


def measure(data: bytes) -> tuple[int, float, str]:
    """Decodes in a process of its own.

    Returns the bytes at the peak above those of the imports, the seconds, and the size or why it is refused.
    """
    peak, secs, found = forks.run(_SCRIPT, data).split(" ", 2)
    return int(peak), float(secs), found


def outcome(data: bytes) -> None:
    """Fails unless the image is soon decoded, or refused for a reason."""
    begin = time.process_time()
    try:
        picture = decode(data, 1 << 20)
        assert picture.image.mode == "RGB" and picture.image.size == (picture.width, picture.height)
    except DecodeError as error:
        assert error.reason in ("CannotDecode", "TooManyPixels", "EmptyImage") and "0x" not in str(error)
    assert time.process_time() - begin < 2


def changed(data: bytes, chance: random.Random, start: int, end: int) -> bytes:
    """The same bytes but for one to four between two places."""
    found = bytearray(data)
    for place in chance.choices(range(start, end), k=chance.randint(1, 4)):
        found[place] = chance.choice([0, 255, chance.randrange(256), found[place] ^ 1 << chance.randrange(8)])
    return bytes(found)


@contextlib.contextmanager
def no_more_memory(most: int) -> Iterator[None]:
    """Fails if the peak of this process grows by more than so many bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < most >> 10
