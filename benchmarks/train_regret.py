"""What the choice on val loses against the best setting on test, the regret, of heads that are trained.

    python -m benchmarks.train_regret --config=configs/tiny_imagenet_lt.py --config.data=.. --config.train.heads=linear

Run `web-memory train` with the same flags first. Every setting of its trials is trained again, for all steps, with the
first seed, and measured on test: of 40 settings of mam this takes twice as long as its trials. Nothing is chosen by it.
The best of many settings on test is better than it would be on other images, so the regret is an upper bound.
The last line is one JSON object.
"""

import json
import sys
import tempfile
from typing import Any

from model.data import protocol
from model.measures import metrics
from model.training import hyperparameters, run_files, trials
from model.training.trials import Trial
from pipelines import manifest, options, storage
from pipelines.progress import Stage


def main(argv: list[str]) -> None:
    """Prints for each head how the chosen setting and the best one do on test, in percent."""
    config = options.parse(argv, str(__doc__))[0]
    places, train, found = config.places, config.train, {}
    splits = ("train", "val", "test")
    with Stage("regret", "steps", places.workdir) as stage, tempfile.TemporaryDirectory() as scratch:
        task = protocol.load(places, config.protocol, config.queries, train)
        task, data, folder = trials.open_runs(places, config.seed, train, task, splits)
        manifest.claim(scratch, run_files.TRAIN, manifest.read_identity(folder))
        for head in train.heads:
            chosen, points = _settings(folder, head)
            progress = trials.Progress(stage, (len(points) + 1) * train.steps)
            rows = []
            for number, point in enumerate([chosen, *points]):
                place = storage.join(scratch, f"{head}-{number}")
                manifest.claim(place, run_files.TRAIN, manifest.read_identity(folder))
                runs = trials.Runs(head, train, config.seed, task, data, place, progress)
                rows.append(runs.seed(Trial(number, point, {}), train.seeds[0])["accuracy"])
            found[head] = _regret(rows)
            best = points[found[head]["best"]]
            print(f"{head}: chosen {hyperparameters.words(chosen)}; best on test {hyperparameters.words(best)}")
            print(f"  {found[head]}")
    print(json.dumps(found))


def _settings(folder: str, head: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the chosen setting of a head and all that were tried, each once, without the steps of its trial."""
    points, place = [], storage.join(folder, head)
    while storage.exists(path := storage.join(place, f"trial-{len(points)}", run_files.TRIAL)):
        points.append(run_files.read(path, run_files.PROPOSAL)["point"])
    chosen = run_files.chosen(folder, head)["point"]
    plain = [{name: value for name, value in point.items() if name != "steps"} for point in [chosen, *points]]
    return plain[0], [point for number, point in enumerate(plain[1:]) if point not in plain[1 : 1 + number]]


def _regret(rows: list[dict[str, float]]) -> dict[str, float]:
    """Returns test accuracies in percent: `rows[0]` is that of the chosen setting."""
    overall, balanced = ([100 * of(row) for row in rows] for of in (lambda row: row["all"], metrics.balanced))
    return {
        "chosen": round(overall[0], 2),
        "regret": round(max(overall[1:]) - overall[0], 2),
        "regret of the criterion": round(max(balanced[1:]) - balanced[0], 2),
        "best": max(range(len(rows) - 1), key=lambda place: overall[1 + place]),
        "settings": len(rows) - 1,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
