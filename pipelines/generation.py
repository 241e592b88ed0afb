"""Generations of a workdir: memory, queries, index and neighbour lists of one set of encoders, and which is in use.

    memory/ queries/ index/ neighbors/     the first generation
    gen-0123456789abcdef/memory/ ..        one of other encoders, named by their fingerprint
    generation.json                        names the one in use; without it, the first is in use

A new generation grows beside the one in use and replaces it when the pointer is written. `index.reindex` makes them.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from configs.base import Config, Places
from pipelines import manifest, storage
from pipelines.errors import UserError

FILE = "generation.json"
_NAME = re.compile(r"gen-[0-9a-f]{16}")
_AGAIN = "restore it, or name the folder in use by --config.generation"
_FIRST = ("memory", "queries", "classes.parquet", "index", "neighbors")


def current(workdir: str) -> str:
    """Returns the generation in use, empty for the first; a `UserError` if the pointer is damaged."""
    path = storage.join(workdir, FILE)
    if not storage.exists(path):
        return ""
    value = storage.read_json(path, _AGAIN)
    name = value.get("generation") if isinstance(value, dict) else None
    if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
        raise UserError(f"{path}: names no generation; {_AGAIN}")
    return name


def resolve(config: Config) -> Config:
    """Returns the config with the generation in use, unless it names one."""
    return config if config.generation else dataclasses.replace(config, generation=current(config.workdir))


def of_encoders(places: Places, encoders: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the name of the generation that a set of encoders has, or would have.

    Args:
        places: of the generation in use.
        encoders: `schemas.EncoderInfo` of each column, as values.
    """
    for name in dict.fromkeys((places.generation, "")):
        folder = places.in_generation(name).memory
        path = storage.join(folder, manifest.STAGE_FILE)
        if not storage.exists(path) or manifest.read_identity(folder).get("encoders") == encoders:
            return name
    return f"gen-{manifest.fingerprint(dict(encoders))}"


def switch(places: Places) -> None:
    """Makes the generation of these places the one in use, at once."""
    storage.write_json(storage.join(places.workdir, FILE), {"generation": places.generation})


def others(places: Places) -> dict[str, list[str]]:
    """Returns the folders of every generation but that of these places, by its name."""
    names = [entry.name for entry in storage.entries(places.workdir) if _NAME.fullmatch(entry.name)]
    found = {name: [storage.join(places.workdir, name)] for name in names}
    if places.generation:
        found[""] = [path for name in _FIRST if storage.exists(path := storage.join(places.workdir, name))]
    return {name: paths for name, paths in found.items() if name != places.generation and paths}
