"""How close a training step comes to the limits of the machine, and what its parts cost.

    python -m benchmarks.train                                                      # some minutes; needs 10 GB
    python -m benchmarks.train --batch=16 --k=5 --dim=32 --rows=300 --classes=7     # seconds

The default is two layers of 8 attention heads with projections and values as wide as the queries, and a feed-forward
network of twice that width. `floor_over_step`: time of a matrix product with the same FLOPs (the faster of NumPy's and
XLA's) over that of a step that gathers its neighbours from a table larger than any cache. FLOPs are counted by formula.
`limit_over_step`: the same, with the time to read the rows of a step added to the floor: keys and values, forward and
backward, in each layer. Steps of all kinds run in turn, and their medians are compared. `peak_memory_over_needed`: the
peak memory of a process that loads neighbour lists and trains, without that after the imports, over the size of keys,
values, parameters and optimiser state.
The last line is one JSON object.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from configs.base import Train
from model.data.batch import Batch, Output, masked_softmax, standardize
from model.data.datasets import Split, Task
from model.data.tables import Tables, load, standardized
from model.data.vectors import Column, Vectors
from model.heads.attention.pooling import SLICE_QUERIES
from model.training.trainer import Setting, State, Trainer
from pipelines import manifest, schemas, storage

SETTING = Setting(1e-3, 0.01, 0.0)
_FIELDS = ("batch", "k", "dim", "layers", "heads", "feed_forward", "classes", "rows", "repeats", "product")


def train_config(args: argparse.Namespace, steps: int = 1) -> Train:
    """Returns the shapes as the trainer's configuration; one call of it runs `steps` steps."""
    return Train(
        loss="cross_entropy",
        values=("text",),
        layers=args.layers,
        attention_heads=args.heads,
        attention_dim=args.dim // args.heads,
        value_dim=args.dim,
        # Random images have no classes that values could start at.
        value_scale=0.0,
        # What is compared with the definition of a layer drops no neighbour.
        neighbor_dropout=0.0,
        feed_forward=args.feed_forward or 2 * args.dim,
        batch_size=args.batch,
        steps=1000,
        warmup_share=0.0,
        checkpoint_every=steps,
    )


def flops(batch: int, k: int, dim: int, classes: int, train: Train, naive: bool = False) -> float:
    """Returns the FLOPs of the matrix products of a step, forward and backward."""
    width = train.attention_heads * train.attention_dim
    own, table = 2 * batch * dim, 2 * batch * k * dim
    # Forward, gradient of the input, gradient of the weights.
    layer = 3 * own * (width + train.value_dim + 2 * train.feed_forward)
    if naive:
        # Neighbours are constants: no gradient of the input; then the products of the projections, forward and back.
        layer += 2 * table * (width + train.value_dim) + 3 * 2 * batch * k * (width + train.value_dim)
    else:
        layer += 3 * own * (width + train.value_dim) + 4 * table * train.attention_heads
    return train.layers * layer - own * width + 3 * own * classes


