"""Fine-tunes the query encoder together with a head: `web-memory finetune --config=configs/x.py`.

It starts from the frozen runs of `model.train`. The encoder of the keys must be the `.npz` of a Vision Transformer;
neighbour lists, keys and values stay as they are. If there is more than one setting, each is run once from the frozen
run of the first seed and measured on val; the best one is run for every seed and measured on test. If the command is
interrupted, run it again: it resumes and does only the remaining work.
"""

import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config, Finetune, Train
from model.training import run_files
from pipelines import manifest, options, storage
from pipelines.errors import UserError, nearest
from pipelines.progress import Stage, counted, duration, summary

if TYPE_CHECKING:
    from model.data.input_pipeline import Augment, Window
    from model.training.finetune_trainer import FinetuneSetting


def _check(train: Train, finetune: Finetune) -> None:
    if train.table != "device":
        raise UserError(f"--config.train.table={train.table}: fine-tuning needs runs with the table `device`")
    if finetune.head not in train.heads:
        raise UserError(
            f"--config.finetune.head={finetune.head}: is not in --config.train.heads; "
            f"{nearest(finetune.head, train.heads)}"
        )


def run(config: Config) -> None:
    """Runs the trials and seeds that are not done yet.

    Raises:
        UserError: if the frozen runs do not exist, the encoder is another, an image has changed, or a setting is
            wrong.
    """
    from model.data import parallel, protocol, tables
    from model.data.input_pipeline import Images
    from model.training import finetune_runs, hyperparameters, preparation, query_encoder, trials
    from model.training.finetune_trainer import FinetuneTrainer
    from pipelines.sources.pictures import Pictures

    places, train, settings = config.places, config.train, config.finetune
    read = {split: Pictures(source, config.data, config.embed).read for split, source in config.queries.items()}
    trials.check(places, train)
    _check(train, settings)
    with Stage("finetune", "images", places.workdir) as stage:
        stage.doing("loading the encoder, reading vectors")
        parallel.check(settings.batch_size, "finetune.batch_size")
        encoder = query_encoder.load(config.encoders, settings, places.queries("train"))

        def images(split: str, augment: "Augment | Window | None") -> Images:
            return Images(
                places.queries(split), read[split], config.embed.max_image_pixels, encoder.preprocess, augment
            )

        task = protocol.load(places, config.protocol, config.queries, train)
        task = preparation.prepare(task, train)
        frozen = run_files.identity(places, config.seed, train, task.fingerprint)
        point = run_files.chosen(frozen.folder, settings.head)["point"]
        folder, identity = run_files.finetune_identity(frozen, train.seeds, settings)
        manifest.release(folder, run_files.FINETUNE, identity)
        config_hash = manifest.claim(folder, run_files.FINETUNE, identity)
        manifest.write_config(folder, places.config)

        runs = finetune_runs.FinetuneRuns(folder, finetune_runs.settings(settings, point), train.seeds, settings, stage)
        stage.worked = not runs.is_done()
        as_frozen = hyperparameters.with_fields(train, point)
        trainer = FinetuneTrainer(
            as_frozen,
            settings,
            task,
            tables.load(task, as_frozen.dtype),
            encoder,
            images,
            functools.partial(run_files.of_seed, frozen.folder, settings.head),
            runs.on_steps,
        )
        best, results = runs.run(trainer, config_hash)
        before = [run_files.of_seed(frozen.folder, settings.head, seed) for seed in train.seeds]
        summary(
            f"finetune: {counted(runs.count, 'run')} of {counted(settings.steps, 'step')} in {duration(stage.secs)}",
            {**_lines(best, results, before), "output": folder},
        )


def _lines(setting: "FinetuneSetting", results: list[dict[str, Any]], before: list[str]) -> dict[str, object]:
    frozen = [run_files.read_result(folder, {}) for folder in before]

    def val(runs: list[dict[str, Any]]) -> float:
        return sum(run["val_accuracy"]["all"] for run in runs) / len(runs)

    return {
        "setting": f"learning rate {setting.learning_rate:g}, of the encoder {setting.encoder_ratio:g} times that",
        "val": f"{val(results):.3f}, frozen {val(frozen):.3f}",
    }


def foresee(config: Config) -> dict[str, str]:
    """Says what would be fine-tuned; errors as those of `run` that need no training."""
    from model.training import finetune_runs

    places, train, settings = config.places, config.train, config.finetune
    _check(train, settings)
    lists = manifest.Neighbors.open(places.neighbors)
    frozen = run_files.identity(places, config.seed, train, lists.fingerprint)
    point = run_files.chosen(frozen.folder, settings.head)["point"]
    folder, identity = run_files.finetune_identity(frozen, train.seeds, settings)
    manifest.check_claim(folder, run_files.FINETUNE, identity)
    tried = finetune_runs.settings(settings, point)
    done = sum(run_files.is_done(storage.join(folder, f"seed-{seed}")) for seed in train.seeds)
    return {
        "head": settings.head,
        "settings": f"{len(tried):,}, each tried once if there are several",
        "seeds": f"{done:,} of {len(train.seeds):,} are done; the others would be trained for {settings.steps:,} steps",
        "output": folder,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
