"""The encoder that fine-tuning continues from: a Vision Transformer, checked against the embedded queries."""

import dataclasses

import jax.numpy as jnp

from configs.base import Encoders, Finetune
from model.training.finetune_trainer import Encoder
from pipelines import manifest
from pipelines.encoders import handles, vit, vit_checkpoint
from pipelines.errors import UserError
from pipelines.images.decode import ImagePreprocess


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
        handle, wanted.dtype, wanted.normalize, wanted.crop_fraction, unsafe_models=True, compute=wanted.compute
    )
    if not spec.model.endswith(".npz"):
        raise UserError(
            f"--config.encoders.key={handle}: cannot be fine-tuned; embed with the .npz of a Vision Transformer"
        )
    made = manifest.Embeddings(folder).encoder("key")
    if spec.info != made:
        raise UserError(
            f"{folder}: was embedded by another encoder than {handle} ({made.fingerprint}, not "
            f"{spec.info.fingerprint}); name it as --config.finetune.encoder"
        )
    model, params = vit_checkpoint.load(spec.model, jnp.dtype(settings.dtype))
    model = model.copy(stochastic_depth=settings.stochastic_depth, remat=settings.remat)
    preprocess = ImagePreprocess(**spec.description["preprocess"])
    if settings.image_size:
        if settings.image_size < model.config.patch:
            raise UserError(
                f"--config.finetune.image_size={settings.image_size}: must hold a patch of {model.config.patch} pixels"
            )
        preprocess = dataclasses.replace(preprocess, size=settings.image_size)
        model, params = vit.resize_grid(model, params, settings.image_size // model.config.patch)
    return Encoder(model, params, preprocess, made.normalized)
