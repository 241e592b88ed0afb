"""Towers of Hugging Face folders: CLIP, OpenCLIP, MetaCLIP 2, SigLIP, DINOv2, DINOv3, BERT, RoBERTa, MPNet and T5."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pipelines.encoders.towers.hugging_face import names, positions, sentence, weights
from pipelines.encoders.towers.hugging_face.names import Rules
from pipelines.encoders.towers.hugging_face.preprocessing import Preprocessing
from pipelines.encoders.towers.tower import Blocks, Dense, ImageForm, TextForm, Tower, check
from pipelines.errors import UserError

_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "relu": "relu",
}
# Configs of CLIP of before 2023 call the id of the end token 2, whatever it is; that of MetaCLIP 2 is 2.
_OLD_CLIP_END = 2
_KINDS = {"image": "images", "text": "texts"}


class _Config:
    """An object of a config, whose fields are checked when they are read."""

    def __init__(self, path: pathlib.Path, fields: dict[str, Any], place: str = "") -> None:
        self.path, self._fields, self._place = path, fields, place

    def inner(self, name: str) -> "_Config":
        """Returns the object in a field, an empty one if it is missing: all defaults hold then."""
        found = self._fields.get(name) or {}
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: {self._place}{name} must be an object")
        return _Config(self.path, found, f"{name}.")

    def get(self, name: str, default: Any) -> Any:
        """Returns a field, which must be of the type of the default."""
        found = self._fields.get(name)
        if found is None:
            return default
        wanted = float if isinstance(default, float) else type(default)
        if wanted is float and isinstance(found, int) and not isinstance(found, bool):
            found = float(found)
        if type(found) is not wanted:
            raise UserError(f"{self.path}: {self._place}{name} is {found!r}, must be of type {wanted.__name__}")
        return found

    def whole(self, name: str, default: int) -> int:
        """Returns a field that must be a whole number of 1 or more."""
        found = self.get(name, default)
        if found < 1:
            raise UserError(f"{self.path}: {self._place}{name} is {found}, must be 1 or more")
        return int(found)

    def activation(self, name: str, default: str) -> str:
        """Returns our name of an activation."""
        found = self.get(name, default)
        if found not in _ACTIVATIONS:
            raise UserError(
                f"{self.path}: {self._place}{name} is {found!r}, not one of {', '.join(_ACTIVATIONS)}; convert the "
                "model to a SavedModel or ONNX (docs/encoders.md)"
            )
        return _ACTIVATIONS[found]

    def blocks(self, activation: str, epsilon: float, heads: int, width: int = 768, **more: Any) -> Blocks:
        """Returns the blocks that the usual fields describe; the arguments are the defaults of a family."""
        width = self.whole("hidden_size", width)
        found = Blocks(
            depth=self.whole("num_hidden_layers", 12),
            width=width,
            heads=self.whole("num_attention_heads", heads),
            hidden=self.whole("intermediate_size", 4 * width),
            activation=self.activation("hidden_act", activation),
            epsilon=self.get("layer_norm_eps", epsilon),
            **more,
        )
        if width % found.heads:
            raise UserError(f"{self.path}: {found.heads} heads do not divide the width, {width}")
        return found


@dataclasses.dataclass(frozen=True)
class _Family:
    """A family of models.

    Attributes:
        kinds: of its towers.
        image: from a config and preprocessing to the form of its image tower.
        text: from a config to the form of its text tower.
        image_rules: names of the image tower's arrays.
        text_rules: names of the text tower's arrays.
        others: names of arrays beside the towers.
        prefix: that names may have.
    """

    image: Callable[[_Config, Preprocessing], ImageForm] | None = None
    text: Callable[[_Config], TextForm] | None = None
    image_rules: Rules = ()
    text_rules: Rules = ()
    others: Rules = ()
    prefix: str = ""


def _clip_image(config: _Config, images: Preprocessing) -> ImageForm:
    vision = config.inner("vision_config")
    blocks = vision.blocks("quick_gelu" if _is_old_clip(config) else "gelu", 1e-5, 12)
    dim = config.whole("projection_dim", 512)
    return _image_form(vision, images, blocks, patch_bias=False, first_norm=True, dim=dim)


def _is_old_clip(config: _Config) -> bool:
    return config.get("model_type", "") == "clip"


def _image_form(config: _Config, images: Preprocessing, blocks: Blocks, **more: Any) -> ImageForm:
    size, patch = images.preprocess["size"], config.whole("patch_size", 16)
    if config.get("num_channels", 3) != 3:
        raise UserError(f"{config.path}: num_channels is not 3; images have red, green and blue")
    # Pixels behind the last whole patch are not used: SigLIP's So400m/14 takes 384 pixels.
    if size < patch:
        raise UserError(f"{config.path}: patches of {patch} pixels do not fit into images of {size}")
    return ImageForm(blocks, size, patch, images.mean, images.std, **more)


def _clip_text(config: _Config) -> TextForm:
    text = config.inner("text_config")
    blocks = text.blocks("quick_gelu" if _is_old_clip(config) else "gelu", 1e-5, 8, width=512, causal=True)
    end = text.get("eos_token_id", 49407)
    return TextForm(
        blocks,
        tokens=text.whole("vocab_size", 49408),
        pool="end",
        end=-1 if end == _OLD_CLIP_END and _is_old_clip(config) else end,
        positions=text.whole("max_position_embeddings", 77),
        is_masked=False,
        layers=(Dense(blocks.width, config.whole("projection_dim", 512), False),),
    )


def _siglip_image(config: _Config, images: Preprocessing) -> ImageForm:
    vision = config.inner("vision_config")
    if not vision.get("vision_use_head", True):
        raise UserError(f"{config.path}: 'vision_use_head' is false; without the head there is no vector of an image")
    return _image_form(vision, images, vision.blocks("gelu_pytorch_tanh", 1e-6, 12), has_class=False)


def _siglip_text(config: _Config) -> TextForm:
    text = config.inner("text_config")
    blocks = text.blocks("gelu_pytorch_tanh", 1e-6, 12)
    length = text.whole("max_position_embeddings", 64)
    width = text.whole("projection_size", blocks.width)
    return TextForm(
        blocks,
        tokens=text.whole("vocab_size", 32000),
        pool="last",
        positions=length,
        length=length,
        is_masked=False,
        layers=(Dense(blocks.width, width, True),),
    )


def _dino2_image(config: _Config, images: Preprocessing) -> ImageForm:
    blocks = config.blocks("gelu", 1e-6, 12, layer_scale=True)
    hidden = int(blocks.width * config.get("mlp_ratio", 4.0))
    if config.get("use_swiglu_ffn", False):
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        blocks = dataclasses.replace(blocks, activation="silu", gated=True)
    registers = 0
    if config.get("model_type", "") == "dinov2_with_registers":
        registers = config.get("num_register_tokens", 4)
    return _image_form(config, images, dataclasses.replace(blocks, hidden=hidden), registers=registers)


def _dino3_image(config: _Config, images: Preprocessing) -> ImageForm:
    flags = {"query": True, "key": False, "value": True, "proj": True}
    parts = {"query": "attention.query", "key": "attention.key", "value": "attention.value", "proj": "attention.out"}
    unbiased = [parts[name] for name, default in flags.items() if not config.get(f"{name}_bias", default)]
    if not config.get("mlp_bias", True):
        unbiased += ["mlp.gate", "mlp.in", "mlp.out"]
    blocks = config.blocks(
        "gelu",
        1e-5,
        6,
        layer_scale=True,
        gated=config.get("use_gated_mlp", False),
        unbiased=tuple(unbiased),
    )
    theta, registers = config.get("rope_theta", 100.0), config.get("num_register_tokens", 0)
    return _image_form(config, images, blocks, has_positions=False, rotary=theta, registers=registers)


def _bert_text(config: _Config) -> TextForm:
    for name, right in (("position_embedding_type", "absolute"), ("is_decoder", False)):
        if config.get(name, right) != right:
            raise UserError(f"{config.path}: {name} is not {right!r}; convert the model to a SavedModel or ONNX")
    kind = config.get("model_type", "bert")
    # The row of the first token: behind that of padding.
    first = 0 if kind == "bert" else config.get("pad_token_id", 1) + 1
    return TextForm(
        config.blocks("gelu", 1e-12, 12, post_norm=True),
        tokens=config.whole("vocab_size", 30522),
        pool="mean",
        positions=config.whole("max_position_embeddings", 512),
        first_position=first,
        buckets=config.whole("relative_attention_num_buckets", 32) if kind == "mpnet" else 0,
        first_norm=True,
        last_norm=False,
    )


def _t5_text(config: _Config) -> TextForm:
    feed = config.get("feed_forward_proj", "relu")
    activation = {"relu": "relu", "gated-gelu": "gelu_tanh", "gated-silu": "silu", "gelu": "gelu"}.get(feed)
    if activation is None:
        raise UserError(f"{config.path}: feed_forward_proj is {feed!r}; convert the model to a SavedModel or ONNX")
    heads = config.whole("num_heads", 8)
    everything = (
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.out",
        "mlp.gate",
        "mlp.in",
        "mlp.out",
    )
    blocks = Blocks(
        depth=config.whole("num_layers", 6),
        width=config.whole("d_model", 512),
        heads=heads,
        hidden=config.whole("d_ff", 2048),
        activation=activation,
        epsilon=config.get("layer_norm_epsilon", 1e-6),
        head_width=config.whole("d_kv", 64),
        rms_norm=True,
        gated=feed.startswith("gated-"),
        is_scaled=False,
        unbiased=everything,
    )
    return TextForm(
        blocks,
        tokens=config.whole("vocab_size", 32128),
        pool="mean",
        buckets=config.whole("relative_attention_num_buckets", 32),
        farthest=config.whole("relative_attention_max_distance", 128),
    )


_CLIP = _Family(_clip_image, _clip_text, names.CLIP_IMAGE, names.CLIP_TEXT, names.CLIP_OTHER)
_SIGLIP = dataclasses.replace(_CLIP, image=_siglip_image, text=_siglip_text)
_BERT = _Family(text=_bert_text, text_rules=names.BERT, prefix="bert.")
FAMILIES = {
    "clip": _CLIP,
    "metaclip_2": _CLIP,
    "siglip": _SIGLIP,
    "dinov2": _Family(image=_dino2_image, image_rules=names.DINO2, prefix="dinov2."),
    "dinov2_with_registers": _Family(image=_dino2_image, image_rules=names.DINO2, prefix="dinov2_with_registers."),
    "dinov3_vit": _Family(image=_dino3_image, image_rules=names.DINO3),
    "bert": _BERT,
    "roberta": dataclasses.replace(_BERT, prefix="roberta."),
    "xlm-roberta": dataclasses.replace(_BERT, prefix="roberta."),
    "mpnet": _Family(text=_bert_text, text_rules=names.MPNET, prefix="mpnet."),
    "t5": _Family(text=_t5_text, text_rules=names.T5),
}
"""Families by the `model_type` of their configs."""


def read_form(folder: pathlib.Path, kind: str, images: Preprocessing | None) -> ImageForm | TextForm:
    """Returns the form of a tower; reads configs only.

    Args:
        folder: with config.json, or of sentence-transformers.
        kind: `image` or `text`.
        images: preprocessing of the image tower.

    Raises:
        UserError: if the folder has no such tower, or one that is not known here.
    """
    config, family = _family(folder)
    if kind == "image" and family.image and images:
        return family.image(config, images)
    if kind == "text" and family.text:
        form = family.text(config)
        return sentence.extend(folder, form) if family.image is None else form
    raise UserError(f"{folder}: is a {config.get('model_type', '')} model, which has no tower of {_KINDS[kind]}")


def model_type(folder: pathlib.Path) -> str:
    """Returns the `model_type` of a folder, a key of `FAMILIES`."""
    return str(_family(folder)[0].get("model_type", ""))


def has_both(folder: pathlib.Path) -> bool:
    """Tells whether a folder has towers of images and of texts, whose vectors share a space."""
    family = _family(folder)[1]
    return bool(family.image and family.text)


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns all files of weights; a `UserError` as of `weights.weight_files`."""
    return [*weights.weight_files(sentence.transformer_folder(folder)), *sentence.weight_files(folder)]


