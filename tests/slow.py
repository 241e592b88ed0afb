"""Cases of a test of which only `make test-all` runs every one."""

from collections.abc import Iterable
from typing import Any

import pytest


def after(count: int, cases: Iterable[Any]) -> list[Any]:
    """Returns cases for `pytest.mark.parametrize`; all but the first `count` are marked slow.

    Args:
        count: cases that every run of the tests takes.
        cases: arguments, a tuple for several, or what `pytest.param` returns.
    """

    def slow(case: Any) -> Any:
        if isinstance(case, type(pytest.param())):
            return pytest.param(*case.values, marks=[*case.marks, pytest.mark.slow], id=case.id)
        return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)

    return [slow(case) if number >= count else case for number, case in enumerate(cases)]
