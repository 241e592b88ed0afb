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


def _add(places, tmp_path: pathlib.Path, *lines: object) -> int:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return removal.add(places, str(path))


def test_digests_and_urls_are_added_once_without_a_memory(places, tmp_path):
    assert removal.read(places.removed).tolist() == []
    assert _add(places, tmp_path, "# asked for on Monday", _digest("a").hex(), "http://host/b", "") == 2
    assert _add(places, tmp_path, "http://host/b", _digest("c").hex().upper()) == 1
    expected = sorted([_digest("a"), _digest("http://host/b"), _digest("c")])
    assert [bytes(digest) for digest in removal.read(places.removed)] == expected


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
