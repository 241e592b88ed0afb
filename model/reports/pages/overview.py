"""The first page: what the runs show, how sure that is, and what was run."""

from typing import Any

from configs.schema.training import SHOTS
from model.reports import result_tables, tables
from model.reports.pages import facts, headline, rows
from model.reports.pages.inputs import Inputs, describe
from model.reports.result_tables import percent
from pipelines.progress import counted


def gather(inputs: Inputs) -> dict[str, Any]:
    """Returns what `index.html.j2` shows."""
    found = rows.accounts(inputs.config.places)
    groups = {shots: facts.group_notes(inputs, shots) for shots in SHOTS}
    grids = result_tables.grids(inputs.results, groups)
    return {
        "headline": headline.sentence(inputs),
        "lead": _lead(inputs),
        "doubts": headline.doubts(inputs, found),
        "tables": [tables.table(grid) for grid in grids],
        "heads": [(head, describe(head)) for head in inputs.found.heads],
        "data": facts.data(inputs, found),
        "encoders": tables.table(facts.encoders(inputs)),
        "settings": facts.settings(inputs.config),
        "all_settings": facts.all_settings(inputs.config),
        "times": tables.table(facts.times(inputs.config.workdir)),
        "versions": tables.table(facts.versions()),
        "commands": facts.commands(inputs),
    }


def _lead(inputs: Inputs) -> str:
    """Returns what the headline is of, in figures."""
    methods, images = inputs.results["methods"], len(inputs.found.labels)
    heads = [head for head in (inputs.subject, inputs.reference) if head]
    reached = " and ".join(f"{head} recognises {percent(methods[head]['all'])} %" for head in heads)
    seeds = len(inputs.config.train.seeds)
    text = f"{reached} of {counted(images, 'test image')} of {counted(len(inputs.found.class_counts), 'class')}"
    text += f", mean ± standard deviation over {seeds} seeds." if seeds > 1 else ", with one seed."
    if inputs.reference:
        level = inputs.results["bootstrap"]["level"]
        text += f" In brackets: a {level:.0%} interval of the difference, paired bootstrap over test images."
    return text
