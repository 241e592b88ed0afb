"""The command from its command line, over a memory that a tiny encoder of known weights has made of real images."""

import base64
import io
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from index import Index, build, reindex, search
from index.searching import page, rows
from index.searching.finder import Finder
from index.searching.page import Tile
from pipelines import embed, options, schemas
from pipelines.encoders import loaded
from pipelines.manifest import Embeddings
from tests.pipelines import tiny_encoders as tiny

ROWS = 24
HOSTILE = '<script>alert("x")</script> \x1b[31mred'


def save_number_encoder(folder: pathlib.Path, vectors: np.ndarray, space: str) -> None:
    """Saves an encoder of texts that takes "3" to row 3 of the vectors, so that the right answer is known."""
    import tensorflow as tf

    class Encoder(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):
            padded = tf.where(tf.equal(texts, ""), "0", texts)
            return tf.gather(vectors, tf.strings.to_number(padded, tf.int32))

    tf.saved_model.save(Encoder(), str(folder))
    description = {"name": folder.name, "kind": "text", "dim": vectors.shape[1], "preprocess": {}, "space": space}
    (folder / "encoder.json").write_text(json.dumps(description))


class World:
    """A memory of two tars, embedded and indexed, and the command on it."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        tiny.save_image_encoder(root / "image")
        tiny.save_image_encoder(root / "other", seed=1)
        tiny.save_text_encoder(root / "words")
        described = json.loads((root / "image/encoder.json").read_text())
        (root / "image/encoder.json").write_text(json.dumps({**described, "space": "colours"}))
        for shard in range(2):
            numbers = range(shard * ROWS // 2, (shard + 1) * ROWS // 2)
            pairs = [(f"{i:04d}", tiny.image_bytes(i), HOSTILE if i == 3 else f"picture {i}") for i in numbers]
            tiny.write_tar(root / f"pairs/{shard:05d}.tar", pairs)
        for i in (3, 15):
            (root / f"{i}.png").write_bytes(tiny.image_bytes(i))
        (root / "config.py").write_text("from configs.base import Config\ndef get_config():\n    return Config()\n")
        self.flags = {
            "workdir": root / "out",
            "data": root,
            "memory.path": "pairs/*.tar",
            "encoders.key": root / "image",
            "encoders.value_image": "",
            "encoders.value_text": root / "words",
            "embed.batch_size": 4,
            "index.searcher": "exact",
            "index.k": 5,
            "filters.leakage": 0,
        }
        assert embed.main(self.argv()) == 0
        assert build.main(self.argv()) == 0
        self.memory = Embeddings(f"{root}/out/memory")
        shards = [self.memory.read(shard, ["id", "key"]) for shard in self.memory.shard_rows]
        self.keys = np.concatenate([schemas.to_matrix(table["key"]) for table in shards])
        self.ids = np.concatenate([table["id"] for table in shards])
        save_number_encoder(root / "numbers", 3 * self.keys, "colours")
        save_number_encoder(root / "narrow", self.keys[:, :4], "colours")

    def argv(self, *flags: str, **changes: object) -> list[str]:
        fields = self.flags | {name.replace("__", "."): value for name, value in changes.items()}
        return [f"--config={self.root}/config.py", *(f"--config.{n}={v}" for n, v in fields.items()), *flags]

    def search(self, *flags: str, **changes: object) -> int:
        return search.main(self.argv(*flags, **changes))

    def nearest(self, row: int, k: int, without_itself: bool = False) -> tuple[list[int], np.ndarray]:
        scores = self.keys.astype(np.float64) @ self.keys[row].astype(np.float64)
        order = [i for i in np.argsort(-scores, kind="stable") if i != row or not without_itself][:k]
        return self.ids[order].tolist(), scores[order]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("search"))


def shown(output: str) -> tuple[list[int], list[float]]:
    """Returns ids and scores of a printed table."""
    rows = re.findall(r"^  \d+ +(-?\d\.\d{4})  .*  +(\d+)$", output, re.MULTILINE)
    return [int(id_) for _, id_ in rows], [float(score) for score, _ in rows]


def test_image_finds_itself_and_then_what_numpy_finds(world: World, capsys):
    assert world.search(f"--image={world.root}/15.png", "--k=7") == 0
    output = capsys.readouterr().out
    ids, scores = shown(output)
    right, right_scores = world.nearest(15, 7)
    assert ids == right and ids[0] == world.ids[15]
    np.testing.assert_allclose(scores, right_scores, atol=6e-5)
    assert "picture 15" in output and "http://host/0015" in output and f"of {ROWS} rows" in output


def test_row_is_left_out_of_its_own_list(world: World, capsys):
    assert world.search(f"--id={world.ids[15]}", "--k=7") == 0
    assert shown(capsys.readouterr().out)[0] == world.nearest(15, 7, without_itself=True)[0]


def test_list_is_no_longer_than_the_memory(world: World, capsys, monkeypatch):
    # An index of more rows than this gives lists as long as it has rows, and no longer ones.
    monkeypatch.setattr("index.store.reader._MOST_PADDED", 1)
    assert world.search(f"--id={world.ids[2]}", "--k=1000000000") == 0
    ids = shown(capsys.readouterr().out)[0]
    assert len(ids) == ROWS - 1 and world.ids[2] not in ids


def test_text_of_the_same_space(world: World, capsys):
    texts = f"{world.root}/words,numbers={world.root}/numbers"
    assert world.search("--text=4", "--k=5", encoders__value_text=texts) == 0
    ids, scores = shown(capsys.readouterr().out)
    assert ids == world.nearest(4, 5)[0]
    # Whatever the length of what an encoder gives, scores are cosines.
    assert scores[0] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("shape", "length"), [((6,), 7), ((1, 6), 7), ((6,), 1e-50), ((6,), 1e30)])
def test_a_vector_in_a_file(world: World, capsys, shape, length):
    # Of another length than the keys, which are of unit length.
    np.save(world.root / "vector.npy", length * world.keys[15].reshape(shape).astype(np.float64))
    assert world.search(f"--vector={world.root}/vector.npy", "--k=7") == 0
    ids, scores = shown(capsys.readouterr().out)
    right, right_scores = world.nearest(15, 7)
    assert ids == right
    np.testing.assert_allclose(scores, right_scores, atol=6e-5)


@pytest.mark.parametrize(
    ("vector", "sentence"),
    [
        (np.ones(5, np.float32), "is [5], the keys are [6]"),
        (np.ones((2, 6), np.float32), "is [2, 6], the keys are [6]"),
        (np.ones(6, np.int64), "must be an array of floating-point numbers"),
        (np.zeros(6, np.float32), "is zero or not finite"),
        (np.full(6, np.nan, np.float32), "is zero or not finite"),
        (np.ones(1 << 19, np.float32), "has more than 1,048,576 bytes"),
        (np.array([{}] * 6), "Object arrays cannot be loaded"),
    ],
)
def test_a_file_that_is_no_vector_of_the_keys(world: World, capsys, vector, sentence):
    np.save(world.root / "wrong.npy", vector, allow_pickle=True)
    assert world.search(f"--vector={world.root}/wrong.npy") == 2
    error = capsys.readouterr().err
    assert f"error: --vector={world.root}/wrong.npy: {sentence}" in error and error.count("\n") == 1


def test_text_of_a_space_of_its_own_is_refused(world: World, capsys):
    assert world.search("--text=4") == 2
    error = capsys.readouterr().err
    assert f"no text encoder shares the space of the key encoder {world.root}/image (space 'colours')" in error
    assert f"value_text has {world.root}/words (docs/encoders.md" in error


def test_text_of_another_width_is_refused(world: World, capsys):
    assert world.search("--text=4", encoders__value_text=f"{world.root}/narrow") == 2
    assert "gives 4 values, but the keys of its space 'colours' have 6" in capsys.readouterr().err


def test_another_key_encoder_is_refused(world: World, capsys):
    assert world.search(f"--image={world.root}/3.png", encoders__key=f"{world.root}/other") == 2
    assert "name the encoder that the memory was embedded with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "give one of --image=FILE, --text=TEXT, --id=ID, --vector=FILE and --batch=KIND"),
        (["--text=a", "--id=3"], "give one of --image=FILE, --text=TEXT, --id=ID, --vector=FILE and --batch=KIND"),
        (["--text=a", "--batch=id"], "give one of --image=FILE, --text=TEXT, --id=ID, --vector=FILE and --batch=KIND"),
        (["--batch=words"], "--batch=words: unknown; known are id, image, text, vector"),
        (["--batch=id", "--html=x.html"], "--html=x.html: is for one query"),
        (["--id=3", "--where=width >"], "--where: character 8: expected a value, the filter ends"),
        (["--id=3", "--where=size=3"], "--where: character 1: 'size' is no column of "),
        (["--id=3", "--where=label=1"], "has a value of 'label', so none can be compared; `label is null` finds them"),
        (["--id=3", "--k=0"], "--k=0: must be at least 1"),
        (["--id=3", "--k=ten"], "--k=ten: must be of type int"),
        (["--id=999"], "--id=999: "),
        (["--id=-5"], "--id=-5: must be a whole number, at least 0"),
        (["--id=-1"], "--id=-1: must be a whole number, at least 0"),
        (["--id=" + "9" * 5000], "9: must be a whole number, at least 0"),
        (["--id=9223372036854775807"], "has no such row; take an id that a search shows"),
        (["--id=9223372036854775808"], "has no such row; take an id that a search shows"),
        (["--image=nowhere.png"], "nowhere.png: no such file"),
        (["--image=config.py"], "is no JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, PPM image that can be read"),
        (["--vector=nowhere.npy"], "nowhere.npy: no such file"),
        (["--vector=config.py"], "--vector=config.py: "),
        (["--imagine=x"], "did you mean '--image'?"),
    ],
)
def test_wrong_flags(world: World, capsys, monkeypatch, flags, sentence):
    monkeypatch.chdir(world.root)
    assert world.search(*flags) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("error: ") and error.count("\n") == 1


def test_terminal_gets_no_control_characters(world: World, capsys):
    assert world.search(f"--image={world.root}/3.png", "--k=1") == 0
    output = capsys.readouterr().out
    assert '<script>alert("x")</script>  [31mred' in output and "\x1b" not in output


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_page_shows_what_is_near(world: World, tmp_path):
    path = tmp_path / "new" / "page.html"
    assert world.search(f"--image={world.root}/3.png", "--k=4", f"--html={path}") == 0
    page = path.read_text()
    asked, first, *rest = pictures(page)
    assert len(rest) == 3
    # A JPEG of a picture of noise is nearer to it than to another.
    same, other = (np.asarray(picture, float) for picture in (first, rest[0]))
    original = np.asarray(Image.open(world.root / "3.png"), float)
    assert np.abs(same - original).mean() < 60 < np.abs(other - original).mean()
    assert asked.size == first.size == (24, 20)
    assert "<script>" not in page and "&lt;script&gt;alert(" in page
    assert '<a href="http://host/0003">' in page
    assert str(world.ids[3]) in page


def test_picture_that_cannot_be_read_leaves_its_caption(world: World, tmp_path, capsys):
    aside = (world.root / "pairs/00000.tar").rename(world.root / "pairs/aside")
    try:
        assert world.search(f"--id={world.ids[15]}", f"--k={ROWS}", f"--html={tmp_path}/page.html") == 0
    finally:
        aside.rename(world.root / "pairs/00000.tar")
    page = (tmp_path / "page.html").read_text()
    assert len(pictures(page)) == 1 + ROWS // 2 - 1
    assert page.count('<span class="missing">picture') == ROWS // 2 - 1 and "00000.tar: no such file" in page


def test_what_is_no_web_address_is_no_link():
    tiles = [Tile(1, 0.5, "", "javascript:alert(1)"), Tile(2, 0.4, "", 'HTTPS://h/"onclick="x', missing="gone")]
    html = page.render("<b>", "", tiles)
    assert html.count("<a href=") == 1 and 'href="javascript' not in html
    assert '"onclick' not in html and "&lt;b&gt;" in html and "no caption" in html and "gone" in html


def test_only_shards_that_are_named_are_read(world: World, monkeypatch):
    take, seen = Embeddings.take, []

    def watched(self, shard, *args):
        seen.append(shard)
        return take(self, shard, *args)

    monkeypatch.setattr(Embeddings, "take", watched)
    found = rows.read(world.memory, world.ids[[20, 13]])
    assert seen == [1] and [row["caption"] for row in found] == ["picture 20", "picture 13"]


def test_memory_that_has_changed_is_refused(world: World, capsys, monkeypatch):
    init = Index.__init__

    def changed(self, *args):
        init(self, *args)
        self.memory_snapshot = "another"

    monkeypatch.setattr(Index, "__init__", changed)
    assert world.search("--id=0") == 2
    assert "has changed since" in capsys.readouterr().err


def test_values_of_flags():
    values = {"k": (10, "rows"), "image": ("", "file")}
    argv = ["--config=configs/demo.py"]
    assert options.parse(argv, "test", values=values)[1] == {"k": 10, "image": ""}
    assert options.parse([*argv, "--k=3", "--image=a b"], "test", values=values)[1] == {"k": 3, "image": "a b"}


def test_only_rows_that_a_filter_lets_pass_are_found(world: World, capsys):
    """Also not the row itself, which is asked for and would pass."""
    where = "--where=caption in ('picture 2', 'picture 15', \"picture 20\") or url = http://host/0021"
    assert world.search(f"--id={world.ids[15]}", "--k=9", where) == 0
    output = capsys.readouterr().out
    ids = shown(output)[0]
    assert ids == [id_ for id_ in world.nearest(15, ROWS)[0] if id_ in world.ids[[2, 20, 21]].tolist()]
    assert f"of 4 of {ROWS} rows, where caption in" in output


def test_queries_on_standard_input(world: World, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{world.ids[3]}\n\n  {world.ids[15]} \n"))
    assert world.search("--batch=id", "--k=3") == 0
    ids = shown(capsys.readouterr().out)[0]
    assert ids == world.nearest(3, 3, without_itself=True)[0] + world.nearest(15, 3, without_itself=True)[0]
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n"))
    assert world.search("--batch=id") == 2
    assert "error: --id=one: must be a whole number" in capsys.readouterr().err


def test_a_finder_opens_once_and_follows_what_is_published(tmp_path, monkeypatch, capsys):
    world, opened, loads = World(tmp_path), [], []
    open_, init = Index.open, loaded.ImageEncoder.__init__
    monkeypatch.setattr(Index, "open", lambda *args: opened.append(args) or open_(*args))
    monkeypatch.setattr(loaded.ImageEncoder, "__init__", lambda self, *args: loads.append(args) or init(self, *args))
    finder = Finder(options.parse(world.argv(), "test")[0])
    for where in ("", "caption!='picture 15'", "caption!='picture 15'"):
        found = finder.find("image", f"{world.root}/15.png", 4, where)
        right = [id_ for id_ in world.nearest(15, ROWS)[0] if not where or id_ != world.ids[15]]
        assert [tile.id for tile in found.tiles] == right[:4]
    assert len(opened) == 1 and len(loads) == 1
    (world.root / "gone.txt").write_text(f"{world.ids[15]}\n")
    assert reindex.main(world.argv(f"--remove={world.root}/gone.txt")) == 0
    found = finder.find("image", f"{world.root}/15.png", 4)
    assert [tile.id for tile in found.tiles] == [id_ for id_ in world.nearest(15, ROWS)[0] if id_ != world.ids[15]][:4]
    assert len(loads) == 1
