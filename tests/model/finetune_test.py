"""Fine-tuning on real photographs, over the whole line: embed, index, look up, train, fine-tune."""

import copy
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Config
from index import build, neighbors
from model import finetune, train
from model.data import datasets, tables
from model.data.input_pipeline import Images, Window
from model.reports import runs
from model.training import preparation, query_encoder, run_files, train_loop, vit
from model.training.finetune_trainer import FinetuneSetting, FinetuneTrainer
from model.training.hyperparameters import with_fields
from pipelines import embed, options, schemas, storage
from pipelines.manifest import Neighbors
from pipelines.sources.pictures import Pictures
from tests.model import photos


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    """The world after the frozen runs."""
    root = tmp_path_factory.mktemp("photos")
    argv = [f"--config={photos.write(root)}"]
    for stage in (embed, build, neighbors):
        assert stage.main([*argv, "--runner=FnApiRunner"]) == 0
    assert train.main(argv) == 0
    return root


@pytest.fixture
def world(trained, tmp_path) -> pathlib.Path:
    """The trained world with frozen runs of its own, at a work folder of its own."""
    shutil.copytree(trained / "out/runs", tmp_path / "out/runs")
    for name in ("queries", "memory", "index", "neighbors"):
        (tmp_path / "out" / name).symlink_to(trained / "out" / name)
    (tmp_path / "config.py").write_text((trained / "config.py").read_text())
    return tmp_path


def _argv(world: pathlib.Path, **changes: object) -> list[str]:
    flags = {"workdir": world / "out"} | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--config={world}/config.py", *(f"--config.{name}={value}" for name, value in flags.items())]


@functools.cache
def _trainer(world: pathlib.Path, **changes: object) -> FinetuneTrainer:
    """Returns the trainer of a world; tests with the same settings share what is compiled."""
    config = options.parse(_argv(world, **changes), "")[0]
    places = config.places
    task = preparation.prepare(datasets.load(places, config.train), config.train)
    folder, _ = run_files.identity(places, config.seed, config.train, task.fingerprint)
    encoder = query_encoder.load(config.encoders, config.finetune, places.queries("train"))

    def images(split, augment):
        read, limit = Pictures(config.queries[split], places.data, config.embed).read, config.embed.max_image_pixels
        return Images(places.queries(split), read, limit, encoder.preprocess, augment)

    return FinetuneTrainer(
        with_fields(config.train, run_files.chosen(folder, config.finetune.head)["point"]),
        config.finetune,
        task,
        tables.load(task),
        encoder,
        images,
        lambda seed: f"{folder}/{config.finetune.head}/seed-{seed}",
        lambda step: None,
    )


def _runs(world: pathlib.Path) -> pathlib.Path:
    (folder,) = (world / "out/runs").glob("*/finetune/*")
    return folder


def _bytes(world: pathlib.Path) -> dict[str, str]:
    folder = _runs(world)
    files = [*folder.rglob("predictions.parquet"), *folder.rglob("metrics.jsonl")]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _moved(before: dict, after: dict) -> float:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return float(np.sqrt(sum(np.square(np.asarray(a) - np.asarray(b)).sum() for a, b in pairs)))


def _load_runs(config: Config) -> runs.Runs:
    lists = Neighbors.open(config.places.neighbors)
    frozen = run_files.identity(config.places, config.seed, config.train, lists.fingerprint)
    return runs.load(frozen, config.train, config.finetune, lists)


SETTING = FinetuneSetting(0.003, 0.1, 0.0, 0.1)


@pytest.mark.slow
def test_the_encoder_starts_where_the_embeddings_are(trained):
    trainer = _trainer(trained)
    params = trainer.start(0).params
    for split in ("train", "val", "test"):
        frozen = trainer.data[split].queries
        images = finetune_images(trainer, split)
        queries = trainer.encoder.standardized(params["encoder"], jnp.asarray(images), None)["queries"]
        np.testing.assert_allclose(queries, frozen, atol=2e-5)


def finetune_images(trainer: FinetuneTrainer, split: str) -> np.ndarray:
    """Returns all pixels of a split in the order of its rows."""
    images = trainer.images(split, None)
    return np.stack([images.load(row, np.random.default_rng(0)) for row in range(len(images))])


def test_before_the_first_step_predictions_are_those_of_the_frozen_run(trained):
    trainer = _trainer(trained)
    scores, weights = trainer.predict(trainer.start(0).params, "test")
    (path,) = (trained / "out/runs").glob("*/mam/seed-0/predictions.parquet")
    table = schemas.read(str(path), ["predicted", "attention"])
    np.testing.assert_array_equal(scores.argmax(-1), table["predicted"].to_numpy())
    np.testing.assert_allclose(weights, schemas.to_matrix(table["attention"]), atol=1e-4)


