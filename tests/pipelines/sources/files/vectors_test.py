"""Embeddings in the layouts in which LAION and clip-retrieval publish them."""

import collections
import dataclasses
import io
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import Filtered, Sample
from pipelines.sources.files import vectors

_EMBED = Embed()
_RNG = np.random.default_rng(0)
_IMAGES = _RNG.standard_normal((600, 4)).astype(np.float16)
_TEXTS = _RNG.standard_normal((600, 3)).astype(np.float16)


def _table(rows=600):
    return pa.table(
        {
            "image_path": [f"{i:09d}" for i in range(rows)],
            "caption": [f"caption {i}" for i in range(rows)],
            "NSFW": ["UNLIKELY"] * rows,
            "similarity": [0.25] * rows,
            "url": [f"http://x/{i}" for i in range(rows)],
            "key": [f"{i:09d}" for i in range(rows)],
            "status": ["success"] * rows,
        }
    )


_TABLE = _table()


def _write(root, number="0000", flat=False, images=_IMAGES, texts=_TEXTS, table=_TABLE, metadata="metadata"):
    for kind, array in (("img_emb", images), ("text_emb", texts)):
        folder = root if flat else root / kind
        folder.mkdir(exist_ok=True)
        if array is not None:
            np.save(folder / f"{kind}_{number}.npy", array)
    if table is not None:
        (root / metadata).mkdir(exist_ok=True)
        pq.write_table(table, (root if flat else root / metadata) / f"metadata_{number}.parquet")


def _plan(root, path="img_emb/*.npy", **options):
    return sources.plan(Source("vectors", path, **options), str(root), _EMBED, "")


def _equal(sample, expected):
    same = all(np.array_equal(sample.vectors[name], expected.vectors[name]) for name in expected.vectors)
    return (
        same
        and list(sample.vectors) == list(expected.vectors)
        and vars(sample) | {"vectors": 0} == vars(expected) | {"vectors": 0}
    )


@pytest.mark.parametrize("flat", [False, True])
def test_rows_belong_together(tmp_path, flat):
    _write(tmp_path, "0", flat)
    (shard,) = _plan(tmp_path, "img_emb_*.npy" if flat else "img_emb/*.npy")
    assert shard.name == "img_emb_0" and len(shard.siblings) == 2
    found = list(sources.read(shard, _EMBED))
    assert len(found) == 600
    for row in (0, 255, 256, 599):
        metadata = {"image_path": f"{row:09d}", "NSFW": "UNLIKELY", "similarity": 0.25}
        columns = {"key": _IMAGES[row], "value_text": _TEXTS[row]}
        expected = Sample(str(row), b"", f"caption {row}", None, f"http://x/{row}", metadata, columns)
        assert _equal(found[row], expected)
    assert found[0].vectors["key"].dtype == np.float16


def test_the_order_of_files_and_the_folder_of_metadata_can_be_chosen(tmp_path):
    _write(tmp_path, "0000", texts=None, metadata="laion2B-en-metadata")
    _write(tmp_path, "0001", images=_IMAGES + 1, texts=None, metadata="laion2B-en-metadata")
    shards = _plan(tmp_path, metadata="laion2B-en-metadata")
    assert [shard.name for shard in shards] == ["img_emb_0000", "img_emb_0001"]
    first = next(iter(sources.read(shards[1], _EMBED)))
    assert np.array_equal(first.vectors["key"], _IMAGES[0] + 1) and list(first.vectors) == ["key"]
    assert first.caption == "caption 0"


def test_images_alone_are_enough(tmp_path):
    _write(tmp_path, texts=None, table=None)
    first = next(iter(sources.read(_plan(tmp_path)[0], _EMBED)))
    assert _equal(first, Sample("0", b"", vectors={"key": _IMAGES[0]}))


def test_columns_and_widths_can_be_chosen(tmp_path):
    _write(tmp_path, images=_IMAGES.astype(np.float32))
    source = Source("vectors", "img_emb/*.npy", fields=("key=text_emb", "value_image=img_emb", "caption=image_path"))
    first = next(iter(sources.read(sources.plan(source, str(tmp_path), _EMBED, "")[0], _EMBED)))
    assert np.array_equal(first.vectors["key"], _TEXTS[0]) and np.array_equal(first.vectors["value_text"], _TEXTS[0])
    assert first.vectors["value_image"].dtype == np.float32 and first.caption == "000000000"
    assert vectors.dims(sources.resolve(source, str(tmp_path))) == {"key": 3, "value_image": 4, "value_text": 3}
    plain = Source("vectors", "img_emb/*.npy")
    assert vectors.dims(sources.resolve(plain, str(tmp_path))) == {"key": 4, "value_text": 3}


