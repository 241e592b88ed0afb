"""Writes vectors and neighbour lists for other tools: `web-memory arrays --config=configs/demo.py --output=DIR`.

    web-memory arrays --config=configs/demo.py --output=arrays                   # everything
    web-memory arrays --config=configs/demo.py --output=arrays --what=memory     # the vectors of the memory alone

`memory/`, `train/`, `val/` and `test/` are in the layout of clip-retrieval, which autofaiss reads, too; `neighbors/`
has the lists of each split as `.npy` beside a table of its queries.
"""

import sys
from collections.abc import Sequence
from typing import Any

from configs.base import Config, Places
from pipelines import options, storage
from pipelines.errors import UserError, nearest
from pipelines.manifest import Embeddings, Neighbors
from pipelines.progress import counted, summary

_MEMORY, _LISTS = "memory", "neighbors"
_WHAT = (_MEMORY, "train", "val", "test", _LISTS)
_VALUES: dict[str, tuple[Any, str]] = {
    "output": ("", "folder to write, of this machine or in a store"),
    "what": (",".join(_WHAT), f"what to write, separated by commas ({','.join(_WHAT)})"),
}


def run(config: Config, output: str, what: str) -> None:
    """Writes the arrays.

    Raises:
        UserError: if a flag is wrong, or what is to be written is missing, damaged or changed.
    """
    from workflow.exchange import lists, vectors

    done = {}
    for name, made in _inputs(config.places, output, what).items():
        folder = storage.join(output, name)
        if isinstance(made, Neighbors):
            queries = {split: Embeddings(config.places.queries(split)) for split in made.query_snapshots}
            done[name] = f"{counted(lists.write(folder, made, queries), 'list')} of {made.k}"
        else:
            columns = ", ".join(f"{column} in {vectors.array_name(column)}" for column in made.encoders)
            done[name] = f"{counted(vectors.write(folder, made), 'row')}, {columns}"
    summary("arrays", {**done, "output": output})


def foresee(config: Config, output: str, what: str) -> dict[str, str]:
    """Returns what would be written."""
    found = _inputs(config.places, output, what)
    return {"would": f"write {', '.join(found)} to {output}"}


def _inputs(places: Places, output: str, what: str) -> dict[str, Embeddings | Neighbors]:
    if not output:
        raise UserError("--output is missing: name the folder to write")
    names = [name for name in what.split(",") if name]
    if unknown := [name for name in names if name not in _WHAT]:
        raise UserError(f"--what={what}: {unknown[0]} is unknown; {nearest(unknown[0], _WHAT)}")
    folders = {_MEMORY: places.memory, _LISTS: places.neighbors}
    return {
        name: (Neighbors.open if name == _LISTS else Embeddings)(folders.get(name) or places.queries(name))
        for name in names
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, values=_VALUES, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
