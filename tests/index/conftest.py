"""Fixtures of the index tests; what they are made of is in `world`."""

import pathlib

import pytest

from tests.index.world import World


@pytest.fixture
def world(tmp_path: pathlib.Path) -> World:
    """A finished memory and three splits, nothing indexed."""
    return World(tmp_path / "world").write()
