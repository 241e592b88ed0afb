"""The gallery of a trained line of tiny encoders: influence, pictures and texts of the rows that were retrieved."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from configs.base import Config
from model.gallery import writer
from model.recognizer import Recognizer
from model.reports import runs
from model.reports.pages.site import Site
from model.training import run_files
from pipelines import options
from pipelines.manifest import Neighbors
from pipelines.sources.pictures import Pictures
from tests.model.recognition.line import COLORS, ROWS


@pytest.fixture(scope="module")
def config(line) -> Config:
    return options.parse(line.argv(), "")[0]


def _write(config, folder, heads=None, **sources):
    train = dataclasses.replace(config.train, heads=heads or config.train.heads)
    places, lists = config.places, Neighbors.open(config.places.neighbors)
    frozen = run_files.identity(places, config.seed, config.train, lists.fingerprint)
    found = runs.load(frozen, train, config.finetune, lists)
    given = {"test": config.test_set, "memory": config.memory} | sources
    pictures = {name: Pictures(source, config.data, config.embed) for name, source in given.items()}
    shares = []
    result = writer.write(
        Site(str(folder), "A report", ["index", "gallery"]),
        places,
        found,
        config.seed,
        pictures,
        lambda share, rows: shares.append(share),
    )
    html = (folder / "gallery.html").read_text()
    assert shares == sorted(shares) and max(shares) == pytest.approx(1)
    return result, json.loads(re.search('id="gallery">(.*?)</script>', html, re.DOTALL)[1]), html


def test_neighbours_have_the_weight_and_influence_of_the_recogniser(line, config, tmp_path):
    result, payload, _ = _write(config, tmp_path)
    assert (payload["head"], payload["baseline"], result.images) == ("mam", "linear", 5 * len(COLORS))
    with Recognizer.open(str(line.workdir), head="mam", seeds=0) as recognizer:
        found = recognizer.predict(line.photographs(), influence=True)
    folder = tmp_path / "pictures"
    for image, right in zip(payload["images"], found, strict=True):
        assert payload["classes"][image["predicted"]] == right.classes[0]
        assert image["probability"] == pytest.approx(right.probabilities[0], abs=1e-4)
        assert len(image["near"]) == len(right.neighbors) == ROWS
        for near, neighbor in zip(image["near"], right.neighbors, strict=True):
            row, rank, cosine, weight, influence, kept, relevant = near
            caption, file = payload["memory"][row]
            shard, place = divmod(neighbor.id, 1 << 40)
            assert file == f"memory-{shard}-{place}.jpg" and (folder / file).exists()
            assert caption == neighbor.caption and 1 <= rank <= ROWS
            assert weight == pytest.approx(neighbor.weight, rel=1e-2)
            assert influence == pytest.approx(neighbor.influence, rel=1e-2, abs=1e-9)
            assert not kept or weight > 0
            assert relevant == (payload["classes"][image["label"]] in caption)
        assert image["keeps"] == sum(near[5] for near in image["near"])
        cosines = [near[2] for near in sorted(image["near"], key=lambda near: near[1])]
        assert cosines == sorted(cosines, reverse=True)


def test_pictures_are_those_of_their_rows_each_written_once(line, config, tmp_path):
    result, payload, _ = _write(config, tmp_path)
    files = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert len(files) == 5 * len(COLORS) + ROWS and (result.pictures.unreadable, result.pictures.on_the_web) == (0, 0)
    colours = np.array(list(COLORS.values()))

    def colour(file):
        mean = np.asarray(Image.open(tmp_path / "pictures" / file)).mean((0, 1))
        return list(COLORS)[int(np.argmin(((colours - mean) ** 2).sum(1)))]

    for image in payload["images"]:
        assert colour(image["picture"]) == payload["classes"][image["label"]] == image["name"].split("/")[0]
    for caption, file in payload["memory"]:
        assert caption == f"a {colour(file)} dog"
    sizes = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert result.size_bytes == sizes


def test_a_head_without_memory_shows_the_nearest(line, config, tmp_path):
    _, payload, html = _write(config, tmp_path, heads=("linear",))
    assert payload["head"] == "linear" and payload["baseline"] is None
    near = payload["images"][0]["near"]
    assert [one[1] for one in near] == list(range(1, ROWS + 1)) and {tuple(one[3:6]) for one in near} == {(None,) * 3}
    assert "linear reads no memory" in html and "fixed by memory" not in html


def test_without_images_and_with_lost_files(line, config, tmp_path):
    vectors = dataclasses.replace(config.memory, format="vectors")
    result, payload, html = _write(config, tmp_path / "a", memory=vectors)
    assert {file for _, file in payload["memory"]} == {None} and payload["images"][0]["picture"]
    assert "The memory was embedded from vectors." in html and result.pictures.unreadable == 0
    result, payload, html = _write(config, tmp_path / "b", test=vectors, memory=vectors)
    assert not (tmp_path / "b/pictures").exists() and "embedded from vectors" in html
    tar = line.root / "pairs/00001.tar"
    tar.rename(tmp_path / "kept.tar")
    try:
        result, payload, html = _write(config, tmp_path / "c")
    finally:
        (tmp_path / "kept.tar").rename(tar)
    assert result.pictures.unreadable == ROWS // 2 == sum(file is None for _, file in payload["memory"])
    assert f"{ROWS // 2} could not be read again ({tar}: no such file" in html


def test_runs_of_an_earlier_version_have_no_influence(line, config, tmp_path):
    line.runs.joinpath("mam/recognition.json").rename(tmp_path / "kept.json")
    try:
        _, payload, html = _write(config, tmp_path / "a")
    finally:
        (tmp_path / "kept.json").rename(line.runs / "mam/recognition.json")
    assert payload["images"][0]["near"][0][4] is None and payload["images"][0]["near"][0][3] > 0
    assert "Not known: head &#39;mam&#39;: is not among the trained ones" in html
