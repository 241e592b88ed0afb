"""A recogniser opened from a workdir: its predictions are those of the trainer, whatever way an image comes."""

import concurrent.futures
import io
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from index import reindex
from model.data import array_files
from model.recognition import trained
from model.recognizer import Recognizer
from pipelines import schemas, storage
from pipelines.errors import UserError
from tests import slow
from tests.model.recognition.line import COLORS, HEADS, ROWS, Line, picture


@pytest.fixture(scope="module")
def opened(line):
    with Recognizer.open(str(line.workdir)) as recognizer:
        yield recognizer


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", slow.after(1, [0, 1]))
def test_has_the_bits_of_the_trainers_predictions(line, head, seed):
    path = line.runs / head / f"seed-{seed}/predictions.parquet"
    names = ["top_classes", "probabilities"] + (["attention"] if head != "linear" else [])
    wanted = schemas.read(str(path), names)
    with Recognizer.open(str(line.workdir), head=head, seeds=seed) as recognizer:
        found = recognizer.predict(line.photographs(), top=3)
        # The first alone decides how the second is encoded.
        alone = [recognizer.predict([path], top=3)[0] for path in line.photographs()[7:9]]
    numbers = [[recognizer.classes.index(name) for name in of.classes] for of in found]
    np.testing.assert_array_equal(numbers, schemas.to_matrix(wanted["top_classes"]))
    probabilities = np.array([of.probabilities for of in found], np.float32)
    np.testing.assert_array_equal(probabilities, schemas.to_matrix(wanted["probabilities"]))
    assert alone == found[7:9]
    if head == "linear":
        assert not found[0].neighbors
    else:
        weights = np.array([[n.weight for n in of.neighbors] for of in found], np.float32)
        np.testing.assert_array_equal(weights, -np.sort(-schemas.to_matrix(wanted["attention"]), axis=1))


def test_averages_the_probabilities_of_all_seeds(line):
    of_each = []
    for seeds in (0, 1, "all"):
        with Recognizer.open(str(line.workdir), head="mam", seeds=seeds) as recognizer:
            of_each.append([dict(zip(p.classes, p.probabilities, strict=True)) for p in _predict(recognizer, line)])
    for first, second, both in zip(*of_each, strict=True):
        for name in COLORS:
            assert both[name] == pytest.approx((first[name] + second[name]) / 2, abs=1e-6)


def _predict(recognizer: Recognizer, line: Line) -> list:
    return recognizer.predict(line.photographs(), top=3)


def test_takes_paths_bytes_pictures_and_arrays(opened, line):
    path = line.photographs()[0]
    data = pathlib.Path(path).read_bytes()
    image = Image.open(io.BytesIO(data))
    forms = [path, pathlib.Path(path), data, image, np.asarray(image.convert("RGB"))]
    found = opened.predict(forms)
    assert all(of == found[0] for of in found) and opened.predict([]) == []
    for one in (*forms, iter(forms[:1])):
        assert opened.predict(one) == found[:1]


@pytest.mark.parametrize("top", [0, -1, 2.5, "3"])
def test_refuses_a_number_of_classes_or_rows_that_is_none(opened, line, top):
    with pytest.raises(UserError, match=f"top={top!r}: must be a whole number from 1"):
        opened.predict(line.photographs()[:1], top=top)
    with pytest.raises(UserError, match=f"k={top!r}: must be a whole number from 1"):
        opened.search(image=line.photographs()[0], k=top)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no/such.png", "no/such.png: no such file"),
        (b"GIF89a, but no image", "image 2: "),
        (b"", "image 2: has 0 bytes"),
        (np.zeros((4, 4), np.uint8), r"image 2: is an array of uint8 \[4, 4\]"),
        (3.5, "image 2: is of type float"),
        (Image.fromarray(np.zeros((4, 4), np.int32)), "image 2: is of Pillow's mode I, whose black and white"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "image 2: is of Pillow's mode F, whose black and white"),
    ],
)
def test_names_an_image_that_it_cannot_read(opened, line, given, said):
    with pytest.raises(UserError, match=said):
        opened.predict([line.photographs()[0], given])


def test_refuses_heads_that_are_not_there_and_work_after_its_end(line):
    with pytest.raises(UserError, match="'mamm'.*did you mean 'mam'"):
        Recognizer.open(str(line.workdir), head="mamm")
    with pytest.raises(UserError, match="seed 7.*known are best, all, 0, 1"):
        Recognizer.open(str(line.workdir), seeds=7)
    with pytest.raises(UserError, match="holds no trained head"):
        Recognizer.open(str(line.root))
    with Recognizer.open(str(line.workdir)) as recognizer:
        pass
    with pytest.raises(UserError, match="closed"):
        recognizer.predict(line.photographs())


def test_threads_get_the_same_answers(opened, line):
    photographs = line.photographs()
    wanted = opened.predict(photographs)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: opened.predict([path])[0], photographs * 3))
    assert found == wanted * 3


def test_searches_by_an_image(opened, line):
    near = opened.search(image=picture("red", 2), k=3)
    assert near[0].score == pytest.approx(1, abs=1e-5) and near[0].url == "http://host/0002"
    assert [n.caption for n in near] == ["a red dog"] * 3
    assert [n.url for n in opened.search(image=picture("red", 2), k=3, where="url=http://host/0005")] == [
        "http://host/0005"
    ]
    for where in ("nothing=1", "label=1"):
        with pytest.raises(UserError, match="where: "):
            opened.search(image=picture("red", 2), where=where)
    with pytest.raises(UserError, match="no text encoder shares the space"):
        opened.search(text="a red dog")
    with pytest.raises(UserError, match="give a text or an image"):
        opened.search()