@pytest.mark.slow
def test_training_on_lowers_the_loss_and_moves_the_encoder_by_the_smaller_rate(trained):
    trainer = _trainer(trained, finetune__min_area=1.0, finetune__flip="false", finetune__steps=30)
    state = trainer.start(0)
    before = jax.tree.map(np.asarray, state.params)
    losses = []
    for end in (10, 20, 30):
        state, step_losses = trainer.steps(state, 0, end, SETTING)
        losses.append(step_losses.mean())
    assert losses[2] < losses[1] < losses[0]
    accuracy = [trainer.accuracy(params, "train")["all"] for params in (before, state.params)]
    assert accuracy[1] > accuracy[0]
    moved = {part: _moved(before[part], state.params[part]) for part in ("head", "encoder")}
    assert 0 < moved["encoder"] < moved["head"]


def test_one_step_of_adam_moves_each_entry_by_its_rate(trained):
    """In the first step Adam's update is the sign of the gradient, whatever the scale."""
    trainer = _trainer(trained, finetune__warmup_share=0.0)
    state = trainer.start(0)
    before = jax.tree.map(np.asarray, state.params)
    state, _ = trainer.steps(state, 0, 1, FinetuneSetting(0.002, 0.0, 0.0, 0.05))
    trainer.close()
    for part, rate in (("head", 0.002), ("encoder", 0.0001)):
        changes = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)), before[part], state.params[part])
        largest = max(float(leaf.max()) for leaf in jax.tree.leaves(changes))
        np.testing.assert_allclose(largest, rate, rtol=2e-2)


