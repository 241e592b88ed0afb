"""The input of the embed stage: a command makes a request of its config, and hands it on instead of the config."""

import dataclasses
from collections.abc import Sequence

from configs.base import Config, Embed, Encoders, Filters, Places, Protocol, Source
from pipelines import mentions, storage
from pipelines.errors import UserError
from pipelines.filtering.row_filters import RowFilters

MEMORY = "memory"


@dataclasses.dataclass(frozen=True)
class Request:
    """What to embed, how, and where to.

    Attributes:
        places: inputs and outputs.
        sources: of the memory, which is the first, and of each split that has one, by name.
        protocol: row counts that the lists of the splits must have.
        encoders: of the vector columns.
        embed: batch size and limits.
        filters: of the memory; `opt_out` is a whole path.
        seed: of the selection.
        names: of the classes, if the filters look for them in captions.
    """

    places: Places
    sources: dict[str, Source]
    protocol: Protocol
    encoders: Encoders
    embed: Embed
    filters: Filters
    seed: int
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config) -> "Request":
        """Returns the request of a config.

        Raises:
            UserError: if the config names no memory, or a filter on metadata cannot be parsed.
        """
        if not config.memory.path:
            raise UserError("--config.memory.path: is empty; name the images of the memory")
        opt_out = config.filters.opt_out and storage.join(config.data, config.filters.opt_out)
        filters = dataclasses.replace(config.filters, opt_out=opt_out)
        # Workers parse the conditions; a wrong one must stop the command before anything is embedded.
        RowFilters(filters)
        sources = {MEMORY: config.memory, **config.queries}
        return cls(
            config.places,
            {name: source for name, source in sources.items() if source.path},
            config.protocol,
            config.encoders,
            config.embed,
            filters,
            config.seed,
        )

    def with_names(self, names: Sequence[str]) -> "Request":
        """Returns the request with the names of the classes, if its filters look for them in captions.

        Raises:
            UserError: if they do, and there are no names.
        """
        if not (self.filters.concepts or self.filters.concepts_per_class):
            return self
        if not any(map(mentions.synonyms, names)):
            field = "concepts" if self.filters.concepts else "concepts_per_class"
            raise UserError(
                f"--config.filters.{field}: looks for the names of classes in captions, and there are none; set "
                "--config.class_names to a file with a name a line"
            )
        return dataclasses.replace(self, names=tuple(names))

    def folder(self, name: str) -> str:
        """Returns the output folder of the memory or of a split."""
        return self.places.memory if name == MEMORY else self.places.queries(name)
