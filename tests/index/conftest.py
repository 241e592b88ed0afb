"""Fixtures of the index tests; see `tests.world` for what they are made of."""

import pathlib

import pytest

from tests.world import World


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished memory and three splits, nothing indexed; tests change twins of it."""
    return World(tmp_path_factory.mktemp("pristine") / "world").write()


@pytest.fixture(scope="session")
def pristine_indexed(pristine: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same with an index of three shards, dealt by hash."""
    world = pristine.twin(tmp_path_factory.mktemp("indexed") / "world")
    assert world.build("--config.index.sharding=hash") == 0
    return world


@pytest.fixture(scope="session")
def pristine_listed(pristine_indexed: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same with its lists."""
    world = pristine_indexed.twin(tmp_path_factory.mktemp("listed") / "world")
    assert world.neighbors() == 0
    return world


@pytest.fixture
def world(pristine: World, tmp_path: pathlib.Path) -> World:
    return pristine.twin(tmp_path / "world")


@pytest.fixture
def indexed(pristine_indexed: World, tmp_path: pathlib.Path) -> World:
    return pristine_indexed.twin(tmp_path / "world")


@pytest.fixture
def listed(pristine_listed: World, tmp_path: pathlib.Path) -> World:
    return pristine_listed.twin(tmp_path / "world")
