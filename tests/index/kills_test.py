"""Runs `kills_cases` in a process of its own: it forks, which is not safe once JAX or TensorFlow has threads."""

import subprocess
import sys

import pytest

from tests.world import REPOSITORY


def _run(marked: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-m", marked]
    done = subprocess.run(
        [*command, "tests/index/kills_cases.py"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    # Counts of kills are printed there.
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]


@pytest.mark.slow
def test_kills_and_two_commands_at_once() -> None:
    _run("not slow")


@pytest.mark.slow
def test_kills_at_random_moments() -> None:
    _run("slow")
