"""Forms of published Hugging Face models have the published numbers of parameters, from their configs alone."""

import json
import math

import numpy as np
import pytest
import safetensors.numpy
import tensorflow_hub as hub

from pipelines.encoders.facts import parts
from pipelines.encoders.towers import checkpoints
from pipelines.encoders.towers.hugging_face import models
from pipelines.encoders.towers.hugging_face.preprocessing import Preprocessing

HALF = (0.5, 0.5, 0.5)


def _transformer(width, layers, heads, hidden=None, **more):
    hidden = hidden or 4 * width
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        **more,
    }


def _two_towers(kind, vision, text, dim=0):
    return {
        "model_type": kind,
        "vision_config": vision,
        "text_config": text,
        **({"projection_dim": dim} if dim else {}),
    }


CLIP_B = _two_towers("clip", _transformer(768, 12, 12, patch_size=16), _transformer(512, 12, 8), 512)
CLIP_L = _two_towers("clip", _transformer(1024, 24, 16, patch_size=14), _transformer(768, 12, 12), 768)
CLIP_G = _two_towers("clip", _transformer(1664, 48, 16, 8192, patch_size=14), _transformer(1280, 32, 20), 1280)
CLIP_H = _two_towers("clip", _transformer(1280, 32, 16, patch_size=14), _transformer(1024, 24, 16), 1024)
WORLDWIDE = _two_towers(
    "metaclip_2",
    CLIP_H["vision_config"],
    {**CLIP_H["text_config"], "vocab_size": 901_629, "eos_token_id": 2},
    1024,
)
_SO400M = _transformer(1152, 27, 16, 4304)


def _siglip(length):
    return _two_towers("siglip", {**_SO400M, "patch_size": 14}, {**_SO400M, "max_position_embeddings": length})


def _dino2(width, layers, heads, **more):
    return {"model_type": "dinov2", **_transformer(width, layers, heads), "patch_size": 14, "image_size": 518, **more}


DINO3_B = {"model_type": "dinov3_vit", **_transformer(768, 12, 12), "patch_size": 16, "num_register_tokens": 4}


def _forms(folder, config, size):
    (folder / "config.json").write_text(json.dumps(config))
    images = Preprocessing({"size": size}, HALF, HALF)
    kinds = ("image", "text") if models.has_both(folder) else ("image",)
    return [models.read_form(folder, kind, images) for kind in kinds]


@pytest.mark.parametrize(
    ("config", "size", "millions"),
    [
        # OpenCLIP's table of its models: images and texts in millions, without the temperature.
        (CLIP_B, 224, (86.19, 63.43)),
        (CLIP_L, 224, (303.97, 123.65)),
        (CLIP_H, 224, (632.08, 354.03)),
        (CLIP_G, 224, (1844.91, 694.66)),
        (_siglip(16), 224, (427.68, 449.68)),
        (_siglip(64), 384, (428.23, 449.73)),
        # ViT-H/14 of the same table with more tokens of 1,024 values.
        (WORLDWIDE, 224, (632.08, 354.03 + (901_629 - 49_408) * 1024 / 1e6)),
        # The cards of timm, whose models have no mask token, either.
        (_dino2(768, 12, 12), 518, (86.6,)),
        (_dino2(1024, 24, 16), 518, (304.4,)),
        (_dino2(1536, 40, 24, use_swiglu_ffn=True), 518, (1136.5,)),
        (DINO3_B, 256, (85.7,)),
    ],
    ids="CLIP-B/16 CLIP-L/14 CLIP-H/14 bigG/14 So400m/14-224 So400m/14-384 MetaCLIP-2 DINOv2-B DINOv2-L DINOv2-g "
    "DINOv3-B".split(),
)
def test_published_models_have_the_published_numbers_of_parameters(config, size, millions, tmp_path):
    counts = [sum(map(math.prod, form.shapes().values())) / 1e6 for form in _forms(tmp_path, config, size)]
    places = 2 if len(millions) == 2 else 1
    assert counts == pytest.approx(millions, abs=0.51 * 10**-places)


def test_the_whole_of_clip_has_the_published_number_of_parameters(tmp_path):
    for config, published in ((CLIP_B, 149_620_737), (CLIP_L, 427_616_513)):
        counts = [sum(map(math.prod, form.shapes().values())) for form in _forms(tmp_path, config, 224)]
        # The temperature is one more.
        assert sum(counts) + 1 == published == sum(map(math.prod, _clip_shapes(config).values()))


def _clip_shapes(config):
    """Returns the arrays of a CLIP of 224 pixels by their names on the Hub."""
    vision, text = config["vision_config"], config["text_config"]
    wide, narrow, patch = vision["hidden_size"], text["hidden_size"], vision["patch_size"]
    found = {
        "logit_scale": (),
        "vision_model.embeddings.class_embedding": (wide,),
        "vision_model.embeddings.patch_embedding.weight": (wide, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": ((224 // patch) ** 2 + 1, wide),
        "visual_projection.weight": (config["projection_dim"], wide),
        "text_model.embeddings.token_embedding.weight": (49_408, narrow),
        "text_model.embeddings.position_embedding.weight": (77, narrow),
        "text_projection.weight": (config["projection_dim"], narrow),
    }
    linear = {}
    for root, part in (("vision_model", vision), ("text_model", text)):
        width, hidden = part["hidden_size"], part["intermediate_size"]
        norms = ["pre_layrnorm", "post_layernorm"] if part is vision else ["final_layer_norm"]
        for layer in range(part["num_hidden_layers"]):
            place = f"encoder.layers.{layer}."
            norms += [f"{place}layer_norm1", f"{place}layer_norm2"]
            linear |= {f"{root}.{place}self_attn.{one}_proj": (width, width) for one in ("q", "k", "v", "out")}
            linear |= {f"{root}.{place}mlp.fc1": (hidden, width), f"{root}.{place}mlp.fc2": (width, hidden)}
        found |= {f"{root}.{norm}.{end}": (width,) for norm in norms for end in ("weight", "bias")}
    return (
        found
        | {f"{name}.weight": shape for name, shape in linear.items()}
        | {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", [CLIP_B, CLIP_L], ids=["B/16", "L/14"])
def test_true_shapes_are_built_and_have_their_parameters(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WEB_MEMORY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    preprocessor = {"size": {"height": 224, "width": 224}, "image_mean": HALF, "image_std": HALF, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    shapes = _clip_shapes(config)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(zeros, folder / "model.safetensors")
    del zeros
    built = checkpoints.ensure(f"hf:{folder}#image")
    own = [name for name in shapes if name.startswith(("vision_model.", "visual_projection."))]
    assert parts.variables(built) == sum(math.prod(shapes[name]) for name in own)
    images = np.zeros((2, 224, 224, 3), np.uint8)
    assert hub.load(str(built))(images).shape == (2, config["projection_dim"])