def test_what_fields_name_must_be_there(tmp_path):
    _write(tmp_path, texts=None, table=None)
    with pytest.raises(UserError, match="there is no text_emb_0000.npy for value_text=text_emb"):
        list(sources.read(_plan(tmp_path, fields=("value_text=text_emb",))[0], _EMBED))
    with pytest.raises(UserError, match="there is no metadata_0000.parquet with the fields named"):
        list(sources.read(_plan(tmp_path, fields=("caption=text",))[0], _EMBED))
    _write(tmp_path, texts=None)
    with pytest.raises(UserError, match="metadata_0000.parquet: has no column .*'captoin'.*did you mean 'caption'"):
        list(sources.read(_plan(tmp_path, fields=("caption=captoin",))[0], _EMBED))
    with pytest.raises(UserError, match="matches no file"):
        vectors.dims(Source("vectors", f"{tmp_path}/*.npz"))


def test_there_is_no_image_to_show(tmp_path):
    with pytest.raises(UserError, match="contains vectors, so there are no images"):
        sources.read_image(Source("vectors"), "x.npy", "0", _EMBED)


def test_rows_that_do_not_belong_together_are_not_read(tmp_path):
    _write(tmp_path, table=_table(599))
    (found,) = sources.read(_plan(tmp_path)[0], _EMBED)
    assert found.error_type == "RowsDisagree"
    assert "img_emb_0000.npy has 600 rows" in found.message and "metadata_0000.parquet has 599 rows" in found.message


@pytest.mark.parametrize("kind", ["img_emb", "text_emb"])
def test_a_cut_array_ends_with_the_rows_that_are_missing(tmp_path, kind):
    _write(tmp_path)
    path = tmp_path / kind / f"{kind}_0000.npy"
    width = 8 if kind == "img_emb" else 6
    path.write_bytes(path.read_bytes()[: 128 + 300 * width + 3])
    *samples, last = sources.read(_plan(tmp_path)[0], _EMBED)
    assert [item.member for item in samples] == [str(i) for i in range(300)]
    assert (last.member, last.error_type) == ("300", "TruncatedVectors")
    assert last.message == "rows 300 to 599 are missing: the file ends early"


def test_bad_rows_are_rejects_and_failed_downloads_filtered(tmp_path):
    images = _IMAGES[:4].copy()
    images[1, 2], images[2, 0] = np.nan, np.inf
    table = _table(4).set_column(6, "status", pa.array(["success", "success", "success", "failed_to_download"]))
    _write(tmp_path, images=images, texts=None, table=table)
    found = list(sources.read(_plan(tmp_path)[0], _EMBED))
    assert [getattr(item, "error_type", "") for item in found] == ["", "BadVector", "BadVector", ""]
    assert found[3] == Filtered("3", "status", "failed_to_download: None")


def test_vectors_that_point_nowhere_are_rejects_in_every_column(tmp_path):
    """A float16 of 1e-6 is what rounding left; as a float32 it is a number like any other."""
    images, texts = _IMAGES[:4].astype(np.float32), _TEXTS[:4].copy()
    images[1], images[2], texts[3] = 0, 1e-6, 1e-6
    _write(tmp_path, images=images, texts=texts, table=None)
    found = list(sources.read(_plan(tmp_path)[0], _EMBED))
    assert [getattr(item, "error_type", "") for item in found] == ["", "BadVector", "", "BadVector"]
    assert found[3].message == "is zero, or so short that its direction is lost"


def _saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


_GOOD = _saved(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing at all, " * 20,
        _GOOD[:9],
        _GOOD[:60],
        _saved(np.zeros((2, 3), np.int64)),
        _saved(np.zeros((2, 3), ">f4")),
        _saved(np.zeros((2, 3, 1), np.float32)),
        _saved(np.zeros(3, np.float32)),
        _saved(np.asfortranarray(np.zeros((2, 3), np.float32))),
        _saved(np.array([{}, {}]), allow_pickle=True),
        _saved(np.zeros((2, 0), np.float32)),
        _saved(np.zeros((0, 1 << 17), np.float32)),
        b"\x93NUMPY\2\0\xff\xff\xff\xff" + _GOOD[10:],
        b"\x93NUMPY\1\0\x76\0" + b"(" * 118,
        _GOOD.replace(b"(2, 3)", b"(-2,3)"),
        _GOOD.replace(b"'shape'", b"'shope'"),
        _GOOD.replace(b"<f4", b"|O8"),
    ],
)
def test_what_is_no_array_of_rows_is_one_reject(tmp_path, data):
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "img_emb" / "img_emb_0.npy").write_bytes(data)
    (shard,) = _plan(tmp_path)
    (found,) = sources.read(shard, _EMBED)
    assert found.error_type == "BrokenVectors"
    with pytest.raises(UserError, match="img_emb_0.npy: "):
        vectors.dims(shard.source)


