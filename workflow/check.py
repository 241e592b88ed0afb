"""Says what stands in the way of a config, and what to expect, before any work: `web-memory check --config=my.py`.

Checks all fields of all stages, reads the first rows of each source, runs a batch of them through each encoder, and
says what disk, memory and time the stages will take. It writes nothing into the workdir. Exit code 2 if anything stands
in the way; every problem is a sentence.
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from configs.base import Config
from pipelines import fields, options, progress
from pipelines.errors import UserError
from pipelines.progress import duration, summary
from pipelines.runner import Runner

if TYPE_CHECKING:
    from pipelines.encoders.handles import EncoderSpec
    from workflow.checking.costs import Cost
    from workflow.checking.encoder_check import Speed
    from workflow.checking.source_check import Looked


def run(config: Config, runner: Runner) -> None:
    """Looks at everything and says what it found.

    Raises:
        UserError: counts the problems, each of which has been printed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = list(fields.problems(config))
    # With wrong limits or formats nothing else can be looked at.
    found += [*fields.line_problems(config), *_look(config)] if not found else []
    for problem in dict.fromkeys(found):
        progress.error(problem)
    if found:
        count = len(set(found))
        raise UserError(f"{count} {'problem stands' if count == 1 else 'problems stand'} in the way, see above")
    progress.say("nothing stands in the way; web-memory run does the work")


def _look(config: Config) -> list[str]:
    """Prints what sources, encoders and stages are like; returns the problems."""
    from pipelines.embedding import columns
    from pipelines.embedding.names import class_names
    from pipelines.embedding.request import Request
    from workflow.checking import encoder_check, source_check

    try:
        request = Request.of(config)
    except UserError as error:
        return [str(error)]
    with tempfile.TemporaryDirectory(prefix="web-memory-check-") as scratch:
        looked, problems = source_check.look(request, config.predict_set, scratch)
    problems += [problem for source in looked for problem in source.problems]
    summary("sources", {source.name: source.words for source in looked if source.files})
    samples = [sample for source in looked for sample in source.samples]
    if not samples:
        return problems
    try:
        specs = columns.resolve(request)
        class_names.check(specs, config.encoders)
        speed = encoder_check.measure(specs, samples, config.embed)
    except UserError as error:
        return [*problems, str(error)]
    summary("encoders, a batch of these rows on all cores", _speeds(specs, speed))
    # With a source that is missing or wrong, all sums are wrong.
    return problems or _expect(config, looked, specs, speed)


def _speeds(specs: "Mapping[str, EncoderSpec]", speed: "Speed") -> dict[str, str]:
    lines = {"decoding": f"{speed.decode:,.0f} images/s"} if speed.decode else {}
    for column, spec in specs.items():
        rate = f"{speed.rates[column]:,.0f} {spec.kind}s/s" if column in speed.rates else "nothing more to encode"
        lines[column] = f"{spec.handle} ({spec.info.dim}-d, {spec.info.dtype}), {rate}"
    return lines


def _expect(
    config: Config, looked: "Sequence[Looked]", specs: "Mapping[str, EncoderSpec]", speed: "Speed"
) -> list[str]:
    """Prints what the stages will take; returns the problems."""
    from workflow.checking import costs

    rows = {source.name: source.rows for source in looked if source.name != "predict"}
    samples = {source.name: source.samples for source in looked}
    memory, queries = rows["memory"], sum(count for name, count in rows.items() if name != "memory")
    each = costs.row_bytes(specs, list(specs), samples["memory"])
    expected, problems = [costs.of_embedding(rows, specs, samples, speed)], []
    try:
        expected.append(costs.of_index(memory, specs["key"].info.dim, config.index))
    except UserError as error:
        problems.append(str(error))
    if queries:
        expected.append(costs.of_lists(queries, memory, config.neighbors, each))
        named, is_on_host = min(queries * config.neighbors.k, memory), config.train.table == "host"
        expected.append(costs.of_training(queries, named, specs, is_on_host))
    _print(expected)
    needed, free = sum(cost.disk_bytes for cost in expected), costs.free_bytes(config.workdir)
    facts = {"disk": f"{costs.shown(needed)} needed, {costs.shown(free) if free is not None else 'unknown'} free"}
    summary(config.workdir, facts)
    if free is not None and needed > free:
        problems.append(
            f"--config.workdir={config.workdir}: the stages write about {costs.shown(needed)}, its disk has "
            f"{costs.shown(free)} free; make room or name another folder"
        )
    peak, there = max(cost.memory_bytes or 0 for cost in expected), costs.memory_bytes()
    if peak > there:
        problems.append(
            f"--config.index.memory_gb={config.index.memory_gb:g}: a stage holds about {costs.shown(peak)} at once, "
            f"this machine has {costs.shown(there)}; set index.memory_gb for smaller shards, and train.table=host for "
            "tables in files"
        )
    return problems


def _print(expected: "Sequence[Cost]") -> None:
    from workflow.checking.costs import UNKNOWN, shown

    cells = []
    for cost in expected:
        secs = UNKNOWN if cost.secs is None else f"about {duration(cost.secs)}"
        disk = f"about {shown(cost.disk_bytes)}" if cost.disk_bytes else UNKNOWN
        cells.append((cost.stage, cost.what, disk, shown(cost.memory_bytes), secs))
    columns = ("stage", "what", "disk", "memory", "time")
    progress.table("to expect if nothing is done yet; disk before compression", columns, cells, left=("what",))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    description = str(__doc__).splitlines()[0]
    return options.main(run, description, argv, beam=True, writes_workdir=False, checks_fields=False)


if __name__ == "__main__":
    sys.exit(main())