def random_split(args: argparse.Namespace, k: int, queries: int) -> tuple[Split, np.ndarray]:
    """Returns random queries float32 `[queries, dim]` whose lists name random rows, and the images of each class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(args.classes, size=queries).astype(np.int32)
    split = Split(
        ids=np.arange(queries),
        queries=rng.standard_normal((queries, args.dim), np.float32),
        labels=labels,
        neighbors=rng.integers(args.rows, size=(queries, k)).astype(np.int32),
        scores=rng.uniform(0.2, 0.9, (queries, k)).astype(np.float32),
        mask=np.ones((queries, k), bool),
    )
    return split, np.bincount(labels, minlength=args.classes) + 1


def random_tables(args: argparse.Namespace, k: int) -> tuple[Task, Tables]:
    """Returns a task of two batches of random queries, without its memory, and its tables."""
    split, counts = random_split(args, k, 2 * args.batch)
    rng = np.random.default_rng(1)

    def table(rows: int) -> jax.Array:
        return standardized(rng.standard_normal((rows, args.dim), np.float32), "float32")

    tables = Tables(
        jax.jit(standardize)(jnp.asarray(split.queries)),
        *map(jnp.asarray, (split.labels, split.neighbors, split.scores, split.mask)),
        table(args.rows),
        {"text": table(args.rows)},
        {},
    )
    return task_of(args, split, counts, np.zeros((0, 0), np.float32), {}), tables


def task_of(
    args: argparse.Namespace, split: Split, counts: np.ndarray, keys: Vectors, values: dict[str, Vectors]
) -> Task:
    """Returns a task with one split and classes without names."""
    return Task({"train": split}, np.arange(args.rows), keys, values, counts, [""] * args.classes, {}, f"{args.rows}")


class Ready(NamedTuple):
    """In place of `Tables`: a batch that was gathered before."""

    queries: jax.Array
    labels: jax.Array
    batch: Batch

    def gather(self, rows: jax.Array, head: str = "", k: int = 0, similarity: str = "cosine") -> Batch:
        """Returns the batch, or its first queries."""
        return jax.tree.map(lambda x: x[: len(rows)], self.batch)

    def parts(self, rows: np.ndarray, count: int, memory: bool) -> Iterator[tuple[Any, np.ndarray, int]]:
        """See `model.data.tables.Source`."""
        yield self, rows, count

    def rates(self) -> dict[str, float]:
        """See `model.data.tables.Source`."""
        return {}


class Naive:
    """The same head by its definition: every neighbour is projected."""

    def __init__(self, train: Train) -> None:
        """Keeps the shapes."""
        self._train = train

    def apply(self, variables: Any, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """See `model.heads.attention.retrieval.Retrieval`."""
        z, params = batch.queries, variables["params"]
        for number in range(self._train.layers):
            layer = params[f"MemoryAttention_{number}"]
            query = jnp.einsum("bd,dha->bha", standardize(z), layer["query"])
            key = jnp.einsum("bkd,dha->bkha", batch.keys, layer["key"])
            logits = jnp.einsum("bha,bkha->bhk", query, key) / jnp.sqrt(key.shape[-1])
            logits += self._train.similarity_scale * jnp.exp(30 * layer["scale"])[:, None] * batch.scores[:, None]
            weights = masked_softmax(logits, batch.mask[:, None])
            for kind, value in batch.values.items():
                projected = jnp.einsum("bkv,hvd->bkhd", value, layer[f"project_{kind}"])
                pooled = jnp.einsum("bhk,bkhd->bhd", weights, projected).reshape(len(z), -1)
                z = z + pooled @ layer[f"output_{kind}"]["kernel"] + layer[f"output_{kind}"]["bias"]
            hidden = jax.nn.gelu(standardize(z) @ layer["expand"]["kernel"] + layer["expand"]["bias"])
            z = z + hidden @ layer["contract"]["kernel"] + layer["contract"]["bias"]
        classifier, features = params["Linear_0"]["classifier"], standardize(z)
        return Output(features @ classifier["kernel"] + classifier["bias"], features, weights.mean(1))


def perturbed(state: State) -> State:
    """Returns a state whose parameters are all random, so that none has a gradient of zero."""
    rng = np.random.default_rng(1)

    def noise(x: jax.Array) -> jax.Array:
        return x + jnp.asarray(0.02 * rng.standard_normal(x.shape), x.dtype)

    return state._replace(params=jax.tree.map(noise, state.params))


def copied(state: State) -> State:
    """Returns a copy, since a step takes the memory of its state."""
    return jax.tree.map(jnp.copy, state)


def reader(tables: Tables, rows: int) -> Callable[[], None]:
    """Returns a function that reads the keys of the neighbours of the first `rows` queries and adds them up."""

    @jax.jit
    def read(keys: jax.Array, neighbors: jax.Array) -> jax.Array:
        return jax.lax.map(lambda places: keys[places].sum(0), neighbors, batch_size=SLICE_QUERIES)

    return lambda: read(tables.keys, tables.neighbors[:rows]).block_until_ready()


def differences(left: State, right: State, losses: tuple[float, float]) -> dict[str, float]:
    """Returns how far two first steps are apart: of the loss, and of the gradients that Adam saw."""
    flat = [np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(s.opt_state[1].mu)]) for s in (left, right)]
    gap = np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])
    return {"loss_difference": abs(losses[0] / losses[1] - 1), "gradient_difference": float(gap)}


def in_turn(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Returns the median seconds of each, called one after the other, without the first round."""
    secs: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            secs[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[1:]) for name, values in secs.items()}


