"""The encoder that fine-tuning continues from: a Vision Transformer, checked against the embedded queries."""

import dataclasses
import re
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from configs.base import Encoders, Finetune
from model.training import vit
from model.training.finetune_trainer import Encoder
from model.training.vit import Params, Vit, VitConfig
from pipelines import manifest
from pipelines.encoders import handles
from pipelines.encoders.towers.npz_files import big_vision
from pipelines.encoders.towers.tower import ImageForm
from pipelines.errors import UserError
from pipelines.images.decode import ImagePreprocess


def read(path: str, dtype: Any = jnp.float32) -> tuple[Vit, Params]:
    """Reads the Vision Transformer of a `.npz` of augreg, big_vision or SigLIP.

    Args:
        path: local, `gs://` or `s3://`.
        dtype: of the matrix products; see `Vit`.

    Returns:
        The module and its parameters, NumPy float32. The position of a class token is part of the token.

    Raises:
        UserError: if the file does not exist, is broken or hostile, or has no such model.
    """
    tower = big_vision.read(path, "image")
    form, arrays = tower.form, dict(tower.arrays)
    assert isinstance(form, ImageForm)
    blocks = form.blocks
    heads = (blocks.heads, blocks.key_width)
    if blocks.heads * blocks.key_width != blocks.width:
        raise UserError(
            f"{path}: cannot be fine-tuned, its {heads[0]} heads of {heads[1]} are not its width, {blocks.width}; take "
            "a ViT of augreg, big_vision or SigLIP"
        )
    if form.has_class:
        first, *rest = np.split(arrays["positions"], [1])
        arrays |= {"class": arrays["class"] + first[0], "positions": rest[0]}

    def shaped(ours: str, array: np.ndarray) -> np.ndarray:
        if re.search(r"attention\.(query|key|value)\.", ours):
            return array.reshape(*array.shape[:-1], *heads)
        if ours.endswith("attention.out.kernel"):
            return array.reshape(*heads, -1)
        if ours in ("class", "pool.probe"):
            return array[None, None]
        return array[None] if ours == "positions" else array

    pool = "cls" if form.has_class else "gap" if form.is_mean else "map"
    config = VitConfig(
        form.patch, blocks.width, blocks.depth, blocks.heads, blocks.hidden, form.grid, pool, bool(form.layers)
    )
    found = {big_vision.NAMES.name(ours): shaped(ours, array) for ours, array in arrays.items()}
    return Vit(config, dtype), flax.traverse_util.unflatten_dict(found, sep="/")


def load(wanted: Encoders, settings: Finetune, folder: str) -> Encoder:
    """Returns the encoder that the config names, with the image size and the training mode of `settings`.

    Args:
        wanted: how queries were embedded.
        settings: of fine-tuning.
        folder: of the embedded training split.

    Raises:
        UserError: if it is no Vision Transformer, did not embed the queries, or cannot have such an image size.
    """
    handle = settings.encoder or wanted.key
    # A SavedModel is not loaded here, so what it could do does not matter.
    spec = handles.resolve(
        handle,
        wanted.dtype,
        wanted.normalize,
        wanted.crop_fraction,
        unsafe_models=True,
        compute=wanted.compute,
        is_run=False,
    )
    path = spec.model.removesuffix("#image")
    if not path.endswith(".npz"):
        raise UserError(
            f"--config.encoders.key={handle}: cannot be fine-tuned; embed with the .npz of a Vision Transformer"
        )
    made = manifest.Embeddings(folder).encoder("key")
    if spec.info != made:
        raise UserError(
            f"{folder}: was embedded by another encoder than {handle} ({made.fingerprint}, not "
            f"{spec.info.fingerprint}); name it as --config.finetune.encoder"
        )
    model, params = read(path, jnp.dtype(settings.dtype))
    model = model.copy(
        stochastic_depth=settings.stochastic_depth, remat=settings.remat, adapter_dim=settings.adapter_dim
    )
    preprocess = ImagePreprocess(**spec.description["preprocess"])
    if settings.image_size:
        if settings.image_size < model.config.patch:
            raise UserError(
                f"--config.finetune.image_size={settings.image_size}: must hold a patch of {model.config.patch} pixels"
            )
        preprocess = dataclasses.replace(preprocess, size=settings.image_size)
        model, params = vit.resize_grid(model, params, settings.image_size // model.config.patch)
    return Encoder(model, params, preprocess, made.normalized)
