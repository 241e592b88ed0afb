"""Small pictures: of what, how large, and what becomes of those that cannot be read."""

import io

import numpy as np
import pytest
from PIL import Image

from configs.base import Embed, Source
from model.gallery import thumbnails
from model.gallery.rows import Rows
from model.gallery.thumbnails import Wanted
from pipelines import schemas
from pipelines.sources.pictures import Pictures
from tests.pipelines import tiny_encoders as tiny


def _noise(side, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8))


def _jpeg(color, size=(300, 200), **more):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG", **more)
    return buffer.getvalue()


def _rows(containers, members, shard=5):
    return Rows(schemas.make_id(shard, np.arange(len(members))), containers, members, [None] * len(members))


@pytest.mark.parametrize(("most", "side"), [(900, 48), (1_800, 64), (5_000, 96), (20_000, 96)])
def test_a_picture_is_as_good_as_its_bytes_allow(most, side):
    data = thumbnails.encode(_noise(96), most)
    assert len(data) <= most and Image.open(io.BytesIO(data)).size == (side, side)


def test_nothing_of_the_original_file_but_its_pixels_is_written():
    secret = b"Exif\0\0 and somebody's home"
    source = Image.open(io.BytesIO(_jpeg("red", exif=secret, comment=b"<script>")))
    data = thumbnails.encode(source, 9_000)
    assert b"home" not in data and b"script" not in data and Image.open(io.BytesIO(data)).size == (96, 64)


def test_each_row_has_a_picture_and_what_cannot_be_read_is_counted(tmp_path):
    tiny.write_tar(tmp_path / "pairs/0.tar", [("a", _jpeg("red"), "x"), ("b", b"no image", "y")])
    tiny.write_tar(tmp_path / "pairs/1.tar", [("c", _jpeg("blue"), "x")])
    (tmp_path / "images").mkdir()
    (tmp_path / "images/q.jpg").write_bytes(_jpeg("green"))
    (tmp_path / "secret.jpg").write_bytes(_jpeg("white"))
    tar, folder = f"{tmp_path}/pairs/{{}}.tar".format, f"{tmp_path}/images"
    memory = _rows([tar(1), tar(0), tar(0), tar(0), tar(2)], ["c.jpg", "b.jpg", "gone.jpg", "a.jpg", "d.jpg"])
    listed = _rows([folder] * 4, ["q.jpg", "../secret.jpg", "https://a.example/<x>.jpg", "q.jpg"])
    images = Source(format="image_list", path="list.txt", image_root="images")
    done = []
    written = thumbnails.write(
        f"{tmp_path}/report/pictures",
        [
            Wanted("test", listed, Pictures(images, str(tmp_path), Embed())),
            Wanted("memory", memory, Pictures(Source(path="pairs/*.tar"), str(tmp_path), Embed())),
        ],
        done.append,
    )
    assert written.files == [
        ["test-5-0.jpg", None, None, "test-5-3.jpg"],
        ["memory-5-0.jpg", None, None, "memory-5-3.jpg", None],
    ]
    assert (written.unreadable, written.on_the_web) == (4, 1) and "2.tar: no such file" in written.why
    files = {path.name: path for path in (tmp_path / "report/pictures").iterdir()}
    assert files.keys() == {"test-5-0.jpg", "test-5-3.jpg", "memory-5-0.jpg", "memory-5-3.jpg"}
    assert written.size_bytes == sum(path.stat().st_size for path in files.values())
    assert max(Image.open(files["memory-5-0.jpg"]).getpixel((40, 30))) == 254 and sorted(done)[-1] == 8
    # Another report has other pictures, and those of the first are gone: a picture may have been taken down.
    again = _rows([folder], ["q.jpg"], shard=6)
    thumbnails.write(f"{tmp_path}/report/pictures", [Wanted("test", again, Pictures(images, str(tmp_path), Embed()))])
    assert [path.name for path in (tmp_path / "report/pictures").iterdir()] == ["test-6-0.jpg"]
    assert not thumbnails.write(f"{tmp_path}/report/pictures", []).files
    assert not (tmp_path / "report/pictures").exists()


def test_all_pictures_together_stay_below_their_bound():
    assert thumbnails.most_pictures() * thumbnails.WORTH_BYTES <= thumbnails.MOST_BYTES < 60_000_000 * 0.85
    worst = thumbnails.encode(_noise(96), thumbnails.MOST_BYTES // thumbnails.most_pictures())
    assert len(worst) <= thumbnails.WORTH_BYTES
