"""Makes the demo's images: `python -m pipelines.demo_corpus --config=configs/demo.py`.

Fetches emoji of several vendors with npm and writes them as image-text shards and as a labelled long-tailed dataset.
"""

import pathlib
import sys
from collections.abc import Sequence

from configs.base import Config, DemoConfig
from pipelines import options, storage
from pipelines.errors import UserError
from pipelines.progress import Stage, duration, summary


def run(config: Config) -> None:
    """Makes the corpus in `config.data`, unless it is there.

    Raises:
        UserError: if the config says nothing of a corpus, or a package cannot be had.
    """
    from pipelines.demo import corpus

    if not isinstance(config, DemoConfig):
        raise UserError("this config has data of its own; only configs/demo.py has a corpus to make")
    with Stage("corpus", "items", config.workdir) as stage:
        stage.worked = False

        def on_progress(_: str, done: int, total: int) -> None:
            stage.worked = True
            stage.update(done / total, done)

        made = corpus.build(
            pathlib.Path(config.data),
            cache_dir=storage.cache_dir(),
            memory_styles=config.corpus.memory_styles,
            query_style=config.corpus.query_style,
            image_size=config.corpus.image_size,
            pairs_per_shard=config.corpus.pairs_per_shard,
            max_emoji=config.corpus.max_emoji,
            seed=config.seed,
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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv)


if __name__ == "__main__":
    sys.exit(main())
