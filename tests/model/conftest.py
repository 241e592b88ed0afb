"""A small world whose neighbours are looked up, as all commands of the trainer need it."""

import pathlib

import pytest

from tests.world import World


@pytest.fixture(scope="session")
def looked_up(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Returns the one that tests read, and copy before they write."""
    world = World(tmp_path_factory.mktemp("line")).write()
    assert world.build() == 0 and world.neighbors() == 0
    return world


@pytest.fixture
def world(looked_up: World, tmp_path: pathlib.Path) -> World:
    """Returns the looked-up world with an empty folder of runs, at a place of its own."""
    return looked_up.copy(tmp_path)
