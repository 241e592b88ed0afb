"""Makes the demo's images: `web-memory demo_corpus --config=configs/demo.py`.

Fetches emoji of several vendors with npm and writes them as image-text shards and as a labelled long-tailed dataset.
"""

import pathlib
import sys
from collections.abc import Sequence

from configs.base import Config, DemoConfig
from pipelines import options, storage
from pipelines.errors import UserError
from pipelines.progress import Stage, duration, summary

# Name, what it does before its first count, and unit of each step of `corpus.build`.
_STEPS = {
    "fetch": ("packages", "fetching packages", "packages"),
    "render": ("", "rendering drawings", "images"),
}


def run(config: Config) -> None:
    """Makes the corpus in `config.data`, unless it is there already.

    Raises:
        UserError: if the config does not describe a corpus, or a package cannot be fetched.
    """
    from pipelines.demo import corpus

    config = _checked(config)
    with Stage("corpus", "items", config.workdir) as stage:
        stage.worked = False
        begun = ""

        def on_progress(step: str, done: int, total: int) -> None:
            nonlocal begun
            if step != begun:
                stage.step(*_STEPS[step])
                begun, stage.worked = step, True
            stage.update(done / total, done)

        made = corpus.build(
            pathlib.Path(config.data),
            config.corpus,
            seed=config.seed,
            cache_dir=storage.cache_dir(),
            on_progress=on_progress,
        )
        summary(
            f"corpus: {made.pairs:,} image-text pairs in {duration(stage.secs)}",
            {
                "memory": ", ".join(f"{style} {count:,}" for style, count in made.pairs_per_style.items()),
                "labelled": f"{config.corpus.query_style}: {made.images_train:,} train, {made.images_val:,} val, "
                f"{made.images_test:,} test in {made.classes} classes",
                "output": config.data,
            },
        )


def _checked(config: Config) -> DemoConfig:
    if not isinstance(config, DemoConfig):
        raise UserError(
            "this config has data of its own; only a DemoConfig, such as configs/demo.py, has a corpus to make"
        )
    return config


def foresee(config: Config) -> dict[str, str]:
    """Says whether the corpus is there; errors as those of `run` that need no network."""
    from pipelines.demo import corpus

    config = _checked(config)
    made = corpus.read_finished(pathlib.Path(config.data).resolve(), config.corpus, config.seed)
    if made:
        return {"done": f"{made.pairs:,} pairs; nothing to make", "output": config.data}
    return {"would": "fetch the packages that are not cached, and draw the images", "output": config.data}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
