"""Compares a Vision Transformer as the SavedModel that embeds with the same weights in Flax, and with bfloat16.

    python benchmarks/encoders.py
    python benchmarks/encoders.py --onnx=vit_b16.onnx     # against onnxruntime, too

Shape B/16 at 224 pixels, of random weights, since time does not depend on them. An ONNX file is one that another
program exported of a model of that shape; its one input is float32 `[B, 3, 224, 224]`. Each way runs in a process of
its own, with one thread, and they take turns; a rate is images per second of that process's processor time. The last
line is a JSON object.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from benchmarks.children import Child

_REPEATS, _CALLS, _BATCH, _SIZE = 5, 3, 16, 224
_WEIGHTS = "b16.npz"


def _write_weights(path: pathlib.Path) -> None:
    """Writes the weights of a ViT-B/16, named as big_vision names them."""
    import flax.traverse_util
    import jax

    from model.training.vit import Vit, VitConfig

    config = VitConfig(patch=16, width=768, depth=12, heads=12, mlp_dim=3072, grid=14, pool="cls", pre_logits=False)
    params = jax.jit(Vit(config).init)(jax.random.key(0), np.zeros((1, _SIZE, _SIZE, 3), np.float32))["params"]
    np.savez(path, **flax.traverse_util.flatten_dict(params, sep="/"))


def _tower(path: str, compute: str) -> Callable[[np.ndarray], np.ndarray]:
    from pipelines.encoders.handles import resolve
    from pipelines.encoders.loaded import ImageEncoder
    from pipelines.encoders.process import one_thread_a_call

    one_thread_a_call(1)
    encoder = ImageEncoder(resolve(path, "float32", compute=compute))
    return lambda pixels: encoder.encode(list(pixels), len(pixels))


def _flax(path: str) -> Callable[[np.ndarray], np.ndarray]:
    import jax

    from model.training import query_encoder, vit
    from pipelines.encoders.loaded import unit

    model, params = query_encoder.read(path)
    embed = jax.jit(lambda params, pixels: model.apply({"params": params}, vit.scale_pixels(pixels)))
    return lambda pixels: unit(np.asarray(embed(params, pixels)))


def _onnx(path: str) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def encode(pixels: np.ndarray) -> np.ndarray:
        scaled = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1)
        return session.run(None, {name: scaled})[0]

    return encode


def _child(way: str, path: str) -> None:
    """Embeds for each line on standard input; answers with images per CPU-second, and with the vectors' file once."""
    ways = {
        "float32": lambda: _tower(path, "float32"),
        "bfloat16": lambda: _tower(path, "bfloat16"),
        "flax": lambda: _flax(path),
        "onnxruntime": lambda: _onnx(path),
    }
    encode = ways[way]()
    pixels = np.random.default_rng(0).integers(0, 256, (_BATCH, _SIZE, _SIZE, 3), np.uint8)
    np.save(f"{path}.{way}.npy", encode(pixels))
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.process_time()
        for _ in range(_CALLS):
            encode(pixels)
        print(_CALLS * _BATCH / (time.process_time() - begin), flush=True)


def _start(way: str, path: str) -> Child:
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = {**os.environ, "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"}
    child = Child([sys.executable, __file__, "--child", way, path], environment)
    if child.line() != "ready":
        raise SystemExit(f"{way} did not start; its error is above")
    return child


def _has_bfloat16() -> bool:
    from pipelines.encoders.process import check_compute
    from pipelines.errors import UserError

    try:
        check_compute("bfloat16")
    except UserError as error:
        print(f"without bfloat16: {error}")
        return False
    return True


def _measure(weights: str, onnx: str) -> dict[str, object]:
    paths = {"float32": weights, "flax": weights}
    paths |= {"bfloat16": weights} if _has_bfloat16() else {}
    paths |= {"onnxruntime": onnx} if onnx else {}
    ways = {way: _start(way, path) for way, path in paths.items()}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(_REPEATS):
        for way, running in ways.items():
            rates[way].append(running.rate())
        shown = ", ".join(f"{way} {values[-1]:.2f}" for way, values in rates.items())
        print(f"{repeat + 1} of {_REPEATS}: {shown} images per CPU-second", flush=True)
    for running in ways.values():
        running.close()
    vectors = {way: np.load(f"{weights}.{way}.npy") for way in ways if way != "onnxruntime"}
    result: dict[str, object] = {f"{way}_per_cpu_sec": round(statistics.median(v), 2) for way, v in rates.items()}
    for way in ways.keys() - {"float32"}:
        pairs = zip(rates["float32"], rates[way], strict=True)
        result[f"float32_over_{way}"] = round(statistics.median(a / b for a, b in pairs), 3)
    for way in vectors.keys() - {"float32"}:
        cosines = (vectors["float32"] * vectors[way]).sum(-1)
        result[f"least_cosine_to_{way}"] = round(float(cosines.min()), 6)
    return {**result, "batch": _BATCH, "repeats": _REPEATS}


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--onnx", default="", help="an export of the same shape, to run in onnxruntime, too")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        weights = pathlib.Path(folder) / _WEIGHTS
        _write_weights(weights)
        print(json.dumps(_measure(str(weights), arguments.onnx)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