def test_follows_a_takedown_and_says_beforehand_what_it_will_change(line, tmp_path):
    """The lists hold the whole memory, so a prediction without a row is the one after that row's takedown."""
    shutil.copytree(line.workdir, tmp_path / "out", symlinks=True)
    photographs = line.photographs()[:4]
    argv = [arg for arg in line.argv("--runner=FnApiRunner") if not arg.startswith("--config.workdir")]
    argv.append(f"--config.workdir={tmp_path / 'out'}")
    with (
        Recognizer.open(str(tmp_path / "out"), head="mam", seeds=0, follow=True) as follows,
        Recognizer.open(str(tmp_path / "out"), head="mam", seeds=0) as stays,
    ):
        before = follows.predict(photographs, top=3, influence=True)
        victim = before[0].neighbors[0]
        (tmp_path / "remove.txt").write_text(f"{victim.url}\n")
        assert reindex.main([*argv, f"--remove={tmp_path / 'remove.txt'}"]) == 0
        after = follows.predict(photographs, top=3)
        assert stays.predict(photographs, top=3, influence=True) == before
    for old, new in zip(before, after, strict=True):
        assert len(old.neighbors) == ROWS and len(new.neighbors) == ROWS - 1
        assert victim.id not in [n.id for n in new.neighbors]
        influence = next(n.influence for n in old.neighbors if n.id == victim.id)
        now = dict(zip(new.classes, new.probabilities, strict=True))[old.classes[0]]
        assert old.probabilities[0] - now == pytest.approx(influence, abs=1e-6)


def test_takes_classes_that_were_not_trained(line):
    with Recognizer.open(str(line.workdir), head="mam_names") as recognizer:
        more = recognizer.with_classes(["cat", "a blue dog"])
        assert more.classes == (*COLORS, "cat", "a blue dog") and more.heads == ("mam_names",)
        (found,) = more.predict([line.photographs()[0]], top=9)
        assert set(found.classes) == set(more.classes) and sum(found.probabilities) == pytest.approx(1, abs=1e-5)
        # The captions of blue pictures are that name, and none says cat.
        assert found.classes.index("a blue dog") < found.classes.index("cat")
        assert recognizer.with_classes([]).predict(line.photographs()) == recognizer.predict(line.photographs())
        for names, said in ((["red"], "'red': is known already"), ([" "], "is empty"), (["x", "x"], "known already")):
            with pytest.raises(UserError, match=said):
                recognizer.with_classes(names)
    with Recognizer.open(str(line.workdir), head="mam") as recognizer, pytest.raises(UserError, match="mam_names"):
        recognizer.with_classes(["cat"])


def test_a_head_of_rows_that_does_not_say_which_is_refused(line, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(line.runs, runs)
    facts = storage.read_json(str(runs / "knn_vote/recognition.json"))
    path = str(runs / "knn_vote/prepared.safetensors")
    arrays = array_files.read(path, facts["prepared_sha256"], "")
    assert len(arrays.pop("memory_ids")) == ROWS
    changed = {**facts, "prepared_sha256": array_files.write(path, arrays, {})}
    storage.write_json(str(runs / "knn_vote/recognition.json"), changed)
    with pytest.raises(UserError, match="which rows of the memory the head knows; remove it and run web-memory train"):
        trained.load(str(runs), "knn_vote")


_READ = (
    *("runs/*/mam/chosen.json", "runs/*/mam/recognition.json", "runs/*/mam/prepared.safetensors"),
    *("runs/*/mam/seed-*/result.json", "runs/*/mam/seed-*/parameters.safetensors"),
    *("index/manifest.json", "index/builds/*/shard-*/**/*", "memory/*.parquet", "memory/complete.json"),
)


@pytest.fixture(scope="module")
def right(line) -> list:
    with Recognizer.open(str(line.workdir), head="mam", seeds="all") as recognizer:
        return recognizer.predict(line.photographs()[:2])


@pytest.mark.parametrize("pattern", _READ)
def test_damaged_files_are_refused_or_do_no_harm(line, right, tmp_path, pattern):
    shutil.copytree(line.workdir, tmp_path / "out")
    wanted = line.photographs()[:2]
    files = sorted(path for path in (tmp_path / "out").glob(pattern) if path.is_file())
    assert files
    for number, path in enumerate(files):
        data = path.read_bytes()
        place = np.random.default_rng(number).integers(len(data))
        for damaged in (
            data[: len(data) // 2],
            b"",
            b"[]",
            bytes([*data[:place], data[place] ^ 8, *data[place + 1 :]]),
        ):
            path.write_bytes(damaged)
            try:
                with Recognizer.open(str(tmp_path / "out"), head="mam", seeds="all") as recognizer:
                    assert recognizer.predict(wanted) == right, path
            except UserError:
                continue
        path.write_bytes(data)
    with Recognizer.open(str(tmp_path / "out"), head="mam", seeds="all") as recognizer:
        assert recognizer.predict(wanted) == right


def test_heads_that_read_lists_by_name_do_not_predict(line, tmp_path):
    shutil.copytree(line.workdir, tmp_path / "out", symlinks=True)
    for head in ("mam", "linear"):
        (path,) = (tmp_path / "out").glob(f"runs/*/{head}/recognition.json")
        facts = schemas.read_json(str(path), {"lists": dict}, "")
        assert facts["lists"]["by"] == "key"
        storage.write_json(str(path), {**facts, "lists": {**facts["lists"], "by": "name"}})
    with pytest.raises(UserError, match="neighbors.by=name, which are not looked up for new photographs; train on"):
        Recognizer.open(str(tmp_path / "out"), head="mam")
    with Recognizer.open(str(tmp_path / "out"), head="linear") as recognizer:
        assert recognizer.predict(line.photographs()[:1])
