"""Both kinds of TIPSv2 files give the towers that NumPy computes, or are refused by a sentence."""

import base64
import dataclasses
import json
import math

import fsspec
import numpy as np
import pytest

from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import ImageEncoder, TextEncoder
from pipelines.encoders.towers.npz_files import npz, tips
from pipelines.errors import UserError
from tests.pipelines.encoders.towers import npz_files, texts_test
from tests.pipelines.encoders.towers.npz_files import Shape

IMAGE = Shape(width=24, depth=2, heads=3, hidden=40, grid=3, patch=4)
GIANT = dataclasses.replace(IMAGE, gated=True)
TEXT = Shape(width=16, depth=3, heads=2, hidden=20, grid=64, tokens=50)
NORM = ("weight", "bias")


@pytest.fixture(autouse=True)
def _heads(monkeypatch):
    monkeypatch.setitem(tips.HEADS, IMAGE.width, IMAGE.heads)
    monkeypatch.setitem(tips.HEADS, TEXT.width, TEXT.heads)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tips_v2_x.npz"


def _save(path, arrays):
    np.savez(path, **arrays)
    return str(path)


def _torch_vision(fill, shape):
    width, hidden = shape.width, shape.hidden
    dims = {
        "cls_token": (1, 1, width),
        "register_tokens": (1, 1, width),
        "mask_token": (1, width),
        "pos_embed": (1, 1 + shape.grid**2, width),
        "patch_embed.proj.weight": (width, 3, shape.patch, shape.patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    first, second = ("w12", "w3") if shape.gated else ("fc1", "fc2")
    for place in (f"blocks.{block}." for block in range(shape.depth)):
        dims |= {f"{place}{name}": (width,) for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")}
        dims |= {f"{place}ls{number}.gamma": (width,) for number in (1, 2)}
        dims |= {f"{place}attn.qkv.weight": (3 * width, width), f"{place}attn.qkv.bias": (3 * width,)}
        dims |= {f"{place}attn.proj.weight": (width, width), f"{place}attn.proj.bias": (width,)}
        rows = 2 * hidden if shape.gated else hidden
        dims |= {f"{place}mlp.{first}.weight": (rows, width), f"{place}mlp.{first}.bias": (rows,)}
        dims |= {f"{place}mlp.{second}.weight": (width, hidden), f"{place}mlp.{second}.bias": (width,)}
    return {name: fill(name, *shape) for name, shape in dims.items()}


def _torch_texts(fill, shape):
    width, hidden = shape.width, shape.hidden
    dims = {
        "token_embedding.weight": (shape.tokens, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "temperature": (1,),
    }
    for place in (f"transformer.resblocks.{block}." for block in range(shape.depth)):
        dims |= {f"{place}{name}": (width,) for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias")}
        dims |= {f"{place}attn.in_proj_weight": (3 * width, width), f"{place}attn.in_proj_bias": (3 * width,)}
        dims |= {f"{place}attn.out_proj.weight": (width, width), f"{place}attn.out_proj.bias": (width,)}
        dims |= {f"{place}mlp.c_fc.weight": (hidden, width), f"{place}mlp.c_fc.bias": (hidden,)}
        dims |= {f"{place}mlp.c_proj.weight": (width, hidden), f"{place}mlp.c_proj.bias": (width,)}
    return {name: fill(name, *shape) for name, shape in dims.items()}


def _scenic_vision(fill, shape):
    root, width = "encoder/", shape.width
    dims = {
        "ToTokenSequence_0/embedding/kernel": (shape.patch, shape.patch, 3, width),
        "ToTokenSequence_0/embedding/bias": (width,),
        "ToTokenSequence_0/posembed_input": (1, shape.grid, shape.grid, width),
        "ToTokenSequence_0/cls": (1, 2, width),
        "encoder_norm/scale": (width,),
        "encoder_norm/bias": (width,),
    }
    found = {f"{root}{name}": fill(name, *of) for name, of in dims.items()}
    return found | npz_files.flax_blocks(fill, f"{root}transformer/", shape)


def _scenic_texts(fill, shape):
    dims = {
        "token_emb/emb_var": (shape.tokens, shape.width),
        "text_encoder_norm/scale": (shape.width,),
        "text_encoder_norm/bias": (shape.width,),
        "temperature_contrastive": (),
    }
    found = {name: np.float32(0.01) if not of else fill(name, *of) for name, of in dims.items()}
    return found | npz_files.flax_blocks(fill, "transformer/", shape)


def _linear(x, arrays, name):
    weight = arrays[f"{name}_weight" if name.endswith("in_proj") else f"{name}.weight"].astype(np.float64)
    return x @ weight.T + arrays[f"{name}_bias" if name.endswith("in_proj") else f"{name}.bias"]


def _torch_attention(x, arrays, joined, out, heads, seen=None):
    width = x.shape[1]
    weight, bias = (
        arrays[f"{joined}{end}"] for end in (("_weight", "_bias") if "in_proj" in joined else (".weight", ".bias"))
    )
    kernels = [weight[part * width : (part + 1) * width].T for part in range(3)] + [arrays[f"{out}.weight"].T]
    biases = [*bias.reshape(3, width), arrays[f"{out}.bias"]]
    return npz_files.attention(x, x, kernels, biases, heads, seen)


def _torch_image_reference(arrays, image, shape):
    kernel = arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    x = npz_files.patches(image / 255.0, kernel) + arrays["patch_embed.proj.bias"]
    x = np.concatenate([arrays["cls_token"][0], x]) + arrays["pos_embed"][0]
    x = np.concatenate([x[:1], arrays["register_tokens"][0], x[1:]])
    for block in range(shape.depth):
        at = f"blocks.{block}."
        y = npz_files.norm(x, arrays, f"{at}norm1", 1e-6, NORM, ".")
        y = _torch_attention(y, arrays, f"{at}attn.qkv", f"{at}attn.proj", shape.heads)
        x = x + y * arrays[f"{at}ls1.gamma"]
        y = npz_files.norm(x, arrays, f"{at}norm2", 1e-6, NORM, ".")
        if shape.gated:
            both = _linear(y, arrays, f"{at}mlp.w12")
            y = _linear(npz_files.silu(both[:, : shape.hidden]) * both[:, shape.hidden :], arrays, f"{at}mlp.w3")
        else:
            y = _linear(npz_files.gelu(_linear(y, arrays, f"{at}mlp.fc1")), arrays, f"{at}mlp.fc2")
        x = x + y * arrays[f"{at}ls2.gamma"]
    return npz_files.norm(x, arrays, "norm", 1e-6, NORM, ".")[0]


def _scenic_image_reference(arrays, image, shape):
    root = "encoder/ToTokenSequence_0/"
    x = npz_files.patches(image / 255.0, arrays[f"{root}embedding/kernel"]) + arrays[f"{root}embedding/bias"]
    x = x + arrays[f"{root}posembed_input"].reshape(-1, shape.width)
    x = np.concatenate([arrays[f"{root}cls"][0], x])
    x = npz_files.flax_encoder(x, arrays, "encoder/transformer/", shape.depth, npz_files.gelu_tanh)
    return npz_files.norm(x, arrays, "encoder/encoder_norm", 1e-6)[0]


def _positions(count, width):
    """Each frequency by itself: from 1 down to 1 / 10,000, in equal steps of its logarithm."""
    half = width // 2
    found = np.zeros((count, width))
    for number in range(half):
        frequency = math.exp(-math.log(10_000) * number / (half - 1))
        for place in range(count):
            found[place, number] = math.sin(place * frequency)
            found[place, half + number] = math.cos(place * frequency)
    return found


def _embedded(tokens, ids):
    width = tokens.shape[1]
    return tokens[ids].astype(np.float64) * math.sqrt(width) + _positions(len(ids), width)


def _torch_text_reference(arrays, ids, mask, shape):
    x = _embedded(arrays["token_embedding.weight"], ids)
    for block in range(shape.depth):
        at = f"transformer.resblocks.{block}."
        y = npz_files.norm(x, arrays, f"{at}ln_1", 1e-5, NORM, ".")
        x = x + _torch_attention(y, arrays, f"{at}attn.in_proj", f"{at}attn.out_proj", shape.heads, mask > 0)
        y = npz_files.relu(_linear(npz_files.norm(x, arrays, f"{at}ln_2", 1e-5, NORM, "."), arrays, f"{at}mlp.c_fc"))
        x = x + _linear(y, arrays, f"{at}mlp.c_proj")
    return npz_files.norm(x, arrays, "ln_final", 1e-5, NORM, ".")[mask > 0].mean(0)


def _scenic_text_reference(arrays, ids, mask, shape):
    x = _embedded(arrays["token_emb/emb_var"], ids)
    x = npz_files.flax_encoder(x, arrays, "transformer/", shape.depth, npz_files.relu, mask > 0)
    return npz_files.norm(x, arrays, "text_encoder_norm", 1e-6)[mask > 0].mean(0)


@pytest.mark.parametrize("shape", [IMAGE, GIANT], ids=["MLP", "gated"])
@pytest.mark.parametrize(
    ("make", "reference"),
    [(_torch_vision, _torch_image_reference), (_scenic_vision, _scenic_image_reference)],
    ids=["PyTorch", "Scenic"],
)
def test_image_towers_are_those_of_numpy(make, reference, shape, path, tmp_path):
    arrays = make(npz_files.Random(), shape)
    tower = tips.read(_save(path, arrays), "image")
    assert tips.read_form(str(path), "image") == tower.form
    assert (tower.form.size, tower.form.registers, tower.form.blocks.gated) == (12, 1, shape.gated)
    images = npz_files.pixels(3, 12)
    npz_files.agrees(
        npz_files.exported(tower, tmp_path / "saved")(images), [reference(arrays, image, shape) for image in images]
    )


@pytest.mark.parametrize(
    ("make", "reference"),
    [(_torch_texts, _torch_text_reference), (_scenic_texts, _scenic_text_reference)],
    ids=["PyTorch", "Scenic"],
)
def test_text_towers_are_those_of_numpy(make, reference, path, tmp_path):
    arrays = make(npz_files.Random(), TEXT)
    embed = npz_files.exported(tips.read(_save(path, arrays), "text"), tmp_path / "saved")
    ids = np.random.default_rng(0).integers(1, TEXT.tokens, (3, 9), np.int32)
    mask = (np.arange(9) < np.array([[9], [4], [1]])).astype(np.int32)
    ids *= mask
    vectors = embed(ids, mask)
    npz_files.agrees(vectors, [reference(arrays, *rows, TEXT) for rows in zip(ids, mask, strict=True)])
    # Padding to the 64 of the training changes nothing, and a text without tokens has a vector of zeros.
    padded = [np.pad(rows, ((0, 1), (0, 55))) for rows in (ids, mask)]
    np.testing.assert_allclose(embed(*padded)[:3], vectors, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(embed(*padded)[3], np.zeros(TEXT.width))


@pytest.mark.parametrize(
    ("vision", "texts", "millions"),
    [
        ((768, 12, 12, 3072), (768, 12, 12, 3072), (85.7, 109.6)),
        ((1024, 24, 16, 4096), (1024, 12, 16, 4096), (303.2, 183.9)),
        ((1152, 27, 16, 4304), (1152, 27, 16, 4304), (412.4, 448.3)),
        ((1536, 40, 24, 4096), (1536, 12, 24, 6144), (1100, 389.1)),
    ],
    ids=["B/14", "L/14", "So400m/14", "g/14"],
)
@pytest.mark.parametrize("makers", [(_torch_vision, _torch_texts), (_scenic_vision, _scenic_texts)])
def test_published_models_have_the_published_numbers_of_parameters(vision, texts, millions, makers, monkeypatch):
    shapes = [Shape(*vision, grid=32, patch=14, gated=vision[0] == 1536), Shape(*texts, grid=64, tokens=32000)]
    forms = []
    for make, shape, kind in zip(makers, shapes, ("image", "text"), strict=True):
        arrays = make(npz_files.empty, shape)
        monkeypatch.setattr(npz, "read", lambda path, choose, whole, of=arrays: {n: of[n] for n in choose({*of})})
        forms.append(tips.read_form("x.npz", kind))
    assert forms[0].vector_width == forms[1].vector_width
    assert (forms[0].size, forms[1].positions, forms[1].blocks.depth) == (448, 64, texts[1])
    counts = [sum(math.prod(shape) for shape in form.shapes().values()) for form in forms]
    # The published numbers are those of the first TIPS, whose positions are 16 x 16.
    counts[0] -= (32**2 - 16**2) * vision[0]
    for count, published in zip(counts, millions, strict=True):
        # Scenic's models have no layer scales, 0.06 million in So400m; that of g is published as 1.1 billion.
        assert count / 1e6 == pytest.approx(published, abs=0.11 if published < 1000 else 50)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(_torch_vision, "image"), (_torch_texts, "text"), (_scenic_vision, "image"), (_scenic_texts, "text")],
)
def test_every_missing_array_is_noticed(make, kind, path, monkeypatch):
    arrays = make(npz_files.Random(), IMAGE if kind == "image" else TEXT)
    unneeded = {"mask_token", "temperature", "temperature_contrastive"}
    given = {}
    monkeypatch.setattr(npz, "read", lambda path, choose, whole: {name: given[name] for name in choose({*given})})
    for left_out in arrays.keys() - unneeded:
        given = {name: array for name, array in arrays.items() if name != left_out}
        with pytest.raises(UserError, match="has no|which is not of the model"):
            tips.read_form(str(path), kind)


def _refused(path, arrays, kind, sentence):
    _save(path, arrays)
    for read in (tips.read_form, tips.read):
        with pytest.raises(UserError, match=sentence) as caught:
            read(str(path), kind)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        (
            "blocks.1.attn.qkv.weight",
            (71, 24),
            r"blocks.1.attn.qkv.weight is \[.*\], the shape of its other arrays says",
        ),
        (
            "blocks.1.attn.qkv.weight",
            None,
            "has no array for blocks.1.attn.qkv.weight, which the shape of its other arrays asks",
        ),
        ("blocks.1.ls2.gamma", (23,), r"blocks.1.ls2.gamma is \[23\], the shape of its other arrays says \[24\]"),
        ("blocks.0.extra", (24,), "has blocks.0.extra, which is not of the model"),
        ("pos_embed", (1, 12, 24), "pos_embed has 11 places, which make no square"),
        ("patch_embed.proj.weight", (24, 4, 4, 4), r"patch_embed.proj.weight is .* must be \[D 3 P P\]"),
        ("patch_embed.proj.weight", (32, 3, 4, 4), "is 32 wide, but the heads of TIPSv2 are known for 768, 1024, 1152"),
    ],
)
def test_odd_arrays_are_named(path, name, shape, sentence):
    arrays = {key: array for key, array in _torch_vision(npz_files.Random(), IMAGE).items() if key != name}
    _refused(path, arrays if shape is None else {**arrays, name: np.zeros(shape, np.float32)}, "image", sentence)


def test_files_of_other_towers_and_models_are_refused(path):
    _refused(
        path, _torch_texts(npz_files.Random(), TEXT), "image", "has no array cls_token or .*; take the vision file"
    )
    _refused(
        path, _scenic_vision(npz_files.Random(), IMAGE), "text", "has no array token_embedding.weight or .* text file"
    )
    first = _scenic_vision(npz_files.Random(), dataclasses.replace(IMAGE, grid=16))
    _refused(path, first, "image", "posembed_input has 16 x 16 places; .* the first TIPS, which is not read")
    pickled = {**_scenic_vision(npz_files.Random(), IMAGE), "encoder/x": np.array([{}], object)}
    _refused(path, pickled, "image", "x.npy is of type object")


def test_tips_is_told_from_other_files(path):
    for make, shape in ((_torch_vision, IMAGE), (_torch_texts, TEXT), (_scenic_vision, IMAGE), (_scenic_texts, TEXT)):
        assert tips.is_tips(_save(path, make(npz_files.Random(), shape)))
    assert not tips.is_tips(_save(path, npz_files.siglip(npz_files.Random(), IMAGE, dataclasses.replace(TEXT, out=24))))
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="was refused as a checkpoint"):
        tips.is_tips(str(path))


# -- By handle -----------------------------------------------------------------------------------

KINDS = (("image", "vision"), ("text", "text"))
PAIRED = dataclasses.replace(TEXT, width=IMAGE.width, heads=IMAGE.heads, tokens=700)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Both files of a model, called as the published ones, and a tokenizer like theirs beside them."""
    monkeypatch.setenv("WEB_MEMORY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "models"
    folder.mkdir()
    np.savez(folder / "tips_v2_x_vision.npz", **_scenic_vision(npz_files.Random(), IMAGE))
    np.savez(folder / "tips_v2_x_text.npz", **_scenic_texts(npz_files.Random(), PAIRED))
    model = texts_test.KINDS["siglip"]["binary"]["spiece.model"]
    (folder / "tokenizer.model").write_bytes(base64.b64decode(model))
    return folder


def _resolve(folder, kind, is_run=False):
    return resolve(f"{folder}/tips_v2_x_{dict(KINDS)[kind]}.npz#{kind}", "float32", normalize=False, is_run=is_run)


@pytest.mark.slow
def test_both_files_share_a_space_and_have_the_vectors_of_numpy(pair):
    image, text = (_resolve(pair, kind, is_run=True) for kind, _ in KINDS)
    assert image.space and image.space == text.space and image.info.dim == text.info.dim == IMAGE.width
    arrays, pixels = dict(np.load(pair / "tips_v2_x_vision.npz")), npz_files.pixels(3, 12)
    expected = [_scenic_image_reference(arrays, picture, IMAGE) for picture in pixels]
    npz_files.agrees(ImageEncoder(image).encode(list(pixels), 4), expected)
    arrays, encoder = dict(np.load(pair / "tips_v2_x_text.npz")), TextEncoder(text)
    ids = texts_test.KINDS["siglip"]["tips"]
    chosen = [row for row in range(len(ids)) if ids[row]][::9]
    assert max(len(ids[row]) for row in chosen) == 64 > min(len(ids[row]) for row in chosen)
    expected = [_scenic_text_reference(arrays, np.array(ids[row]), np.ones(len(ids[row])), PAIRED) for row in chosen]
    npz_files.agrees(encoder.encode_all([texts_test.TEXTS[row] for row in chosen], 8), expected)
    np.testing.assert_array_equal(encoder.encode_all([""], 8), np.zeros((1, IMAGE.width)))


def test_the_space_is_that_of_both_files_and_there_is_none_without_the_other(pair):
    before = _resolve(pair, "image")
    np.savez(pair / "tips_v2_x_text.npz", **_scenic_texts(npz_files.Random(1), PAIRED))
    after = _resolve(pair, "image")
    assert after.space not in ("", before.space) and after.info == before.info
    (pair / "tips_v2_x_text.npz").rename(pair / "tips_v2_y_text.npz")
    assert _resolve(pair, "image").space == ""
    (pair / "tips_v2_y_text.npz").rename(pair / "y.npz")
    assert resolve(f"{pair}/y.npz#text", "float32", is_run=False).space == ""


def _of_another_width(folder):
    np.savez(
        folder / "tips_v2_x_vision.npz", **_scenic_vision(npz_files.Random(), dataclasses.replace(IMAGE, width=12))
    )


def _damaged(folder):
    (folder / "tips_v2_x_text.npz").write_bytes(b"no archive")


def _swapped(folder):
    (folder / "tips_v2_x_vision.npz").replace(folder / "tips_v2_x_text.npz")


def _of_fewer_tokens(folder):
    np.savez(
        folder / "tips_v2_x_text.npz", **_scenic_texts(npz_files.Random(), dataclasses.replace(PAIRED, tokens=699))
    )


def _pickled(folder):
    arrays = _scenic_texts(npz_files.Random(), PAIRED)
    np.savez(folder / "tips_v2_x_text.npz", **{**arrays, "text_encoder_norm/bias": np.array([{}], object)})


def _misshapen(folder):
    arrays = _scenic_texts(npz_files.Random(), PAIRED)
    np.savez(folder / "tips_v2_x_text.npz", **{**arrays, "text_encoder_norm/bias": np.zeros(25, np.float32)})


def _lying(folder):
    path = folder / "tips_v2_x_text.npz"
    arrays = _scenic_texts(npz_files.Random(), PAIRED)
    bias = arrays.pop("text_encoder_norm/bias")
    np.savez(path, **arrays)
    npz_files.add_member(path, "text_encoder_norm/bias", bias.tobytes(), (1 << 40,))


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (lambda f: (f / "tokenizer.model").unlink(), "text", "has no .spm or .model of sentencepiece, which says how"),
        (lambda f: (f / "tokenizer.model").write_bytes(b"x"), "text", "tokenizer.model: is no model of sentencepiece"),
        (_of_fewer_tokens, "text", "tokenizer.model: has the id 699, the model has 699 tokens; it is the tokenizer of"),
        (_swapped, "text", "has no array token_embedding.weight or token_emb/emb_var; take the text file of TIPSv2"),
        (_of_another_width, "text", "_vision.npz: has vectors of 12 values, those of tips_v2_x_text.npz beside it ha"),
        (_damaged, "image", "_text.npz: was refused as a checkpoint"),
        (_pickled, "text", "text_encoder_norm/bias.npy is of type object, must be float32, float16 or bfloat16"),
        (_misshapen, "text", r"text_encoder_norm/bias is \[25\], the shape of its other arrays says \[24\]"),
        (_lying, "text", "text_encoder_norm/bias.npy has .* bytes, which is not what its shape .* takes"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_pair_that_is_not_one_is_refused_in_a_sentence(pair, change, kind, sentence):
    change(pair)
    with pytest.raises(UserError, match=sentence) as caught:
        _resolve(pair, kind)
    assert "\n" not in str(caught.value) and str(pair) in str(caught.value)


def test_a_handle_of_the_other_tower_is_refused(pair):
    with pytest.raises(UserError, match="has no array token_embedding.weight or .*; take the text file of TIPSv2"):
        resolve(f"{pair}/tips_v2_x_vision.npz#text", "float32")
    with pytest.raises(UserError, match="has no array cls_token or .*; take the vision file of TIPSv2"):
        resolve(f"{pair}/tips_v2_x_text.npz#image", "float32")


def test_of_a_store_only_what_belongs_to_a_file_is_copied(pair, tmp_path):
    fs = fsspec.filesystem("memory")
    for file in pair.iterdir():
        fs.pipe_file(f"/tips/{file.name}", file.read_bytes())
    fs.pipe_file("/tips/other_model.npz", b"large")
    fs.pipe_file("/tips/below/tokenizer.model", b"large")
    found = [resolve(f"memory://tips/tips_v2_x_{name}.npz#{kind}", "float32", is_run=False) for kind, name in KINDS]
    assert [spec.space for spec in found] == [_resolve(pair, kind).space for kind, _ in KINDS]
    copied = [path.name for path in (tmp_path / "cache").rglob("*") if path.suffix in (".npz", ".model")]
    assert sorted(copied) == ["tips_v2_x_text.npz", "tips_v2_x_vision.npz", "tokenizer.model"]
    with pytest.raises(UserError, match="there is no file memory://tips/tips_v2_z_vision.npz"):
        resolve("memory://tips/tips_v2_z_vision.npz", "float32")


@pytest.mark.parametrize(
    ("change", "sentence"), [({"size": 24}, "24 pixels does not fit this tower; take 12"), ({}, "")]
)
def test_a_description_of_a_tips_file_may_name_its_size_and_space(pair, change, sentence):
    path = pair / "x.json"
    preprocess = {"size": 12, "resize": "bicubic", **change}
    path.write_text(json.dumps({"model": "tips_v2_x_vision.npz", "space": "tips", "preprocess": preprocess}))
    if sentence:
        with pytest.raises(UserError, match=sentence):
            resolve(str(path), "float32", is_run=False)
    else:
        spec = resolve(str(path), "float32", is_run=False)
        assert (spec.space, spec.description["preprocess"]["crop"]) == ("tips", "squash")
        assert spec.info != resolve(f"{pair}/tips_v2_x_vision.npz", "float32", is_run=False).info


def test_a_description_cannot_change_a_tokenizer(pair):
    path = pair / "x.json"
    path.write_text(json.dumps({"model": "tips_v2_x_text.npz#text", "preprocess": {"max_tokens": 8}}))
    with pytest.raises(UserError, match=r"'preprocess' is \{'max_tokens': 8\}, of these weights it is"):
        resolve(str(path), "float32", is_run=False)
