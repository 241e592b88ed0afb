"""The main job on a laptop: emoji of one vendor are classified with the drawings and texts of other vendors as memory.

    make demo      (or: web-memory run --config=configs/demo.py)

or stage by stage: `web-memory STAGE --config=configs/demo.py` with demo_corpus, embed, build, neighbors, train, report.

Hardware: 2 cores of an AMD EPYC, 24 GiB, no accelerator. Test accuracy in percent over 5 seeds, all (few-shot): linear
49.3 (37.7), mlp 49.0 (36.9), mean_knn 47.8 (33.9), mam 57.2 (44.4), mam_names 62.0 (56.9).
"""

from configs.base import DemoConfig, Index, Source, Train


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
        index=Index(shards=2),
        # All else about training is the default.
        train=Train(many_over=10, few_under=5),
    )