@pytest.mark.slow
def test_adapters_start_as_nothing_and_alone_are_trained(trained):
    plain = _trainer(trained)
    trainer = _trainer(trained, finetune__adapter_dim=4)
    state = trainer.start(0)
    before = jax.tree.map(np.asarray, state.params)
    whole = {**before, "encoder": jax.tree.map(np.asarray, plain.start(0).params["encoder"])}
    np.testing.assert_array_equal(trainer.predict(before, "test")[0], plain.predict(whole, "test")[0])
    # The weights below the last layer of an adapter have no gradient as long as that is zero.
    state, _ = trainer.steps(state, 0, 3, FinetuneSetting(0.003, 0.1, 0.0, 1.0))
    trainer.close()
    moved = jax.tree_util.tree_map_with_path(
        lambda path, a, b: (vit.is_of_adapter(path), bool((a != np.asarray(b)).any())), before, state.params
    )
    encoder = jax.tree.leaves(moved["encoder"], is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert {of for of, has_moved in encoder if has_moved} == {True}
    assert sum(of for of, _ in encoder) == 7 * photos.VIT.depth and sum(m for _, m in encoder) > 5 * photos.VIT.depth
    assert _moved(before["head"], state.params["head"]) > 0


def test_predictions_of_windows_are_averaged(trained):
    trainer, one = _trainer(trained, finetune__test_margin=6), copy.copy(_trainer(trained))
    params, found = trainer.start(0).params, []
    for number in range(5):
        one.images = lambda split, _, number=number: trainer.images(split, Window(number, 6))
        found.append(one.predict(params, "test"))
    scores, weights = trainer.predict(params, "test")
    np.testing.assert_allclose(scores, np.mean([each[0] for each in found], axis=0), atol=1e-5)
    np.testing.assert_allclose(weights, np.mean([each[1] for each in found], axis=0), atol=1e-5)
    assert np.abs(found[0][0] - found[3][0]).max() > 1e-3


@pytest.mark.slow
def test_ratio_0_leaves_the_encoder_bit_for_bit(trained):
    trainer = _trainer(trained)
    state = trainer.start(0)
    before = jax.tree.map(np.asarray, state.params)
    state, _ = trainer.steps(state, 0, 6, FinetuneSetting(0.003, 0.1, 0.0, 0.0))
    trainer.close()
    assert _moved(before["head"], state.params["head"]) > 0
    jax.tree.map(np.testing.assert_array_equal, before["encoder"], jax.tree.map(np.asarray, state.params["encoder"]))


@pytest.mark.slow
def test_gradients_of_the_encoder_are_those_of_finite_differences(trained):
    trainer = _trainer(trained)
    params = trainer.start(0).params
    images = jnp.asarray(finetune_images(trainer, "train")[:16])
    rows = jnp.arange(16)
    batch, labels = trainer.data["train"].gather(rows), trainer.data["train"].labels[rows]

    def loss(encoder):
        queries = trainer.encoder.standardized(encoder, images, None)["queries"]
        output = trainer.head.apply({"params": params["head"]}, batch._replace(queries=queries), 0.0, None)
        return trainer.objective.of_logits(output.logits, labels)

    gradients = jax.grad(loss)(params["encoder"])
    rng = np.random.default_rng(0)
    for path in (
        ("embedding", "kernel"),
        ("pos_embedding",),
        ("Transformer", "encoderblock_1", "MultiHeadDotProductAttention_0", "query", "kernel"),
        ("Transformer", "encoderblock_0", "MlpBlock_0", "Dense_1", "bias"),
    ):
        leaf, gradient = params["encoder"], gradients
        for name in path:
            leaf, gradient = leaf[name], gradient[name]
        direction = rng.normal(size=leaf.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)

        def moved(step, path=path, direction=direction):
            def walk(tree, rest):
                return tree + step * direction if not rest else {**tree, rest[0]: walk(tree[rest[0]], rest[1:])}

            return float(loss(walk(params["encoder"], path)))

        step = 3e-2
        # Richardson: the error of central differences of two steps cancels to the fourth order.
        coarse, fine = ((moved(h) - moved(-h)) / (2 * h) for h in (step, step / 2))
        expected = (4 * fine - coarse) / 3
        np.testing.assert_allclose(float((gradient * direction).sum()), expected, rtol=2e-2, atol=2e-4)


@pytest.mark.slow
def test_the_command_writes_what_a_frozen_run_writes(world, capsys):
    assert finetune.main(_argv(world)) == 0
    folder = _runs(world)
    assert re.fullmatch("mam-[0-9a-f]{8}", folder.name)
    result = storage.read_json(f"{folder}/seed-0/result.json")
    assert result["head"] == "mam + FT" and result["split"] == "test" and result["setting"]["encoder_ratio"] == 0.1
    table = schemas.read(f"{folder}/seed-0/predictions.parquet", ["label", "predicted", "attention"])
    assert result["accuracy"]["all"] == np.mean(table["label"].to_numpy() == table["predicted"].to_numpy())
    np.testing.assert_allclose(schemas.to_matrix(table["attention"]).sum(-1), 1, rtol=1e-5)
    lines = [json.loads(line) for line in (folder / "seed-0/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12]
    assert not list(folder.glob("trial-*"))
    assert "of the encoder 0.1 times that" in capsys.readouterr().out
    config = options.parse(_argv(world), "")[0]
    found = _load_runs(config)
    assert found.heads == ["linear", "mam", "mam + FT"]
    assert found.of("mam + FT")[0].result == result
    # Runs of other settings are not shown as these.
    other = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, steps=13))
    assert _load_runs(other).heads == ["linear", "mam"]
    frozen = run_files.identity(
        config.places, config.seed, config.train, Neighbors.open(config.places.neighbors).fingerprint
    )
    named = [run_files.finetune_identity(frozen, config.train.seeds, each.finetune) for each in (config, other)]
    assert run_files.of_other_settings(named[0]) == [] and run_files.of_other_settings(named[1]) == [str(folder)]
    # They have a folder of their own.
    foreseen = finetune.foresee(other)
    assert foreseen["output"] == named[1].folder != named[0].folder


@pytest.mark.slow
def test_several_settings_are_judged_on_val(world):
    assert finetune.main(_argv(world, finetune__encoder_ratios="0,0.3", finetune__steps=6)) == 0
    folder = _runs(world)
    trials = [storage.read_json(f"{folder}/trial-{number}/result.json") for number in range(2)]
    assert [trial["split"] for trial in trials] == ["val", "val"]
    best = max(trials, key=lambda trial: trial["accuracy"]["all"])
    assert storage.read_json(f"{folder}/seed-0/result.json")["setting"] == best["setting"]
    assert not list(folder.glob("trial-*/predictions.parquet"))


class _Stop(BaseException):
    pass


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_bits(world):
    results = []
    for name, stops in (("whole", False), ("halved", True)):
        folder = str(world / name)

        def stop(step, stops=stops):
            if stops and step == 6:
                raise _Stop

        if stops:
            with pytest.raises(_Stop):
                train_loop.run(_trainer(world), folder, SETTING, 0, "test", "h", stop)
        train_loop.run(_trainer(world), folder, SETTING, 0, "test", "h", lambda _: None)
        results.append([pathlib.Path(folder, f).read_bytes() for f in ("predictions.parquet", "metrics.jsonl")])
    assert results[0] == results[1]


@pytest.mark.slow
def test_workers_and_sigkill_change_no_byte(trained, world, tmp_path):
    assert finetune.main(_argv(world, finetune__workers=1)) == 0
    expected = _bytes(world)
    shutil.rmtree(_runs(world))
    argv = [sys.executable, "-m", "model.finetune", *_argv(world, finetune__workers=2)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=os.getcwd())
    deadline = time.monotonic() + 240
    while process.poll() is None and not list(world.glob("out/runs/*/finetune/mam-*/seed-0/checkpoints/6")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (_runs(world) / "seed-0/result.json").exists()
    assert subprocess.run(argv, check=False, capture_output=True).returncode == 0
    assert _bytes(world) == expected


@pytest.mark.slow
def test_two_devices_share_a_batch(world):
    losses = {}
    for devices in (1, 2):
        flags = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        argv = [sys.executable, "-m", "model.finetune", *_argv(world, finetune__steps=6)]
        done = subprocess.run(argv, env=flags, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = (_runs(world) / "seed-0/metrics.jsonl").read_text().splitlines()
        losses[devices] = [json.loads(line)["loss"] for line in lines]
        shutil.rmtree(_runs(world))
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)


def test_refusals_are_one_sentence(world, trained, capsys):
    shutil.copy(trained / "value.npz", world / "other.npz")
    cases = [
        ({"finetune__encoder": world / "other.npz"}, "was embedded by another encoder than"),
        ({"finetune__encoder": "efficientnet-lite0"}, "cannot be fine-tuned; embed with the .npz of a Vision"),
        ({"finetune__head": "man"}, "--config.finetune.head=man: unknown; did you mean 'mam'"),
        ({"finetune__dtype": "bfloat"}, "unknown; did you mean 'bfloat16'"),
        ({"finetune__image_size": 4}, "must hold a patch of 8 pixels"),
        ({"finetune__steps": 0}, "--config.finetune.steps=0: must be at least 1"),
        ({"finetune__min_area": 0}, "min_area=0.0: must be above 0 and at most 1"),
        ({"finetune__learning_rates": ""}, "must hold at least one value"),
        ({"train__steps": 7}, "run web-memory train with this configuration first"),
    ]
    for changes, sentence in cases:
        assert finetune.main(_argv(world, **changes)) == 2, sentence
        error = capsys.readouterr().err
        assert error.startswith("error: ") and sentence in error and error.count("\n") == 1, error


@pytest.mark.slow
def test_another_image_size_remat_and_bfloat16_train_too(trained):
    shared = {"finetune__steps": 2, "finetune__checkpoint_every": 2}
    plain, again = _trainer(trained, **shared), _trainer(trained, **shared, finetune__remat="true")
    states = [trainer.steps(trainer.start(0), 0, 2, SETTING) for trainer in (plain, again)]
    np.testing.assert_allclose(states[0][1], states[1][1], rtol=1e-5)
    large = _trainer(trained, **shared, finetune__image_size=48, finetune__dtype="bfloat16")
    assert large.encoder.params["pos_embedding"].shape == (1, 36, photos.VIT.width)
    state, loss = large.steps(large.start(0), 0, 2, SETTING)
    assert np.isfinite(loss).all() and {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_a_step_of_b16_has_the_shapes_of_the_published_model(trained):
    """Nothing is computed: 86 million parameters and their moments are shapes only."""
    trainer = copy.copy(_trainer(trained))
    config = vit.VitConfig(16, 768, 12, 12, 3072, 14, "cls", False)
    model = vit.Vit(config, jnp.bfloat16, remat=True)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"],
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 85_797_888
    wide = jax.eval_shape(
        lambda: trainer.data["train"]._replace(queries=jnp.zeros((48, 768)), keys=jnp.zeros((72, 768)))
    )
    trainer.encoder = trainer.encoder.__class__(model, shapes, trainer.encoder.preprocess, True)
    batch = jax.eval_shape(lambda data: data.gather(jnp.zeros(8, jnp.int32)), wide)
    head = jax.eval_shape(lambda b: trainer.head.init(jax.random.key(0), b, 0.0, None)["params"], batch)
    params = {"head": head, "objective": {}, "encoder": shapes}
    optimizer = trainer.optimizer(0.0, 0.0, 0.0)
    opt_state = jax.eval_shape(optimizer.init, params)
    from model.training.trainer import State

    state = State(params, opt_state, {}, jax.ShapeDtypeStruct((), jnp.int32))
    images, rows = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.uint8), jax.ShapeDtypeStruct((8,), jnp.int32)
    setting, seed = jax.ShapeDtypeStruct((4,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    after, loss = jax.eval_shape(trainer.run_step, state, images, rows, wide, setting, seed)
    assert loss.shape == ()
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after.params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), params
    )
    block = after.params["encoder"]["Transformer"]["encoderblock_11"]
    assert block["MlpBlock_0"]["Dense_0"]["kernel"].shape == (768, 3072)
    assert after.params["encoder"]["pos_embedding"].shape == (1, 196, 768)