def stepper(trainer: Trainer, state: State) -> Callable[[], None]:
    """Returns a function that runs one step and waits for it."""
    kept = [copied(state)]

    def step() -> None:
        kept[0], _ = trainer.steps(kept[0], 0, int(kept[0].step) + 1, SETTING)
        jax.block_until_ready(kept[0])

    return step


def rates(args: argparse.Namespace) -> dict[str, float]:
    """Returns the ratios of one process on one device."""
    train = train_config(args)
    task, tables = random_tables(args, args.k)
    ours = Trainer("mam", task, {"train": tables}, train)
    naive = Trainer("mam", task, {"train": tables}, train)
    naive.head = Naive(train)
    state = perturbed(ours.start(0))
    compared = {t: t.steps(copied(state), 0, 1, SETTING) for t in (ours, naive)}
    apart = differences(compared[ours][0], compared[naive][0], (compared[ours][1][0], compared[naive][1][0]))

    first = tables.gather(jnp.arange(args.batch))._replace(key_rows=None, value_rows=None)
    labels = np.asarray(tables.labels[: args.batch])
    ready_split = dataclasses.replace(task.splits["train"], labels=labels)
    ready_task = dataclasses.replace(task, splits={"train": ready_split})
    ready = Trainer("mam", ready_task, {"train": Ready(first.queries, tables.labels[: args.batch], first)}, train)
    task2, longer = random_tables(args, 2 * args.k)
    longer = longer._replace(keys=tables.keys, values=tables.values)
    twice = Trainer("mam", task2, {"train": longer}, train)

    square = np.random.default_rng(2).standard_normal((args.product, args.product), np.float32)
    product = np.empty_like(square)
    on_device, multiply = jnp.asarray(square), jax.jit(jnp.matmul)
    secs = in_turn(
        {
            "numpy": lambda: np.matmul(square, square, out=product),
            "xla": lambda: multiply(on_device, on_device).block_until_ready(),
            "read": reader(tables, args.batch),
            "step": stepper(ours, state),
            "ready": stepper(ready, state),
            "naive": stepper(naive, state),
            "k200": stepper(twice, state),
        },
        args.repeats,
    )
    count = {
        kind: flops(args.batch, args.k, args.dim, args.classes, train, kind == "naive") for kind in ("ours", "naive")
    }
    floor = min(secs["numpy"], secs["xla"]) * count["ours"] / (2 * args.product**3)
    row_bytes = 4 * args.batch * args.k * args.dim
    return {
        "floor_over_step": floor / secs["step"],
        "limit_over_step": (floor + 4 * args.layers * secs["read"]) / secs["step"],
        "naive_over_step": secs["naive"] / secs["step"],
        **apart,
        "step_with_gather": secs["ready"] / secs["step"],
        "floor_over_ready": floor / secs["ready"],
        "k200_over_k100": secs["k200"] / secs["step"],
        "step_ms": 1000 * secs["step"],
        "ready_ms": 1000 * secs["ready"],
        "naive_ms": 1000 * secs["naive"],
        "floor_ms": 1000 * floor,
        "read_ms": 4000 * args.layers * secs["read"],
        "product_gflops": 2e-9 * args.product**3 / min(secs["numpy"], secs["xla"]),
        "gflop": 1e-9 * count["ours"],
        "naive_gflop": 1e-9 * count["naive"],
        # Keys and values are each read forward and backward in every layer.
        "gathered_gb": 1e-9 * 4 * args.layers * row_bytes,
    }


def curve(args: argparse.Namespace) -> list[float]:
    """Returns the losses of the first steps on all devices of this process."""
    from model.data import parallel

    task, tables = random_tables(args, args.k)
    trainer = Trainer("mam", task, {"train": parallel.replicate(tables)}, train_config(args, 8))
    return trainer.steps(trainer.start(0), 0, 8, SETTING)[1].tolist()


