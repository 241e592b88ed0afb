import hashlib
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.filtering.unwanted import removed_list
from pipelines.filtering.unwanted.removed_list import RemovedList


def digests(*names: str) -> np.ndarray:
    return np.frombuffer(b"".join(hashlib.sha256(name.encode()).digest() for name in names), "S32")


@pytest.fixture
def path(tmp_path) -> pathlib.Path:
    return tmp_path / "removed.txt"


def write(path: pathlib.Path, *names: str) -> RemovedList:
    listed = RemovedList().with_new(digests(*names))
    listed.write(str(path))
    return listed


def test_the_file_says_what_it_is(path):
    (digest,) = digests("a")
    write(path, "a")
    checksum = hashlib.sha256(b"0\n" + bytes(digest)).hexdigest()
    expected = f"# web-memory: 1 entries, taken off 0 times, sha256 {checksum}\n{bytes(digest).hex()}\n"
    assert path.read_text() == pathlib.Path(removed_list.copy_of(str(path))).read_text() == expected


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=4), max_size=5))
def test_a_list_follows_all_its_earlier_states(steps):
    states, listed = [RemovedList().state], RemovedList()
    for names in steps:
        listed = listed.with_new(digests(*names))
        assert all(listed.follows(state) for state in states)
        states.append(listed.state)
    assert set(listed.digests.tolist()) == set(digests(*[n for names in steps for n in names]).tolist())
    shorter = RemovedList(listed.digests[:-1])
    other = RemovedList(np.concatenate([digests("x"), listed.digests[1:]]))
    for changed in (shorter, other) if len(listed.digests) else ():
        assert not changed.follows(listed.state)


def test_entries_are_taken_off_by_command_alone(path):
    before = write(path, "a", "b")
    after = before.without(digests("a", "z"))
    assert after.follows(before.state) and not before.follows(after.state)
    assert before.without(digests("z")) is before
    after.write(str(path))
    assert removed_list.settle(str(path), [before.state]).digests.tolist() == digests("b").tolist()
    # An old backup of both files is noticed.
    before.write(str(path))
    with pytest.raises(UserError, match="is not the list of 1 removed images and URLs that was applied before"):
        removed_list.settle(str(path), [after.state])


@pytest.mark.parametrize("lost", ["file", "copy", "copy is damaged", "file is older"])
def test_what_one_file_lost_the_other_has(path, lost):
    first = write(path, "a")
    older, old = first.state, path.read_bytes()
    now = first.with_new(digests("b"))
    now.write(str(path))
    copy = pathlib.Path(removed_list.copy_of(str(path)))
    match lost:
        case "file":
            path.unlink()
        case "copy":
            copy.unlink()
        case "copy is damaged":
            copy.write_bytes(copy.read_bytes()[:-9])
        case "file is older":
            path.write_bytes(old)
    whole = (copy if copy.exists() and lost != "copy is damaged" else path).read_bytes()
    assert removed_list.settle(str(path), [older, now.state]).state == now.state
    assert path.read_bytes() == copy.read_bytes() == whole


def cuts(data: bytes) -> dict[str, bytes]:
    lines = data.splitlines(keepends=True)
    return {
        "emptied": b"",
        "one line less": b"".join(lines[:-1]),
        "first entry less": lines[0] + b"".join(lines[2:]),
        "half a line": data[:-20],
        "no first line, one entry less": b"".join(lines[2:]),
        "another entry": data[:-2] + b"0\n" if data[-2:] != b"0\n" else data[:-2] + b"1\n",
        "binary": bytes(range(256)),
    }


@pytest.mark.parametrize("cut", cuts(b"1\n2\n3\n"))
def test_a_list_that_was_cut_or_edited_is_refused_and_the_remedy_works(path, cut):
    now = write(path, "a", "b", "c")
    path.write_bytes(cuts(path.read_bytes())[cut])
    with pytest.raises(UserError, match="removed.txt: .*remove the (file|one that is not of)"):
        removed_list.settle(str(path), [now.state])
    path.unlink()
    assert removed_list.settle(str(path), [now.state]).state == now.state


def test_any_bit_is_noticed(path):
    now = write(path, "a", "b")
    data = path.read_bytes()
    for place in range(0, 8 * len(data), 7):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            assert set(removed_list.settle(str(path), [now.state]).digests) == set(now.digests)
        except UserError:
            pass


def test_a_list_that_is_lost_altogether_is_missed(path):
    state = write(path, "a", "b").state
    path.unlink()
    pathlib.Path(removed_list.copy_of(str(path))).unlink()
    assert not len(removed_list.settle(str(path), []).digests)
    with pytest.raises(UserError, match="has 0 entries, and is not the list of 2 .*--forget_removed=all --remove=FILE"):
        removed_list.settle(str(path), [state])
    path.write_bytes(b"")
    with pytest.raises(UserError, match="removed.txt: is empty.*restore it from a backup"):
        removed_list.settle(str(path), [])


def test_lists_of_earlier_versions_are_read(path):
    entries = sorted(digests("a", "b", "c").tolist())
    path.write_text("".join(f"{entry.hex()}\n" for entry in entries))
    assert removed_list.settle(str(path), []).digests.tolist() == entries
    assert path.read_text().startswith("# web-memory: 3 entries")
