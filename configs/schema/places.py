"""Where a configuration reads and writes. A command resolves it once and hands it on instead of the whole config."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Places:
    """Folders and files of one configuration.

    Attributes:
        data: folder that input paths are relative to.
        workdir: folder of all outputs.
        generation: folder below `workdir` of what one set of encoders made; empty for `workdir` itself.
        class_names: file of the class names; empty for none.
        config: the whole configuration as JSON values, which commands write beside their outputs for people to read.
    """

    data: str
    workdir: str
    generation: str
    class_names: str
    config: dict[str, Any] = dataclasses.field(repr=False)

    def in_generation(self, name: str) -> "Places":
        """Returns the places of another generation."""
        return dataclasses.replace(self, generation=name, config={**self.config, "generation": name})

    @property
    def root(self) -> str:
        """Folder of the generation."""
        return f"{self.workdir}/{self.generation}" if self.generation else self.workdir

    @property
    def memory(self) -> str:
        """Folder of the embedded memory."""
        return f"{self.root}/memory"

    def queries(self, split: str) -> str:
        """Folder of an embedded split."""
        return f"{self.root}/queries/{split}"

    @property
    def classes(self) -> str:
        """File of the embedded class names."""
        return f"{self.root}/classes.parquet"

    @property
    def concepts(self) -> str:
        """Folder of the classes that the memory's captions name."""
        return f"{self.root}/concepts"

    @property
    def index(self) -> str:
        """Folder of the index."""
        return f"{self.root}/index"

    @property
    def neighbors(self) -> str:
        """Folder of the neighbour lists."""
        return f"{self.root}/neighbors"

    @property
    def removed(self) -> str:
        """File of the digests of images and URLs that were removed for good, shared by all generations."""
        return f"{self.workdir}/removed.txt"

    @property
    def runs(self) -> str:
        """Folder of the trained heads, shared by all generations."""
        return f"{self.workdir}/runs"
