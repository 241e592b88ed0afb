"""The damage matrix of every kind of file; a sample by default, all of it among the slow tests."""

import pathlib

import pytest

from index import build, neighbors
from tests.damage import matrix
from tests.damage.matrix import Kind, Made
from tests.world import World

_FINISH = ("build", "neighbors")
_BUILT, _LISTED = ("index/manifest.json",), ("neighbors/complete.json",)
KINDS = [
    Kind("memory shard", "memory/*.parquet", _FINISH),
    Kind("memory shard, index to build", "memory/*.parquet", _FINISH, ("index/builds/*/_done/*", *_BUILT, *_LISTED)),
    Kind("memory stage", "memory/stage.json", _FINISH),
    Kind("memory complete", "memory/complete.json", _FINISH),
    Kind("split shard", "queries/train/*.parquet", ("neighbors",)),
    Kind("split complete", "queries/train/complete.json", ("neighbors",)),
    Kind("index stage", "index/stage.json", _FINISH),
    Kind("index config", "index/config.json", _FINISH),
    Kind("index manifest", "index/manifest.json", _FINISH),
    Kind("build stage", "index/builds/*/stage.json", _FINISH),
    Kind("build stage, unpublished", "index/builds/*/stage.json", _FINISH, _BUILT),
    Kind("build marker", "index/builds/*/_done/*.json", _FINISH, _BUILT),
    *(
        Kind(f"{name}{state}", f"index/builds/*/{pattern}", _FINISH, without)
        for name, pattern in (
            ("queries", "queries.parquet"),
            ("router", "router.parquet"),
            ("searcher", "shard-*/exact/keys.npy"),
            ("shard rows", "shard-*/rows.parquet"),
            ("exact lists", "shard-*/exact.parquet"),
            ("found lists", "shard-*/found.parquet"),
        )
        for state, without in (("", ()), (", unpublished", _BUILT))
    ),
    Kind("neighbors stage", "neighbors/stage.json", ("neighbors",)),
    Kind("neighbors complete", "neighbors/complete.json", ("neighbors",)),
    Kind("version stage", "neighbors/versions/*/stage.json", ("neighbors",)),
    Kind("version index", "neighbors/versions/*/index.json", ("neighbors",)),
    Kind("version index, to finish", "neighbors/versions/*/index.json", ("neighbors",), _LISTED),
    Kind("block", "neighbors/versions/*/train-*.parquet", ("neighbors",)),
    Kind("block, to finish", "neighbors/versions/*/train-*.parquet", ("neighbors",), _LISTED),
    Kind("block marker", "neighbors/versions/*/_done/*.json", ("neighbors",), _LISTED),
    Kind("gathered rows", "neighbors/versions/*/memory/*.parquet", ("neighbors",)),
    Kind("gathered marker", "neighbors/versions/*/_done/memory/*.json", ("neighbors",), _LISTED),
]
# Kinds whose trials build or search again take seconds, so the sample leaves them out.
_QUICK = [kind for kind in KINDS if not kind.without]


def _run(command: str, root: pathlib.Path) -> int:
    (root / "config.py").write_text((root / "config.py").read_text().replace("WORKDIR", str(root)))
    argv = [f"--config={root}/config.py", "--runner=FnApiRunner"]
    return {"build": build.main, "neighbors": neighbors.main}[command](argv)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """A small world with an index of two regions and neighbour lists, and another one."""
    folders = []
    for name, rows in (("one", 60), ("two", 66)):
        world = World(tmp_path_factory.mktemp(name), rows)
        world.write()
        flags = ("--config.index.shards=2", "--config.index.k=3")
        assert world.build(*flags) == 0 and world.neighbors(*flags) == 0
        text = world.config_file.read_text().replace(str(world.folder), "WORKDIR")
        world.config_file.write_text(text.replace("shards=3, k=5", "shards=2, k=3"))
        folders.append(world.folder)
    return Made(folders[0], "", folders[1], _run)


def test_a_damaged_file_is_refused_healed_or_harmless(made, tmp_path, capsys):
    ends, wrong = matrix.run(made, _QUICK, tmp_path, flips=1, whole=("another run's",))
    assert not wrong, "\n".join(wrong)
    assert {kind for kind, _ in ends} == {kind.name for kind in _QUICK}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_damage_of_every_kind(made, tmp_path, capsys, kind):
    ends, wrong = matrix.run(made, [kind], tmp_path, flips=200 if kind in _QUICK else 40)
    with capsys.disabled():
        print("\n" + matrix.table(ends))
    assert not wrong, "\n".join(wrong)
