"""The one exception that is meant for the person at the keyboard, how suggestions are worded, and what others mean."""

import difflib
import os
import re
import select
import tempfile
from collections.abc import Sequence

_FULL = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)

# Standard output and standard error.
_OUTPUTS = (1, 2)


class UserError(Exception):
    """An error for the person who runs the program: says what was wrong, where, and what to do."""


def nearest(wrong: str, right: Sequence[str]) -> str:
    """Returns `did you mean 'x'?` with the nearest right name, or all of them if none is near."""
    found = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}?" if found else f"known are {', '.join(sorted(right))}"


def one_line(error: BaseException) -> str:
    """Returns what an exception says, without line breaks: sentences for the user have none."""
    return " ".join(str(error).split())


def full_disk(error: BaseException, place: str) -> UserError | None:
    """Returns the error to show if a write failed for lack of space, of whatever type and depth it is; else None.

    Args:
        error: as it was raised; libraries and runners keep no more of the cause than its text.
        place: folder of the outputs.
    """
    text, cause = "", error.__cause__
    while cause is not None and len(text) < 1 << 16:
        text, cause = f"{text}\n{cause}", cause.__cause__
    if not _FULL.search(f"{error}{text}"):
        return None
    return UserError(
        f"{place}: no space is left on its disk, or on that of the temporary files ({tempfile.gettempdir()}); make "
        "room and run the same command again, it resumes"
    )


def is_unread(error: BaseException) -> bool:
    """Tells whether an error says that nobody reads what is printed any more, as after `| head -1`.

    Pipes to processes of our own may break, too. What is still to be printed is lost then.
    """
    if not isinstance(error, BrokenPipeError):
        return False
    poller = select.poll()
    for descriptor in _OUTPUTS:
        poller.register(descriptor, 0)
    unread = [descriptor for descriptor, event in poller.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for descriptor in unread:
        # Python writes what is left at its end, and would complain.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
    return bool(unread)


def command(stage: str) -> str:
    """Returns the command of a stage as users type it: `index.build` is `web-memory build`."""
    return f"web-memory {stage.rpartition('.')[2]}"
