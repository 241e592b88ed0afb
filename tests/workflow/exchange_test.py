"""What the readers of other tools make of our arrays: embedding-reader, autofaiss, and clip-retrieval's indexer."""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.schemas import EncoderInfo
from tests.isolated import python_with
from tests.world import DIM, SPLITS, World, unit, write_embeddings
from workflow import arrays

pytestmark = pytest.mark.slow

# autofaiss needs NumPy 1, and later releases of PyArrow need NumPy 2.
_TOOLS = ("autofaiss==2.18.0", "embedding-reader==1.8.1", "pyarrow<22")
_CLIP_RETRIEVAL = "clip-retrieval==2.45.0"

# The package imports its service, too, for which PyTorch would be needed; its indexer needs no more of it than a name.
_PROGRAM = """
import json, sys, types
folder, out, packages = sys.argv[1:]
import faiss, numpy as np, pandas as pd
from autofaiss import build_index
from embedding_reader import EmbeddingReader
package = types.ModuleType("clip_retrieval")
package.__path__ = [packages + "/clip_retrieval"]
sys.modules["clip_retrieval"] = package
from clip_retrieval.clip_index import clip_index

memory, found = folder + "/memory", {}
for kind in ("img_emb", "text_emb"):
    reader = EmbeddingReader(f"{memory}/{kind}", file_format="npy")
    found[kind] = np.concatenate([rows for rows, _ in reader(batch_size=70, show_progress=False)])
columns = ["id", "image_path", "caption", "label", "sha256"]
reader = EmbeddingReader(
    memory + "/img_emb", file_format="parquet_npy", metadata_folder=memory + "/metadata", meta_columns=columns
)
pairs = list(reader(batch_size=70, show_progress=False))
found["beside_metadata"] = np.concatenate([rows for rows, _ in pairs])
table = pd.concat([rows for _, rows in pairs])
index, _ = build_index(memory + "/img_emb", save_on_disk=False, index_key="Flat", metric_type="ip")
((queries, _),) = EmbeddingReader(folder + "/test/img_emb")(batch_size=1000, show_progress=False)
found["scores"], found["rows"] = index.search(queries, 7)
clip_index(memory, out)
indexed = [faiss.read_index(f"{out}/{kind}.index") for kind in ("image", "text")]
again = pd.concat([pd.read_parquet(f"{out}/metadata/metadata_000{shard}.parquet") for shard in range(3)])
np.savez(out + "/found.npz", **found)
json.dump({"table": {name: table[name].tolist() for name in columns}, "captions": again["caption"].tolist(),
           "indexed": [[index.ntotal, index.d] for index in indexed]}, open(out + "/found.json", "w"))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Returns a Python in which these tools are installed."""
    return python_with(tmp_path_factory.mktemp("tools"), *_TOOLS, alone=_CLIP_RETRIEVAL)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_readers_see_our_values(python, tmp_path, dtype):
    key = EncoderInfo("key-encoder", DIM, True, dtype)
    world = World(tmp_path / "world")
    write_embeddings(f"{world.folder}/memory", world.keys, world.images, key=key)
    for split in SPLITS:
        world.write_split(split, key=key)
    # One shard, since a query does not visit all of several.
    world.config_file.write_text(world.config_file.read_text().replace("shards=3", "shards=1"))
    assert world.build() == 0 and world.neighbors() == 0
    out, tools = tmp_path / "arrays", tmp_path / "tools"
    assert arrays.main([f"--config={world.config_file}", f"--output={out}"]) == 0
    tools.mkdir()
    (packages,) = pathlib.Path(python).parents[1].glob("lib/python*/site-packages")
    command = [python, "-c", _PROGRAM, str(out), str(tools), str(packages)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr[-2000:]
    found, told = np.load(tools / "found.npz"), json.loads((tools / "found.json").read_text())
    keys = world.keys.astype(dtype).astype(np.float32)
    assert np.array_equal(found["img_emb"], keys) and np.array_equal(found["beside_metadata"], keys)
    assert np.array_equal(found["text_emb"], np.repeat(np.arange(400), 3).reshape(400, 3))
    assert told["table"]["id"] == world.ids.tolist()
    assert told["table"]["image_path"] == [f"{row}.jpg" for row in range(400)]
    assert told["table"]["caption"] == told["captions"] == [f"row {row}" for row in range(400)]
    assert told["table"]["label"] == [row % 5 for row in range(400)]
    assert told["table"]["sha256"] == [image.hex() for image in world.images]
    assert told["indexed"] == [[400, DIM], [400, 3]]
    # autofaiss finds in the exported vectors what the exported lists have.
    scores = np.load(out / "neighbors/test/scores.npy")
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-4)
    ids, rows = np.load(out / "neighbors/test/ids.npy"), found["rows"]
    assert np.mean(world.ids[rows] == ids) > 0.99


_WRITTEN = """
import glob, json, sys, types
import numpy as np
for name in ("clip_retrieval", "clip_retrieval.clip_inference"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [found for path in sys.path for found in glob.glob(f"{path}/{name.replace('.', '/')}")]
from clip_retrieval.clip_inference.writer import NumpyWriter
arrays = np.load(sys.argv[1] + "/given.npz")
for part, rows in ((0, slice(0, 4)), (1, slice(4, 7))):
    writer = NumpyWriter(part, sys.argv[1] + "/out", True, True, True, 10)
    texts = [f"caption {row}" for row in range(7)][rows]
    about = [json.dumps({"url": f"http://x/{row}.jpg", "key": str(row)}) for row in range(7)][rows]
    names = [f"{row}.jpg" for row in range(7)][rows]
    batch = {"image_embs": arrays["image"][rows], "text_embs": arrays["text"][rows]}
    writer({**batch, "image_filename": names, "text": texts, "metadata": about})
    writer.flush()
"""


def test_what_clip_retrieval_writes_is_a_source(python, tmp_path):
    given = {"image": unit(7, 8, seed=1).astype(np.float16), "text": unit(7, 8, seed=2).astype(np.float16)}
    np.savez(tmp_path / "given.npz", **given)
    done = subprocess.run([python, "-c", _WRITTEN, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    source = Source("vectors", str(tmp_path / "out"))
    found = [item for shard in sources.plan(source, "", Embed(), "") for item in sources.read(shard, Embed())]
    assert [(item.caption, item.url) for item in found] == [(f"caption {n}", f"http://x/{n}.jpg") for n in range(7)]
    for column, name in (("key", "image"), ("value_text", "text")):
        assert np.array_equal(np.stack([item.vectors[column] for item in found]), given[name].astype(np.float32))
