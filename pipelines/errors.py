"""The one exception that is meant for the person at the keyboard, and how suggestions are worded."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """An error for the person who runs the program: says what was wrong, where, and what to do."""


def nearest(wrong: str, right: Sequence[str]) -> str:
    """Returns `did you mean 'x'?` with the nearest right name, or all of them if none is near."""
    found = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}?" if found else f"known are {', '.join(sorted(right))}"


def one_line(error: BaseException) -> str:
    """Returns what an exception says, without line breaks: sentences for the user have none."""
    return " ".join(str(error).split())


def command(stage: str) -> str:
    """Returns the command of a stage as users type it: `index.build` is `web-memory build`."""
    return f"web-memory {stage.rpartition('.')[2]}"
