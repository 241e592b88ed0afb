"""Fixtures of the index tests; see `tests.world` for what they are made of."""

import pathlib

import pytest

from tests.world import World


@pytest.fixture
def world(tmp_path: pathlib.Path) -> World:
    """A finished memory and three splits, nothing indexed."""
    return World(tmp_path / "world").write()
