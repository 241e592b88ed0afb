"""The command `web-memory embed` with encoders that are ONNX files."""

import io

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from pipelines import embed
from pipelines.images.decode import ImagePreprocess, decode, prepare
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines.encoders.onnx import built


def test_a_memory_of_images_and_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("WEB_MEMORY_CACHE", str(tmp_path / "cache"))
    image = built.write(tmp_path / "image", built.image_model(1), built.IMAGE)
    text = built.write(tmp_path / "text", built.text_model(), built.TEXT)
    captions = ["red dog", "cat", "a dog dog red cat", "red"]
    images = [tiny.image_bytes(seed) for seed in range(4)]
    pairs = [(f"0000{i}", *pair) for i, pair in enumerate(zip(images, captions, strict=True))]
    tiny.write_tar(tmp_path / "pairs/00000.tar", pairs)
    (tmp_path / "config.py").write_text("from configs.base import Config\ndef get_config():\n    return Config()\n")
    flags = {
        **{"data": tmp_path, "workdir": tmp_path / "out", "memory.path": "pairs/*.tar", "encoders.key": image},
        **{"encoders.value_image": "", "encoders.value_text": text, "encoders.normalize": "false"},
        "embed.batch_size": 3,
    }
    argv = [f"--config={tmp_path}/config.py", *(f"--config.{name}={value}" for name, value in flags.items())]
    assert embed.main(argv) == 0
    (file,) = sorted((tmp_path / "out/memory").glob("*.parquet"))
    table = pq.read_table(file)
    assert table["caption"].to_pylist() == captions
    preprocess = ImagePreprocess(built.SIZE)
    pixels = [prepare(decode(data, 10**6, [preprocess]), preprocess) for data in images]
    assert Image.open(io.BytesIO(images[0])).size == (24, 20)
    np.testing.assert_allclose(np.stack(table["key"].to_numpy()), built.mean_colour(pixels), rtol=1e-4, atol=1e-5)
    values = np.stack(table["value_text"].to_numpy())
    np.testing.assert_allclose(values, built.mean_words(captions), rtol=1e-4, atol=1e-5)
