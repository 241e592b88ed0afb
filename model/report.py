"""Shows the results of the trained heads: `web-memory report --config=configs/demo.py`.

Prints the tables of `evaluate` and writes below the workdir its `results.json`, `gallery.png`, and `report/`, a folder
of pages that begins with `index.html`. It trains nothing.
"""

import contextlib
import functools
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from configs.base import Config
from model.reports import result_tables
from model.reports import results as reached
from pipelines import options, storage
from pipelines.errors import UserError
from pipelines.progress import Stage, counted, duration, say

if TYPE_CHECKING:
    from model.reports.pages.site import Site
    from model.reports.runs import Runs

_THUMBNAIL = 112


def _album(config: Config, name: str, rows: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Returns pictures of rows of the memory or of a split, see `inputs.Album`."""
    from pipelines.sources import pictures

    source = config.memory if name == "memory" else config.queries[name]
    read, wanted = pictures.Pictures(source, config.data, config.embed), defaultdict(set)
    for container, member in rows:
        wanted[container].add(member)
    found = {}
    for container, members in wanted.items():
        with contextlib.suppress(UserError):
            for member, picture in read.load_small(container, members, _THUMBNAIL):
                if picture:
                    found[container, member] = pictures.data_url(picture, _THUMBNAIL)
    return found


def _draw(config: Config) -> str:
    """Writes `gallery.png` if there is a head that attends and its pictures can be read; returns its path."""
    from model.data import protocol
    from model.measures import events
    from model.reports import gallery, runs
    from model.training import run_files
    from pipelines.sources.pictures import Pictures

    places, train = config.places, config.train
    head = gallery.choose_head(train.heads)
    if not head:
        return ""
    task, seed = protocol.load(places, config.protocol, config.queries, train), train.seeds[0]
    frozen = run_files.identity(places, config.seed, train, task.fingerprint)
    place, ids = run_files.of_seed(frozen.folder, head, seed), task.splits["test"].ids
    drawn = runs.load_run(head, seed, place, ids, run_files.config_hash(frozen))
    load = [Pictures(source, config.data, config.embed).load for source in (config.test_set, config.memory)]
    path = storage.join(places.workdir, "gallery.png")
    try:
        gallery.write(path, places, config.seed, task, drawn, *load)
    except UserError as error:
        say(f"no gallery.png: {error}")
        return ""
    events.write_picture(places.workdir, f"gallery/{head}", path)
    return path


def _gallery(config: Config, site: "Site", found: "Runs") -> str:
    """Writes the page of test images and their neighbours, and says what it took; returns its path."""
    from model.gallery import writer
    from pipelines.sources.pictures import Pictures

    sources = {"test": config.test_set, "memory": config.memory}
    pictures = {name: Pictures(source, config.data, config.embed) for name, source in sources.items()}
    with Stage("gallery", "rows", config.places.workdir) as stage:
        made = writer.write(site, config.places, found, config.seed, pictures, stage.update)
        # The times that the report shows are those of what it reports.
        stage.worked = False
        say(f"gallery: {made.images:,} test images, {made.size_bytes / 1e6:,.1f} MB, {duration(stage.secs)}")
    if made.pictures.unreadable:
        missing = counted(made.pictures.unreadable, "picture")
        say(f"warning: {missing} of the gallery could not be read: {made.pictures.why}")
    return made.path


def run(config: Config, flags: Sequence[str] = ()) -> None:
    """Prints the tables and writes the files.

    Args:
        config: the configuration.
        flags: of the command line that chose it, for the commands that the report names.

    Raises:
        UserError: if a run is missing.
    """
    from model.data import class_names
    from model.reports import runs
    from model.reports.pages import writer
    from model.reports.pages.inputs import Inputs
    from model.training import run_files
    from pipelines.manifest import Neighbors

    places, train = config.places, config.train
    results, path = reached.write(places, config.seed, train, config.finetune)
    written = [path, _draw(config)]
    lists = Neighbors.open(places.neighbors)
    found = runs.load(run_files.identity(places, config.seed, train, lists.fingerprint), train, config.finetune, lists)
    inputs = Inputs(
        config=config,
        flags=tuple(flags),
        results=results,
        found=found,
        lists=lists,
        class_names=class_names.read(places, len(found.class_counts)),
        is_named=bool(class_names.known(places)[0]),
        album=functools.partial(_album, config),
    )
    site = writer.plan(storage.join(places.workdir, "report"), places.workdir, ["gallery"])
    written += [writer.write(site, inputs), _gallery(config, site, found)]
    for grid in result_tables.grids(results):
        grid.show()
    for warning in results["warnings"]:
        say(f"warning: {warning}")
    say(f"recall@{results['k']} of the index {results['recall_at_k']:.3f}")
    say("time: " + ", ".join(f"{stage} {duration(secs)}" for stage, secs in results["stage_secs"].items()))
    say("wrote " + ", ".join(filter(None, written)))


def foresee(config: Config) -> dict[str, str]:
    """Says what would be shown; errors as those of `run`."""
    return reached.foresee(config.places, config.seed, config.train, config.finetune)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    flags = [arg for arg in (sys.argv[1:] if argv is None else argv) if arg.startswith("--config")]

    def write(config: Config) -> None:
        run(config, flags)

    return options.main(write, str(__doc__).splitlines()[0], argv, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
