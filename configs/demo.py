"""The main job on a laptop: emoji of one vendor classified with those of other vendors, and their texts, as memory.

    make demo

or stage by stage:

    python -m pipelines.demo_corpus --config=configs/demo.py
    python -m pipelines.embed --config=configs/demo.py
    python -m index.build --config=configs/demo.py
    python -m index.neighbors --config=configs/demo.py
    python -m model.train --config=configs/demo.py
    python -m model.report --config=configs/demo.py

README.md has the table to expect and the time it takes.
"""

from configs.base import DemoConfig, Index, Neighbors, Source, Train


def get_config() -> DemoConfig:
    """Returns the demo's configuration."""
    return DemoConfig(
        data="out/demo-corpus",
        workdir="out/demo",
        memory=Source(format="img2dataset", path="pairs/*.tar"),
        train_set=Source(format="image_list", path="labelled/EmojiLT_train.txt", image_root="labelled/images"),
        val_set=Source(format="image_list", path="labelled/EmojiLT_val.txt", image_root="labelled/images"),
        test_set=Source(format="image_list", path="labelled/EmojiLT_test.txt", image_root="labelled/images"),
        class_names="labelled/classnames.txt",
        index=Index(shards=2, k=32),
        neighbors=Neighbors(k=32),
        train=Train(
            values=("text",),
            similarity_scale=60.0,
            neighbor_dropout=0.25,
            batch_size=128,
            steps=200,
            learning_rates=(1e-3, 3e-3),
            many_over=10,
            few_under=5,
        ),
    )