def _family(folder: pathlib.Path) -> tuple[_Config, _Family]:
    path = sentence.transformer_folder(folder) / weights.CONFIG
    config = _Config(path, weights.read_object(path, "what model it is"))
    found = config.get("model_type", "")
    if found not in FAMILIES:
        raise UserError(
            f"{path}: model_type is {found!r}, not one of {', '.join(FAMILIES)}; convert the model to a SavedModel or "
            "ONNX (docs/encoders.md)"
        )
    return config, FAMILIES[found]


def read(folder: pathlib.Path, kind: str, images: Preprocessing | None = None) -> Tower:
    """Returns a tower with its weights; the arguments and errors are those of `read_form`."""
    form = read_form(folder, kind, images)
    config, family = _family(folder)
    found = weights.Weights(weights.weight_files(sentence.transformer_folder(folder)))
    theirs = _names(form, family, found, found.where)
    arrays = _arranged(found.read(theirs), form)
    if isinstance(form, TextForm):
        arrays = sentence.with_layers(folder, arrays)
    elif form.has_positions and form.has_class:
        arrays = _fitted(arrays, form, config)
    tower = Tower(form, arrays)
    check(tower, found.where, {ours: name for name, ours in theirs.items()})
    return tower


def of_arrays(form: ImageForm | TextForm, model_type: str, tensors: Mapping[str, np.ndarray], where: str) -> Tower:
    """Returns a tower of arrays under the names of a family; a `UserError` as of `tower.check`."""
    theirs = _names(form, FAMILIES[model_type], tensors, where)
    tower = Tower(form, _arranged({ours: tensors[name].astype(np.float32) for name, ours in theirs.items()}, form))
    check(tower, where, {ours: name for name, ours in theirs.items()})
    return tower


