"""Generations of a workdir: memory, queries, index and neighbour lists of one set of encoders, and which is in use.

    memory/ queries/ index/ neighbors/     the first generation
    gen-0123456789abcdef/memory/ ..        one of other encoders, named by their fingerprint
    generation.json                        names the one in use; missing, there must be no other than the first

A new generation grows beside the one in use and replaces it when the pointer is written. `index.reindex` makes them.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from configs.base import Config, Places
from pipelines import manifest, storage
from pipelines.errors import UserError, command

FILE = "generation.json"
_NAME = re.compile(r"gen-[0-9a-f]{16}")
_AGAIN = "restore it, or name the folder in use by --config.generation"
_FIRST = ("memory", "queries", "classes.parquet", "index", "neighbors")


def current(workdir: str) -> str:
    """Returns the generation in use, empty for the first.

    Raises:
        UserError: if it cannot be told, because the pointer is damaged or is missing where there are several.
    """
    path = storage.join(workdir, FILE)
    remedy = f"run {command('index.reindex')} with the encoders that you use, which writes it again"
    if not storage.exists(path):
        if names := _others(workdir):
            raise UserError(f"{path}: is missing, so it cannot be told whether {names[0]} is in use; {remedy}")
        return ""
    value = storage.read_json(path, remedy)
    name = value.get("generation") if isinstance(value, dict) else None
    if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
        raise UserError(f"{path}: names no generation; {remedy}")
    if name and name not in _others(workdir):
        raise UserError(f"{path}: names {name}, and there is no such folder; {remedy}")
    return name


def _others(workdir: str) -> list[str]:
    """Returns the names of all generations but the first."""
    return [entry.name for entry in storage.entries(workdir) if _NAME.fullmatch(entry.name)]


def resolve(config: Config, chooses: bool = False) -> Config:
    """Returns the config with the generation in use, unless it names one.

    Args:
        config: of a command.
        chooses: whether the command chooses the generation by its encoders; if it cannot be told which is in use, it
            begins with the first.
    """
    if config.generation:
        return config
    try:
        return dataclasses.replace(config, generation=current(config.workdir))
    except UserError:
        if not chooses:
            raise
        return config


def of_encoders(places: Places, encoders: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the name of the generation that a set of encoders has, or would have.

    Args:
        places: of the generation in use.
        encoders: `schemas.EncoderInfo` of each column, as values.
    """
    own = f"gen-{manifest.fingerprint(dict(encoders))}"
    memories = {name: places.in_generation(name).memory for name in (places.generation, "", own)}
    begun = {name: storage.exists(storage.join(folder, manifest.STAGE_FILE)) for name, folder in memories.items()}
    same = [
        name
        for name, folder in memories.items()
        if begun[name] and manifest.read_identity(folder).get("encoders") == encoders
    ]
    return next(iter([*same, *(name for name in (places.generation, "") if not begun[name]), own]))


def is_recorded(places: Places) -> bool:
    """Tells whether the pointer names the generation of these places; without one, whether there is only the first."""
    try:
        return current(places.workdir) == places.generation
    except UserError:
        return False


def record(places: Places) -> None:
    """Writes the pointer to the generation of these places, if there is none, before another begins beside it."""
    if not storage.exists(storage.join(places.workdir, FILE)):
        switch(places)


def switch(places: Places) -> None:
    """Makes the generation of these places the one in use, at once."""
    storage.write_json(storage.join(places.workdir, FILE), {"generation": places.generation})


def others(places: Places) -> dict[str, list[str]]:
    """Returns the folders of every generation but that of these places, by its name."""
    found = {name: [storage.join(places.workdir, name)] for name in _others(places.workdir)}
    if places.generation:
        found[""] = [path for name in _FIRST if storage.exists(path := storage.join(places.workdir, name))]
    return {name: paths for name, paths in found.items() if name != places.generation and paths}
