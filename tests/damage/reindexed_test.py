"""The damage matrix of a workdir that was reindexed: what was removed stays removed, whatever is damaged."""

import pathlib
import shutil

import pytest

from index import reindex, search
from tests.damage import matrix
from tests.damage.matrix import Kind, Made
from tests.index.vector_line import BEAM, Line

_COMMANDS = ("reindex", "search")
KINDS = [
    Kind(name, pattern, _COMMANDS, remade=("index version",))
    for name, pattern in (
        ("removed list", "removed.txt"),
        ("copy of the removed list", "removed.txt.copy"),
        ("tombstones", "index/builds/*/tombstones.parquet"),
        ("update stage", "index/builds/00003/stage.json"),
        ("update marker", "index/builds/00003/_done/*.json"),
        ("update rows", "index/builds/00003/shard-*/rows.parquet"),
        ("update keys", "index/builds/00003/shard-*/exact/keys.npy"),
        ("manifest", "index/manifest.json"),
        ("inputs", "memory/inputs.json"),
        ("marker", "memory/_done/*.json"),
        ("memory shard", "memory/*.parquet"),
        ("memory complete", "memory/complete.json"),
    )
]


def _run(command: str, root: pathlib.Path) -> int:
    path = root / "config.py"
    path.write_text(path.read_text().replace("WORKDIR", str(root)))
    argv = [f"--config={path}"]
    return search.main([*argv, "--id=0"]) if command == "search" else reindex.main([*argv, *BEAM])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """A memory of which a row was removed and to which a file was added, and another one."""
    roots = []
    for rows in (40, 44):
        line = Line(tmp_path_factory.mktemp("line"))
        line.put("0000", rows)
        line.put("0001", 30)
        assert line.run() == 0
        assert line.run(line.listed(line.rows["0000"][3][1])) == 0
        line.put("0002", 10)
        assert line.run() == 0
        # The data stays where it is; only the workdir is copied.
        text = line.config_file.read_text().replace(repr(str(line.root / "out")), repr("WORKDIR"))
        (line.root / "out/config.py").write_text(text)
        roots.append(line.root / "out")
    whole = tmp_path_factory.mktemp("whole") / "copy"
    shutil.copytree(roots[0], whole)
    assert [_run(command, whole) for command in _COMMANDS] == [0, 0]
    return Made(roots[0], "", roots[1], _run)


def test_what_was_removed_stays_removed(made, tmp_path):
    """The first kinds only, and a bit of each; the others are slow."""
    kinds, whole = KINDS[:3], ("truncated", "emptied", "removed", "another run's")
    ends, wrong = matrix.run(made, kinds, tmp_path, flips=1, whole=whole)
    assert not wrong, "\n".join(wrong)
    assert {kind for kind, _ in ends} == {kind.name for kind in kinds}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_damage_of_every_kind(made, tmp_path, capsys, kind):
    ends, wrong = matrix.run(made, [kind], tmp_path, flips=200)
    with capsys.disabled():
        print("\n" + matrix.table(ends))
    assert not wrong, "\n".join(wrong)
