"""Shows what the trained heads reach: `python -m model.report --config=configs/demo.py`.

Prints the tables of `evaluate` and writes its `results.json`, `gallery.png` and, with both in it, `report.html` below
the workdir. Trains nothing.
"""

import base64
import sys
from collections.abc import Sequence

from configs.base import Config
from model.reports import results as reached
from pipelines import options, storage
from pipelines.progress import duration, say


def run(config: Config) -> None:
    """Prints the tables and writes the files.

    Raises:
        UserError: if the runs are not there.
    """
    from model.reports import gallery, report_page

    results, path = reached.write(config)
    written, picture = [path], ""
    if "mam" in config.train.heads:
        written.append(storage.join(config.workdir, "gallery.png"))
        gallery.write(config, results["runs"], written[-1])
        with storage.open_read(written[-1]) as file:
            picture = f"data:image/png;base64,{base64.b64encode(file.read()).decode()}"
    grids = reached.grids(results)
    facts = [
        f"recall@{results['k']} of the index {results['recall_at_k']:.3f}",
        "time: " + ", ".join(f"{stage} {duration(secs)}" for stage, secs in results["stage_secs"].items()),
    ]
    page = report_page.render(results, grids, report_page.read_curves(results), picture, "; ".join(facts))
    written.append(storage.join(config.workdir, "report.html"))
    with storage.atomic_write(written[-1]) as file:
        file.write(page.encode())
    for grid in grids:
        grid.show()
    for fact in facts:
        say(fact)
    say("wrote " + ", ".join(written))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv)


if __name__ == "__main__":
    sys.exit(main())
