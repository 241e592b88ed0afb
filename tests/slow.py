"""Cases of a test of which only `make test-all` runs every one."""

from collections.abc import Iterable
from typing import Any

import pytest


def after(count: int, cases: Iterable[Any]) -> list[Any]:
    """Returns cases for `pytest.mark.parametrize`; all but the first `count` are marked slow.

    Args:
        count: cases that every run of the tests takes.
        cases: an argument of the test, or a tuple of several.
    """
    several = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*case, marks=pytest.mark.slow if number >= count else ()) for number, case in enumerate(several)
    ]
