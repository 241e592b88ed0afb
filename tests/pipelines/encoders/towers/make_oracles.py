"""Writes `oracles/*.json`: configs, names and shapes of arrays, inputs and outputs of small models of transformers.

    pip install torch transformers==5.* numpy
    python make_oracles.py

The weights are drawn by `arrays`, so that only their shapes are stored. Tests read the JSON and need neither library.
"""

import json
import pathlib

import arrays
import numpy as np
import torch
import transformers as tr

_MEAN, _STD = (0.48, 0.45, 0.4), (0.27, 0.26, 0.28)
_FOLDER = pathlib.Path(__file__).parent / "oracles"
_VOCABULARY = 90
_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_IMAGES = {**_VISION, "image_size": 24, "patch_size": 8}
_TEXT = {**_VISION, "vocab_size": _VOCABULARY}
_BERT = {**_TEXT, "max_position_embeddings": 40}


def _fill(model) -> dict[str, list[int]]:
    """Gives a model the drawn weights under the names that it is saved with; returns their shapes."""
    model.save_pretrained("/tmp/oracle", safe_serialization=True)
    from safetensors.numpy import load_file, save_file

    shapes = {name: list(array.shape) for name, array in load_file("/tmp/oracle/model.safetensors").items()}
    save_file(arrays.draw(shapes), "/tmp/oracle/model.safetensors", metadata={"format": "pt"})
    return shapes


def _ids(length: int, end: int | None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(length)
    ids = rng.integers(5, _VOCABULARY - 5, (4, length))
    mask = np.ones_like(ids)
    for row, count in enumerate((length, 3, 7, length - 1)):
        if end is not None:
            ids[row, count - 1] = end
        ids[row, count:], mask[row, count:] = 1, 0
    return ids, mask


def _pixels(size: int) -> torch.Tensor:
    scaled = (arrays.images(3, size) / 255 - np.array(_MEAN)) / np.array(_STD)
    return torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32)


def _write(name: str, config, shapes: dict, **outputs) -> None:
    fields = {key: np.asarray(value).tolist() for key, value in outputs.items()}
    text = {"config": json.loads(config.to_json_string()), "mean": _MEAN, "std": _STD, "shapes": shapes, **fields}
    (_FOLDER / f"{name}.json").write_text(json.dumps(text))


def _two_towers(name: str, config, model_class, length: int, end: int | None, size: int = 24) -> None:
    shapes = _fill(model_class(config))
    model = model_class.from_pretrained("/tmp/oracle").eval()
    ids, mask = _ids(length, end)
    image = model.get_image_features(pixel_values=_pixels(size))
    text = model.get_text_features(input_ids=torch.tensor(ids))
    image, text = (getattr(found, "pooler_output", found) for found in (image, text))
    _write(name, config, shapes, ids=ids, mask=mask, image=image.detach(), text=text.detach(), size=size)


def _images(name: str, config, model_class, size: int = 24) -> None:
    shapes = _fill(model_class(config))
    model = model_class.from_pretrained("/tmp/oracle").eval()
    found = model(pixel_values=_pixels(size))
    _write(name, config, shapes, image=found.last_hidden_state[:, 0].detach(), size=size)


def _texts(name: str, config, model_class) -> None:
    shapes = _fill(model_class(config))
    model = model_class.from_pretrained("/tmp/oracle").eval()
    ids, mask = _ids(16, 3)
    found = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.detach().numpy()
    mean = (found * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    _write(name, config, shapes, ids=ids, mask=mask, mean=mean, first=found[:, 0])


def main() -> None:
    """Writes all files."""
    _FOLDER.mkdir(exist_ok=True)
    for name, activation, end in (("clip", "quick_gelu", 2), ("clip_gelu", "gelu", 89)):
        config = tr.CLIPConfig(
            text_config={**_TEXT, "max_position_embeddings": 20, "hidden_act": activation, "eos_token_id": end},
            vision_config={**_IMAGES, "hidden_act": activation},
            projection_dim=12,
        )
        _two_towers(name, config, tr.CLIPModel, 20, 89)
    config = tr.MetaClip2Config(
        text_config={**_TEXT, "max_position_embeddings": 20, "eos_token_id": 2},
        vision_config=_IMAGES,
        projection_dim=12,
    )
    _two_towers("metaclip_2", config, tr.MetaClip2Model, 20, 2)
    config = tr.SiglipConfig(text_config={**_TEXT, "max_position_embeddings": 12}, vision_config=_IMAGES)
    _two_towers("siglip", config, tr.SiglipModel, 12, None)
    # Like So400m/14 of 384 pixels: the last patch is not whole.
    uneven = tr.SiglipConfig(text_config=config.text_config, vision_config={**_IMAGES, "image_size": 29})
    _two_towers("siglip_uneven", uneven, tr.SiglipModel, 12, None, 29)
    dino = {**_VISION, "patch_size": 8, "mlp_ratio": 2, "image_size": 24}
    _images("dinov2", tr.Dinov2Config(**dino), tr.Dinov2Model)
    _images("dinov2_smaller", tr.Dinov2Config(**{**dino, "image_size": 56}), tr.Dinov2Model)
    _images("dinov2_giant", tr.Dinov2Config(**dino, use_swiglu_ffn=True), tr.Dinov2Model)
    registers = tr.Dinov2WithRegistersConfig(**{**dino, "image_size": 56}, num_register_tokens=3)
    _images("dinov2_registers_smaller", registers, tr.Dinov2WithRegistersModel)
    dino3 = {**_IMAGES, "num_register_tokens": 4}
    _images("dinov3", tr.DINOv3ViTConfig(**dino3), tr.DINOv3ViTModel)
    _images("dinov3_gated", tr.DINOv3ViTConfig(**dino3, use_gated_mlp=True, hidden_act="silu"), tr.DINOv3ViTModel)
    _texts("bert", tr.BertConfig(**_BERT), tr.BertModel)
    _texts("roberta", tr.XLMRobertaConfig(**_BERT, pad_token_id=1), tr.XLMRobertaModel)
    _texts("mpnet", tr.MPNetConfig(**_BERT), tr.MPNetModel)
    t5 = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": _VOCABULARY}
    _texts("t5", tr.T5Config(**t5), tr.T5EncoderModel)
    _texts("t5_gated", tr.T5Config(**t5, feed_forward_proj="gated-gelu"), tr.T5EncoderModel)


if __name__ == "__main__":
    main()