def write_memory(folder: str, args: argparse.Namespace) -> None:
    """Writes neighbour lists with a memory of random rows and no queries, a chunk at a time."""
    info = {"fingerprint": "random", "dim": args.dim, "normalized": False, "dtype": "float32"}
    encoders = {"key": info, "value_text": info}
    identity = {"k": args.k, "encoders": encoders, "queries": {}}
    config_hash = manifest.claim(folder, "index.neighbors", identity)
    full = schemas.embeddings({name: args.dim for name in encoders})
    schema = pa.schema([full.field(name) for name in encoders])
    rng = np.random.default_rng(0)
    with schemas.writer(f"{folder}/memory.parquet", schema, {"config_hash": config_hash}) as parquet:
        for first in range(0, args.rows, schemas.ROW_GROUP_ROWS):
            shape = (min(schemas.ROW_GROUP_ROWS, args.rows - first), args.dim)
            columns = [schemas.fixed_list(rng.standard_normal(shape, np.float32), field) for field in schema]
            parquet.write_table(pa.table(columns, schema=parquet.schema))
    files = {"memory": [{"name": "memory.parquet", "rows": args.rows}]}
    whole = {"config_hash": config_hash, "fingerprint": "random", "files": files}
    storage.write_json(f"{folder}/{manifest.COMPLETE_FILE}", whole)


def _peak_bytes() -> int:
    """Returns the most memory that this process has held; what a parent held is not counted, as `getrusage` would."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def memory(args: argparse.Namespace) -> dict[str, float]:
    """Returns what loading the memory in `args.folder` and three steps need, against what must be held."""
    jax.block_until_ready(jnp.zeros(1))
    imported = _peak_bytes()
    lists = manifest.Neighbors.open(args.folder)
    split, counts = random_split(args, args.k, 2 * args.batch)
    task = task_of(args, split, counts, Column(lists, "key"), {"text": Column(lists, "value_text")})
    data = load(task)
    loaded = _peak_bytes()
    trainer = Trainer("mam", task, data, train_config(args))
    state, _ = trainer.steps(trainer.start(0), 0, 3, SETTING)
    held = (data["train"].keys, data["train"].values, state.params, state.opt_state)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(held))
    return {
        "peak_memory_over_needed": (_peak_bytes() - imported) / needed,
        "loading_over_needed": (loaded - imported) / needed,
        "needed_mb": 1e-6 * needed,
    }


def _elsewhere(args: argparse.Namespace, part: str, devices: int = 1, folder: str = "") -> Any:
    """Runs a part in a process of its own."""
    flags = [*(f"--{name}={getattr(args, name)}" for name in _FIELDS), f"--folder={folder}"]
    xla = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", f"--part={part}", *flags],
        env=os.environ | {"XLA_FLAGS": xla},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def shape_parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser of the shapes of a step."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--feed_forward", type=int, default=0, help="hidden width; 0 for twice the queries'")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=200_000, help="of the memory")
    return parser


def print_figures(figures: dict[str, float]) -> None:
    """Prints the last line."""
    print(json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}))


def main() -> int:
    """Runs the benchmark."""
    parser = shape_parser(str(__doc__).splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--product", type=int, default=2048, help="side of the matrix product")
    parser.add_argument("--part", choices=("all", "rates", "curve", "memory"), default="all")
    parser.add_argument("--folder", default="", help="of the memory that is loaded by the part `memory`; made if empty")
    args = parser.parse_args()
    if args.part == "curve":
        print(json.dumps(curve(args)))
        return 0
    if args.part == "memory" and args.folder:
        print(json.dumps(memory(args)))
        return 0
    result = {} if args.part == "memory" else rates(args)
    if args.part in ("all", "memory"):
        with tempfile.TemporaryDirectory() as folder:
            write_memory(folder, args)
            result |= _elsewhere(args, "memory", folder=folder)
    if args.part == "all":
        one, eight = (np.array(_elsewhere(args, "curve", devices)) for devices in (1, 8))
        result["devices8_difference"] = float(np.abs(eight / one - 1).max())
    print_figures(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
