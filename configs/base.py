"""The configuration of the whole line as frozen dataclasses; a config file returns one from `get_config()`.

Every field can be set on the command line: `--config.index.shards=4`, tuples as `--config.train.seeds=0,1,2`. Input
paths are relative to `data`, outputs are below `workdir`; both may be local, `gs://` or `s3://`. What each field means
is declared with it (`configs.schema`), and shown by `--help` and in docs/config.md.
"""

import dataclasses
from collections.abc import Iterator

from configs.schema.data import Corpus, Embed, Encoders, Filters, Protocol, Source
from configs.schema.fields import option
from configs.schema.heads import Lda, Mml, Pairs, Tip, Vote
from configs.schema.places import Places
from configs.schema.search import Index, Neighbors
from configs.schema.training import (
    Align,
    Curriculum,
    Finetune,
    Heteroscedastic,
    Mile,
    Names,
    Ncr,
    Paco,
    Train,
)

__all__ = [
    "Align",
    "Config",
    "Corpus",
    "Curriculum",
    "DemoConfig",
    "Embed",
    "Encoders",
    "Filters",
    "Finetune",
    "Heteroscedastic",
    "Index",
    "Lda",
    "Mile",
    "Mml",
    "Names",
    "Ncr",
    "Neighbors",
    "Paco",
    "Pairs",
    "Places",
    "Protocol",
    "Source",
    "Tip",
    "Train",
    "TwoTowerConfig",
    "Vote",
]


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment, from sources to trained heads."""

    data: str = option("", "Folder that input paths are relative to.")
    workdir: str = option("out/run", "Folder of all outputs.")
    generation: str = option("", "Folder below `workdir` of what one set of encoders made; empty for the one in use.")
    seed: int = option(0, "Seed of everything drawn at random, unless a field has its own.", at_least=0, below=2**31)
    memory: Source = Source()
    train_set: Source = Source(format="image_list")
    val_set: Source = Source(format="image_list")
    test_set: Source = Source(format="image_list")
    predict_set: Source = Source(format="image_list")
    class_names: str = option("", "File with one class name a line, after its last tab; commas separate synonyms.")
    protocol: Protocol = Protocol()
    encoders: Encoders = Encoders()
    embed: Embed = Embed()
    filters: Filters = Filters()
    index: Index = Index()
    neighbors: Neighbors = Neighbors()
    train: Train = Train()
    finetune: Finetune = Finetune()

    @property
    def queries(self) -> dict[str, Source]:
        """The labelled splits by name."""
        return {"train": self.train_set, "val": self.val_set, "test": self.test_set}

    @property
    def places(self) -> Places:
        """Where this configuration reads and writes."""
        return Places(self.data, self.workdir, self.generation, self.class_names, dataclasses.asdict(self))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field that does not fit the others, and why."""
        listed = self.memory.format == "image_list" and self.memory.path and not self.memory.class_names
        if listed and self.encoders.value_text:
            yield (
                "memory.format",
                "has no texts; set --config.memory.class_names to take those of the classes, or "
                "--config.encoders.value_text=",
            )

    def line_problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field for which a later stage would refuse what the earlier ones have made, and why."""
        if not any(source.path for source in self.queries.values()):
            # Only a memory is made.
            return
        for name, source in self.queries.items():
            if not source.path:
                yield f"{name}_set.path", "is empty; neighbors and train need the train, the val and the test set"
        if self.train.k > self.neighbors.k:
            yield "train.k", f"is more than --config.neighbors.k={self.neighbors.k}, the length of the lists"
        made = {"text": self.encoders.value_text, "image": self.encoders.value_image}
        for kind in self.train.values:
            role, _, named = kind.partition("_")
            handles = made.get(role, ())
            if not any(handle.startswith(f"{named}=") if named else "=" not in handle for handle in handles):
                yield "train.values", f"{kind}: no encoder of --config.encoders.value_{role} makes these values"
        readers = [name for name in ("mam_names", "guarded", "guarded_names") if name in self.train.heads]
        if readers and not (self.class_names and self.encoders.value_text):
            yield (
                "train.heads",
                f"{readers[0]} reads the names of the classes; set --config.class_names and a text encoder",
            )
        if not self.encoders.value_text:
            if "zero_shot" in self.train.heads:
                yield "train.heads", "zero_shot reads the names of the classes; set --config.encoders.value_text"
            if self.train.start_at_names:
                yield "train.start_at_names", "needs a text encoder; set --config.encoders.value_text"


@dataclasses.dataclass(frozen=True)
class DemoConfig(Config):
    """A config that also says how its data is made."""

    corpus: Corpus = Corpus()


@dataclasses.dataclass(frozen=True)
class TwoTowerConfig(Config):
    """A config that also says how its two encoders are trained."""

    align: Align = Align()

    def line_problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field for which a later stage would refuse what the earlier ones have made, and why."""
        yield from super().line_problems()
        image, text = (f"{self.align.folder}/towers/{kind}" for kind in ("image", "text"))
        if self.encoders.key != image:
            yield "encoders.key", f"is not the tower that --config.align.folder trains; name {image}"
        elif text not in self.encoders.value_text:
            yield "encoders.value_text", f"lacks the tower that --config.align.folder trains; name {text}"