def _names(form: ImageForm | TextForm, family: _Family, found: Iterable[str], where: str) -> dict[str, str]:
    rules, others = family.image_rules, family.text_rules
    if isinstance(form, TextForm):
        rules, others = others, rules
    return names.ours(found, rules, (*others, *family.others), family.prefix, where)


def _arranged(arrays: dict[str, np.ndarray], form: ImageForm | TextForm) -> dict[str, np.ndarray]:
    """Returns arrays in the arrangement of ours: kernels `[C_in, C_out]`, no axes of 1 in front, one array a layer."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name == "patch.kernel" and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif name.endswith(".kernel") and array.ndim == 2:
            array = array.T
        elif name in ("class", "positions", "registers", "pool.probe"):
            array = array.reshape(array.shape[-1] if name in ("class", "pool.probe") else (-1, array.shape[-1]))
        for joined, parts in ((".all.", ("query", "key", "value")), (".both.", ("gate", "in"))):
            if joined in name:
                pieces = np.split(array, len(parts), axis=-1) if array.shape[-1] % len(parts) == 0 else [array]
                found |= {name.replace(joined, f".{part}."): piece for part, piece in zip(parts, pieces, strict=False)}
                break
        else:
            found[name] = array
    return _with_types(found) if isinstance(form, TextForm) else found


def _with_types(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the type of the first segment, of which every token is, to the positions."""
    types = arrays.pop("types", None)
    if types is not None and "positions" in arrays and types.shape[-1] == arrays["positions"].shape[-1]:
        arrays["positions"] = arrays["positions"] + types[0]
    return arrays


def _fitted(arrays: dict[str, np.ndarray], form: ImageForm, config: _Config) -> dict[str, np.ndarray]:
    """Fits the positions of DINOv2 to the size of its images, which is smaller than that of its training."""
    kind = config.get("model_type", "")
    trained = config.get("image_size", form.size) // form.patch
    if kind.startswith("dinov2") and len(arrays.get("positions", ())) == 1 + trained**2:
        arrays["positions"] = positions.resize(arrays["positions"], form.grid, kind == "dinov2_with_registers")
    return arrays
