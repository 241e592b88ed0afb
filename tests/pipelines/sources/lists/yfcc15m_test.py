"""The subset of YFCC100M, joined with its metadata and its zips."""

import bz2
import re
import zipfile

import numpy as np
import pytest

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources import Sample
from pipelines.sources.lists import yfcc15m
from tests.pipelines.sources.listed import image, plan, read

_SOURCE = Source(format="yfcc15m", path="yfcc100m_subset_data.tsv", image_root="images", metadata="yfcc100m_dataset")


def _line(index, photo, title="", description=""):
    columns = [str(index), str(photo), "hash", "39019111@N00", "gu%C3%BCck", "2012-02-16 09:56:37.0", "1331840483"]
    columns += ["Canon+PowerShot", title, description, "canon,hs", "", "-81.8", "24.5", "12", f"http://page/{photo}"]
    columns += [f"http://static/{photo}.jpg", "Attribution License", "http://creativecommons.org/licenses/by/2.0/"]
    return "\t".join([*columns, "7205", "8", "secret", "original", "jpg", "0"]) + "\n"


_SUBSET = "12345678\t6185218911\thash\n0\t17\thash\n3004\t18\thash\n"
_DATASET = [
    _line(0, 17, "IMG+0520", "My+%3Cb%3Evacation%3C%2Fb%3E%2C+1%2B1"),
    _line(1, 99, "not wanted"),
    _line(3004, 18, "", "see+%3Ca+href%3D%22http%3A%2F%2Fx.y%22%3Ehere%3C%2Fa%3E+or+www.x.y"),
    _line(12345678, 6185218911, "Caf%C3%A9"),
    "no line that is read\n",
]


def _write(root, subset=_SUBSET, dataset=_DATASET):
    (root / "yfcc100m_subset_data.tsv").write_text(subset)
    (root / "yfcc100m_dataset").write_text("".join(dataset))


def test_photos_are_found_by_line_number_in_title_description_and_zip(tmp_path):
    _write(tmp_path)
    places = {"00/000.zip": ["000.jpg"], "00/003.zip": ["004.jpg"], "12/345.zip": ["678.jpg"]}
    for seed, (name, members) in enumerate(places.items()):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for member in members:
                archive.writestr(member, image(seed))
    found = read(tmp_path, _SOURCE)
    assert [(item.member, item.image, item.caption) for item in found] == [
        ("00/000.zip/000.jpg", image(0), "IMG 0520 My vacation, 1+1"),
        ("00/003.zip/004.jpg", image(1), "see here or"),
        ("12/345.zip/678.jpg", image(2), "Café"),
    ]
    assert found[0] == Sample(
        "00/000.zip/000.jpg",
        image(0),
        "IMG 0520 My vacation, 1+1",
        url="http://static/17.jpg",
        metadata={
            "photo_id": 17,
            "user": "guück",
            "date_taken": "2012-02-16 09:56:37.0",
            "page": "http://page/17",
            "license": "Attribution License",
            "license_url": "http://creativecommons.org/licenses/by/2.0/",
        },
    )


def test_compressed_parts(tmp_path):
    _write(tmp_path)
    for number in range(2):
        part = "".join(_DATASET[2 * number : 2 * number + 2])
        (tmp_path / f"yfcc100m_dataset-{number}.bz2").write_bytes(bz2.compress(part.encode()))
    source = Source(**{**vars(_SOURCE), "metadata": "yfcc100m_dataset-{0..1}.bz2"})
    assert [item.member for item in read(tmp_path, source)] == [
        "00/000.zip/000.jpg",
        "00/003.zip/004.jpg",
        "12/345.zip/678.jpg",
    ]


def test_the_join_is_that_of_dicts(tmp_path):
    random = np.random.default_rng(0)
    lines = np.sort(random.choice(10**8, 300, replace=False))
    photos = random.integers(1, 10**10, 300)
    chosen = random.permutation(300)[:100]
    subset = "".join(f"{lines[i]}\t{photos[i]}\th\n" for i in chosen)
    _write(tmp_path, subset, [_line(line, photo, str(line)) for line, photo in zip(lines, photos, strict=True)])
    source = Source(**{**vars(_SOURCE), **{k: f"{tmp_path}/{getattr(_SOURCE, k)}" for k in ("path", "metadata")}})
    found = {row.fields["caption"]: row.fields["photo_id"] for row in yfcc15m.rows(source)}
    assert found == {str(lines[i]): photos[i] for i in chosen}


@pytest.mark.parametrize(
    ("subset", "dataset", "sentence"),
    [
        (
            _SUBSET.replace("\t18", "\t19"),
            _DATASET,
            "line 3: is of photo 18, the subset has photo 19 for line number 3004",
        ),
        (_SUBSET, _DATASET[1:], "dataset, line 1: has line number 1, but 0 is missing before it"),
        (_SUBSET, _DATASET[:3], "yfcc100m_dataset: ends before line number 12345678, which"),
        (_SUBSET, [_DATASET[1], _DATASET[0]], "but 0 is missing before it"),
        (_SUBSET, [_DATASET[0], _DATASET[1], _DATASET[1]], "line 3: has line number 1 after 1; they must grow"),
        (_SUBSET, ["x\ty\n"], "dataset, line 1: must begin with a number below 100 million, found b'x'"),
        (_SUBSET, ["0\t17\th\n"], "dataset, line 1: has 3 columns, yfcc100m_dataset has 25"),
        (_SUBSET + "0\t5\th\n", _DATASET, "names line number 0 more than once"),
        (_SUBSET + "7\t5\n", _DATASET, "data.tsv, line 4: must be line number, photo id and hash, found b'7\\t5\\n'"),
        ("123456789\t5\th\n", _DATASET, "data.tsv, line 1: must begin with a number below 100 million"),
        ("1\t-5\th\n", _DATASET, "data.tsv, line 1: must have a photo id in its second column, found b'-5'"),
        ("1\t9999999999999999999\th\n", _DATASET, "must have a photo id in its second column"),
        ("", _DATASET, "is empty, it names no image"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, subset, dataset, sentence):
    _write(tmp_path, subset, dataset)
    with pytest.raises(UserError, match=re.escape(sentence)):
        plan(tmp_path, _SOURCE)


def test_metadata_must_be_named(tmp_path):
    _write(tmp_path)
    with pytest.raises(UserError, match="yfcc15m needs the texts of yfcc100m_dataset"):
        plan(tmp_path, Source(**{**vars(_SOURCE), "metadata": ""}))