# -- Arrays with labels, and .npz --------------------------------------------------------------

_LABELS = np.arange(600) % 7


def _samples(root, path, **options):
    return [item for shard in _plan(root, path, **options) for item in sources.read(shard, _EMBED)]


@pytest.mark.parametrize(("features", "labels"), [("X", "y"), ("X_train", "y_train"), ("features", "labels")])
def test_vectors_with_labels_and_nothing_else(tmp_path, features, labels):
    np.save(tmp_path / f"{features}.npy", _IMAGES.astype(np.float64))
    np.save(tmp_path / f"{labels}.npy", _LABELS)
    found = _samples(tmp_path, f"{features}.npy")
    assert [item.label for item in found] == _LABELS.tolist()
    assert found[599].vectors["key"].dtype == np.float32 and np.array_equal(found[599].vectors["key"], _IMAGES[599])
    both = _samples(tmp_path, f"{features}.npy", fields=("value_image=key",))[7].vectors
    assert list(both) == ["key", "value_image"] and np.array_equal(both["value_image"], both["key"])
    np.save(tmp_path / "other.npy", np.array([f"class {label}" for label in _LABELS]))
    named = Source("vectors", f"{features}.npy", metadata="other.npy")
    assert sources.find_names(named, str(tmp_path), _EMBED).names == tuple(f"class {label}" for label in range(7))


def test_labels_that_are_not_one_for_each_row(tmp_path):
    np.save(tmp_path / "X.npy", _IMAGES)
    np.save(tmp_path / "y.npy", np.eye(600, dtype=int))
    (found,) = _samples(tmp_path, "X.npy")
    assert found.error_type == "BrokenVectors" and "must be one number or text for each row" in found.message
    np.save(tmp_path / "y.npy", np.array([{}, 1], object))
    (found,) = _samples(tmp_path, "X.npy")
    assert "holds Python objects, which are never unpickled" in found.message
    np.save(tmp_path / "y.npy", _LABELS[:599])
    (found,) = _samples(tmp_path, "X.npy")
    assert found.error_type == "RowsDisagree" and "y.npy has 599 rows" in found.message
    np.save(tmp_path / "labels.npy", _LABELS)
    with pytest.raises(
        UserError, match="X.npy: y.npy and labels.npy may each be the label; say which by metadata=FILE"
    ):
        _samples(tmp_path, "X.npy")
    assert len(_samples(tmp_path, "X.npy", metadata=str(tmp_path / "labels.npy"))) == 600


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_one_file(tmp_path, save):
    """The last two arrays belong to no column; they are counted."""
    save(tmp_path / "a.npz", X=_IMAGES, y=_LABELS, ids=np.arange(600), more=_TEXTS)
    (shard,) = _plan(tmp_path, "a.npz")
    others = collections.Counter()
    found = list(sources.read(dataclasses.replace(shard, others=others), _EMBED))
    assert [item.label for item in found] == _LABELS.tolist() and list(found[0].vectors) == ["key"]
    assert np.array_equal(found[300].vectors["key"], _IMAGES[300]) and others == {".npy": 2}
    chosen = Source("vectors", "a.npz", fields=("key=more", "value_image=X", "label=ids"))
    assert vectors.dims(sources.resolve(chosen, str(tmp_path))) == {"key": 3, "value_image": 4}
    assert _samples(tmp_path, "a.npz", fields=chosen.fields)[599].label == 599
    same = _samples(tmp_path, "a.npz", fields=("value_image=key",))[0].vectors
    assert np.array_equal(same["value_image"], same["key"])
    with pytest.raises(UserError, match="has no array 'keys' .key=...; its arrays are X, y, ids, more"):
        _samples(tmp_path, "a.npz", fields=("key=keys",))


