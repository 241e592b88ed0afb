import hashlib
import pathlib

import pytest

from configs.base import Config
from pipelines.errors import UserError
from pipelines.upkeep import removal
from tests.pipelines.selection_world import Rows


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@pytest.fixture
def places(tmp_path):
    return Config(workdir=str(tmp_path / "out")).places


def _listed(tmp_path: pathlib.Path, *lines: object) -> str:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def _add(places, tmp_path: pathlib.Path, *lines: object) -> int:
    return removal.add(places, _listed(tmp_path, *lines)).changed


def test_digests_and_urls_are_added_once_without_a_memory(places, tmp_path):
    assert removal.read(places.removed).tolist() == []
    assert _add(places, tmp_path, "# asked for on Monday", _digest("a").hex(), "http://host/b", "") == 2
    assert _add(places, tmp_path, "http://host/b", _digest("c").hex().upper()) == 1
    expected = sorted([_digest("a"), _digest("http://host/b"), _digest("c")])
    assert sorted(bytes(digest) for digest in removal.read(places.removed)) == expected


def test_ids_and_urls_name_the_images_of_their_rows(places, tmp_path):
    memory = Rows.random([5, 4], seed=1)
    memory.write(pathlib.Path(places.memory))
    assert _add(places, tmp_path, memory.ids[7], memory.urls[2], 1 << 60) == 3
    expected = sorted([memory.images[7], memory.images[2], _digest(str(memory.urls[2]))])
    assert [bytes(digest) for digest in removal.read(places.removed)] == expected


def test_a_wrong_line_adds_nothing(places, tmp_path):
    with pytest.raises(UserError, match="list.txt, line 2: 'nonsense' is neither a URL"):
        _add(places, tmp_path, _digest("a").hex(), "nonsense")
    assert removal.read(places.removed).tolist() == []


def test_entries_that_meet_no_row_are_named(places, tmp_path):
    memory = Rows.random([5, 4], seed=1)
    memory.write(pathlib.Path(places.memory))
    absent = _digest("absent").hex()
    path = _listed(tmp_path, memory.ids[7], memory.urls[2].upper(), 1 << 60, "http://not/there", absent, memory.urls[4])
    outcome = removal.add(places, path)
    assert (outcome.entries, outcome.unmet) == (6, (str(1 << 60), memory.urls[2].upper(), "http://not/there", absent))
    assert outcome.shown_unmet.startswith(
        f"4 of 6 entries met no row: {1 << 60}, HTTP://HOST/1/2.JPG, http://not/there, .."
    )


def test_what_is_taken_off_may_come_again(places, tmp_path):
    memory = Rows.random([5, 4], seed=1)
    memory.write(pathlib.Path(places.memory))
    _add(places, tmp_path, memory.ids[7], memory.urls[2], _digest("c").hex())
    outcome = removal.forget(places, _listed(tmp_path, memory.urls[2], memory.ids[7]))
    assert outcome.changed == 3
    assert [bytes(digest) for digest in removal.read(places.removed)] == [_digest("c")]
    assert removal.forget(places, "all").changed == 1 and not len(removal.read(places.removed))


def test_urls_that_an_earlier_version_kept_as_they_were_given_are_taken_off(places, tmp_path):
    pathlib.Path(places.workdir).mkdir()
    pathlib.Path(places.removed).write_text(f"{_digest('HTTP://h/x').hex()}\n")
    assert removal.forget(places, _listed(tmp_path, "HTTP://h/x")).changed == 1


def test_a_footer_with_another_bit_is_no_memory_without_the_image(places, tmp_path):
    memory = Rows.random([5, 4], seed=1)
    memory.write(pathlib.Path(places.memory))
    path = next(pathlib.Path(places.memory).glob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=f"{path.name}: is damaged or of another run, its SHA-256 .*run web-memory embed again"
    ):
        _add(places, tmp_path, memory.ids[2])
    assert not len(removal.read(places.removed))
