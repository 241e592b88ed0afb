import json
import os
import shutil
import subprocess
import sys

from index.store import index_manifest, versions
from index.store.reader import Index
from tests.world import REPOSITORY, World, unit


def publish(world: World, build: str) -> None:
    """Publishes a version that is the same index in another build."""
    folder = world.index
    text = (folder / "manifest.json").read_text()
    facts = json.loads(text)
    (old,) = versions.builds_of(facts)
    shutil.copytree(folder / "builds" / old, folder / "builds" / build)
    facts = json.loads(text.replace(f"builds/{old}", f"builds/{build}"))
    rates = facts.pop("rates")
    for name in ("fingerprint", "schema_version", "metric"):
        del facts[name]
    index_manifest.write(str(folder), {**facts, "version": facts["version"] + 1}, rates)


def builds(world: World) -> list[str]:
    return sorted(os.listdir(world.index / "builds"))


def test_what_is_read_is_kept(world: World):
    assert world.build() == 0
    reader = Index.open(str(world.index))
    publish(world, "00002")
    assert versions.purge(str(world.index)) == ["00001"]
    assert builds(world) == ["00001", "00002"]
    assert reader.search(unit(3), 2).ids.shape == (3, 2)
    del reader
    assert versions.purge(str(world.index)) == []
    assert builds(world) == ["00002"]
    assert Index.open(str(world.index)).search(unit(3), 2).ids.shape == (3, 2)


def test_a_reader_in_another_process_is_seen(world: World):
    assert world.build() == 0
    code = (
        "import sys; from index.store.reader import Index\n"
        f"index = Index.open({str(world.index)!r}); print('open', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:
        assert process.stdout.readline() == b"open\n"
        assert versions.is_held(str(world.index))
        process.kill()
    assert not versions.is_held(str(world.index))


def test_a_version_that_is_replaced_while_it_is_opened(world: World, monkeypatch):
    assert world.build() == 0
    read, calls = index_manifest.read, []

    def replaced(folder: str) -> dict:
        facts = read(folder)
        calls.append(facts["version"])
        if len(calls) == 1:
            publish(world, "00002")
            shutil.rmtree(world.index / "builds/00001")
        return facts

    monkeypatch.setattr(index_manifest, "read", replaced)
    index = Index.open(str(world.index))
    assert calls == [1, 2, 2] and index.version == 2
    assert index.search(unit(3), 2).ids.shape == (3, 2)


def test_a_folder_that_nobody_may_write_can_be_opened(world: World):
    assert world.build() == 0
    for folder, _, files in os.walk(world.index):
        for file in files:
            os.chmod(os.path.join(folder, file), 0o444)
        os.chmod(folder, 0o555)
    try:
        assert Index.open(str(world.index)).search(unit(3), 2).ids.shape == (3, 2)
    finally:
        for folder, _, _ in os.walk(world.index):
            os.chmod(folder, 0o755)