def test_features_of_common_pool(tmp_path):
    """DataComp has the metadata of CommonPool in `X.parquet` and its features in `X.npz`, row by row."""
    columns = {"uid": [f"{row:032x}" for row in range(600)], "url": [f"http://x/{row}" for row in range(600)]}
    columns |= {"text": [f"caption {row}" for row in range(600)], "original_width": [640] * 600}
    columns |= {"clip_b32_similarity_score": [0.25] * 600, "face_bboxes": [[[0.5, 0.5, 1.0, 1.0]]] * 600}
    columns |= {"sha256": [f"{row:064x}" for row in range(600)]}
    pq.write_table(pa.table(columns), tmp_path / "00ab.parquet")
    np.savez(tmp_path / "00ab.npz", b32_img=_IMAGES, b32_txt=_TEXTS, l14_img=_IMAGES + 1, l14_txt=_TEXTS + 1)
    with pytest.raises(UserError, match="b32_img and l14_img may each be the key; say which by .*fields=key=b32_img"):
        _samples(tmp_path, "00ab.npz")
    found = _samples(tmp_path, str(tmp_path), fields=("key=l14_img",))
    expected = {"uid": columns["uid"][5], "original_width": 640, "clip_b32_similarity_score": 0.25}
    expected |= {"sha256": columns["sha256"][5]}
    vector = {"key": _IMAGES[5] + 1, "value_text": _TEXTS[5] + 1}
    assert len(found) == 600
    assert _equal(found[5], Sample("5", b"", "caption 5", None, "http://x/5", expected, vector))


def test_a_folder_of_clip_retrieval_is_a_path(tmp_path):
    _write(tmp_path, "0")
    _write(tmp_path, "1")
    assert [shard.name for shard in _plan(tmp_path, str(tmp_path))] == ["img_emb_0", "img_emb_1"]
    assert vectors.dims(Source("vectors", str(tmp_path))) == {"key": 4, "value_text": 3}
    np.savez(tmp_path / "a.npz", X=_IMAGES)
    with pytest.raises(UserError, match="has img_emb/.*.npy as well as .*.npz; make one of them the path"):
        _plan(tmp_path, str(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "X.npy").touch()
    with pytest.raises(UserError, match="the folder has no img_emb/.*.npy or .*.npz; name its files in the path"):
        _plan(tmp_path, "empty")


@pytest.mark.slow
def test_a_damaged_npz_is_one_reject_and_its_bombs_stay_small(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros((1 << 20, 64), np.float32))
    data = (tmp_path / "a.npz").read_bytes()
    assert len(data) < 1 << 20
    tracemalloc.start()
    *_, last = _samples(tmp_path, "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last.error_type == "TruncatedVectors" and peak < 1 << 30
    for broken in (b"", b"PK nothing", data[:-30], data[: len(data) // 2]):
        (tmp_path / "a.npz").write_bytes(broken)
        (found,) = _samples(tmp_path, "a.npz")
        assert found.error_type == "BrokenVectors" and "is no .npz file" in found.message


def test_rows_that_are_only_claimed_cost_nothing(tmp_path):
    claims = _GOOD.replace(b"(2, 3)", b"(%d, 3)" % 10**15).replace(b" " * 15 + b"\n", b"\n")
    (tmp_path / "img_emb_0.npy").write_bytes(claims)
    tracemalloc.start()
    *samples, last = sources.read(_plan(tmp_path, "*.npy")[0], _EMBED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) == 2 and last.error_type == "TruncatedVectors" and peak < 4 << 20


def test_a_table_that_is_none_is_one_reject(tmp_path):
    _write(tmp_path)
    path = tmp_path / "metadata" / "metadata_0000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    (found,) = sources.read(_plan(tmp_path)[0], _EMBED)
    assert found.error_type == "BrokenVectors"


def test_a_damaged_table_ends_with_the_rows_that_are_lost(tmp_path):
    _write(tmp_path)
    path = tmp_path / "metadata" / "metadata_0000.parquet"
    pq.write_table(_TABLE, path, row_group_size=200, compression="none", write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[pq.read_metadata(path).row_group(1).column(1).dictionary_page_offset + 100] ^= 1
    path.write_bytes(data)
    *samples, last = sources.read(_plan(tmp_path)[0], _EMBED)
    assert [item.caption for item in samples] == [f"caption {i}" for i in range(200)]
    assert (last.member, last.error_type) == ("200", "BrokenVectors")
    assert last.message.startswith("rows 200 to 599 have no metadata: ") and "CRC" in last.message
