"""Shows the results of the trained heads: `web-memory report --config=configs/demo.py`.

Prints the tables of `evaluate` and writes below the workdir its `results.json`, `gallery.png` and an HTML page with
both, `report.html`. It trains nothing.
"""

import base64
import sys
from collections.abc import Sequence

from configs.base import Config
from model.reports import result_tables
from model.reports import results as reached
from pipelines import options, storage
from pipelines.progress import duration, say


def run(config: Config) -> None:
    """Prints the tables and writes the files.

    Raises:
        UserError: if a run is missing.
    """
    from model.data import protocol
    from model.measures import events
    from model.reports import gallery, report_page, runs
    from model.training import run_files
    from pipelines.sources.pictures import Pictures

    places, train = config.places, config.train
    results, path = reached.write(places, config.seed, train, config.finetune)
    written, picture = [path], ""
    if head := gallery.choose_head(train.heads):
        task, seed = protocol.load(places, config.protocol, config.queries, train), train.seeds[0]
        frozen = run_files.identity(places, config.seed, train, task.fingerprint)
        place, ids = run_files.of_seed(frozen.folder, head, seed), task.splits["test"].ids
        drawn = runs.load_run(head, seed, place, ids, run_files.config_hash(frozen))
        load = [Pictures(source, config.data, config.embed).load for source in (config.test_set, config.memory)]
        written.append(storage.join(places.workdir, "gallery.png"))
        gallery.write(written[-1], places, config.seed, task, drawn, *load)
        events.write_picture(places.workdir, f"gallery/{head}", written[-1])
        with storage.open_read(written[-1]) as file:
            picture = f"data:image/png;base64,{base64.b64encode(file.read()).decode()}"
    grids = result_tables.grids(results)
    facts = [
        f"recall@{results['k']} of the index {results['recall_at_k']:.3f}",
        "time: " + ", ".join(f"{stage} {duration(secs)}" for stage, secs in results["stage_secs"].items()),
    ]
    page = report_page.render(results, grids, report_page.read_curves(results), picture, "; ".join(facts))
    written.append(storage.join(places.workdir, "report.html"))
    with storage.atomic_write(written[-1]) as file:
        file.write(page.encode())
    for grid in grids:
        grid.show()
    for warning in results["warnings"]:
        say(f"warning: {warning}")
    for fact in facts:
        say(fact)
    say("wrote " + ", ".join(written))


def foresee(config: Config) -> dict[str, str]:
    """Says what would be shown; errors as those of `run`."""
    return reached.foresee(config.places, config.seed, config.train, config.finetune)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
