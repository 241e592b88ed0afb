"""Trains the encoder of the queries on, with a head: `python -m model.finetune --config=configs/x.py`.

Starts from the frozen runs of `model.train`. The keys must be of a Vision Transformer's `.npz`; neighbour lists, keys
and values stay as they are. With more than one setting, each is run once from the frozen run of the first seed and
judged on val; the best is run for every seed and measured on test. Killed at any time, the same command goes on.
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config
from model.training import run_files
from pipelines import manifest, options, storage
from pipelines.errors import UserError, nearest
from pipelines.progress import Stage, duration, summary

if TYPE_CHECKING:
    from model.training.finetune_trainer import Encoder, FinetuneSetting


def _check(config: Config) -> None:
    if config.train.table != "device":
        raise UserError(f"--config.train.table={config.train.table}: fine-tuning is of runs with the table `device`")
    if config.finetune.head not in config.train.heads:
        raise UserError(
            f"--config.finetune.head={config.finetune.head}: is none of --config.train.heads; "
            f"{nearest(config.finetune.head, config.train.heads)}"
        )


def load_encoder(config: Config) -> "Encoder":
    """Returns the encoder that the config names, at the size and with the training mode that it asks for.

    Raises:
        UserError: if it is no Vision Transformer, not the one that embedded the queries, or takes no such size.
    """
    import jax.numpy as jnp

    from model.training.finetune_trainer import Encoder
    from pipelines.encoders import handles, vit, vit_checkpoint
    from pipelines.images.decode import ImagePreprocess

    settings, handle = config.finetune, config.finetune.encoder or config.encoders.key
    wanted = config.encoders
    spec = handles.resolve(handle, wanted.dtype, wanted.normalize, wanted.crop_fraction)
    if not spec.model.endswith(".npz"):
        raise UserError(
            f"--config.encoders.key={handle}: cannot be trained on; embed with the .npz of a Vision Transformer"
        )
    folder = config.queries_dir("train")
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


def run(config: Config) -> None:
    """Runs the trials and seeds that are not done yet.

    Raises:
        UserError: if the frozen runs are not there, the encoder is another, an image has changed, or a setting is
            wrong.
    """
    from model.data import datasets, parallel, tables
    from model.training import hyperparameters, preparation, train_loop, trials
    from model.training.finetune_trainer import FinetuneSetting, FinetuneTrainer

    settings = config.finetune
    trials.check(config)
    _check(config)
    with Stage("finetune", "images", config.workdir) as stage:
        parallel.check(settings.batch_size, "finetune.batch_size")
        encoder = load_encoder(config)
        task = preparation.prepare(datasets.load(config), config.train)
        frozen, _identity = run_files.identity(config, task.fingerprint)
        folder, identity = run_files.finetune_identity(config, task.fingerprint)

        def frozen_run(seed: int) -> str:
            return run_files.of_seed(frozen, settings.head, seed)

        point = run_files.chosen(config, task.fingerprint, settings.head)["point"]
        grid = itertools.product(settings.learning_rates, settings.encoder_ratios)
        candidates = [
            FinetuneSetting(learning_rate, point["weight_decay"], point["dropout"], ratio)
            for learning_rate, ratio in grid
        ]
        # A single setting leaves nothing to choose.
        trial_runs = candidates if len(candidates) > 1 else []
        config_hash = manifest.claim(folder, run_files.FINETUNE, identity)
        storage.write_json(storage.join(folder, "config.json"), dataclasses.asdict(config))
        runs, total = 0, (len(trial_runs) + len(config.train.seeds)) * settings.steps

        def on_steps(steps: int) -> None:
            done = runs * settings.steps + steps
            stage.update(done / total, done * settings.batch_size)

        stage.worked = not all(run_files.is_done(storage.join(folder, f"seed-{seed}")) for seed in config.train.seeds)
        as_frozen = dataclasses.replace(config, train=hyperparameters.with_fields(config.train, point))
        data = tables.load(task, as_frozen.train.dtype)
        trainer = FinetuneTrainer(as_frozen, task, data, encoder, frozen_run, on_steps)
        on_steps(0)
        tried = []
        try:
            for number, setting in enumerate(trial_runs):
                path, seed = storage.join(folder, f"trial-{number}"), config.train.seeds[0]
                tried.append(train_loop.run(trainer, path, setting, seed, "val", config_hash, on_steps))
                runs += 1
            best = max(range(len(tried)), key=lambda i: tried[i]["accuracy"]["all"]) if tried else 0
            results = []
            for seed in config.train.seeds:
                path = storage.join(folder, f"seed-{seed}")
                results.append(train_loop.run(trainer, path, candidates[best], seed, "test", config_hash, on_steps))
                runs += 1
        finally:
            trainer.close()
        before = [storage.read_json(storage.join(frozen_run(seed), run_files.RESULT)) for seed in config.train.seeds]
        summary(
            f"finetune: {runs} runs of {settings.steps} steps in {duration(stage.secs)}",
            {
                **_lines(candidates[best], results, before),
                "output": folder,
            },
        )


def _lines(
    setting: "FinetuneSetting", results: list[dict[str, Any]], frozen: list[dict[str, Any]]
) -> dict[str, object]:
    def val(runs: list[dict[str, Any]]) -> float:
        return sum(run["val_accuracy"]["all"] for run in runs) / len(runs)

    return {
        "setting": f"learning rate {setting.learning_rate:g}, of the encoder {setting.encoder_ratio:g} times that",
        "val": f"{val(results):.3f}, frozen {val(frozen):.3f}",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv)


if __name__ == "__main__":
    sys.exit(main())
