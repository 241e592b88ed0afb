"""Generations of a workdir: a memory, its queries, index and neighbours of one set of encoders, and which is in use.

    memory/ queries/ index/ neighbors/     the first generation
    gen-0123456789abcdef/memory/ ..        one of other encoders, named by their fingerprint
    generation.json                        names the one in use; without it the first is

Another generation grows beside the one in use and takes its place when the pointer is replaced. Who makes generations
is left to `reindex`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from configs.base import Config
from pipelines import manifest, storage
from pipelines.errors import UserError

FILE = "generation.json"
_NAME = re.compile(r"gen-[0-9a-f]{16}")
_FIRST = ("memory", "queries", "classes.parquet", "index", "neighbors")


def current(workdir: str) -> str:
    """Returns the generation in use, empty for the first; a `UserError` if the pointer is damaged."""
    path = storage.join(workdir, FILE)
    if not storage.exists(path):
        return ""
    value = storage.read_json(path)
    name = value.get("generation") if isinstance(value, dict) else None
    if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
        raise UserError(f"{path}: names no generation; write one of its folders' names there, or remove it")
    return name


def resolve(config: Config) -> Config:
    """Returns the config with the generation in use, unless it names one."""
    return config if config.generation else dataclasses.replace(config, generation=current(config.workdir))


def of_encoders(config: Config, encoders: Mapping[str, Mapping[str, Any]]) -> Config:
    """Returns the config with the generation that a set of encoders has or is to have.

    Args:
        config: with the generation in use.
        encoders: `schemas.EncoderInfo` of each column, as values.
    """
    named = f"gen-{manifest.fingerprint(dict(encoders))}"
    for name in dict.fromkeys((config.generation, "")):
        candidate = dataclasses.replace(config, generation=name)
        path = storage.join(candidate.memory_dir, manifest.STAGE_FILE)
        if not storage.exists(path):
            return candidate
        if storage.read_json(path)["encoders"] == encoders:
            return candidate
    return dataclasses.replace(config, generation=named)


def switch(config: Config) -> None:
    """Makes the generation of a config the one in use, at once."""
    storage.write_json(storage.join(config.workdir, FILE), {"generation": config.generation})


def others(config: Config) -> dict[str, list[str]]:
    """Returns the folders of every generation but that of the config, by its name."""
    names = [entry.name for entry in storage.entries(config.workdir) if _NAME.fullmatch(entry.name)]
    found = {name: [storage.join(config.workdir, name)] for name in names}
    if config.generation:
        found[""] = [path for name in _FIRST if storage.exists(path := storage.join(config.workdir, name))]
    return {name: paths for name, paths in found.items() if name != config.generation and paths}
