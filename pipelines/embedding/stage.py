"""The embed stage: embeds every shard that is not done, selects the memory's rows, embeds the class names.

Both the command `embed` and `index.reindex` run it.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence

from pipelines import sources
from pipelines.embedding import classes, columns, completion, folders
from pipelines.embedding.folders import Folder
from pipelines.embedding.names import class_names
from pipelines.embedding.request import MEMORY, Request
from pipelines.encoders.handles import EncoderSpec
from pipelines.errors import UserError
from pipelines.filtering import leaks
from pipelines.filtering.conditions import remarks
from pipelines.filtering.dropped import REMOVED
from pipelines.filtering.selection import Selection
from pipelines.manifest import Marker
from pipelines.progress import counted, duration, summary
from pipelines.runner import Runner
from pipelines.sources.sample import said_passed_over


def embed(request: Request, runner: Runner, retry_rejects: bool = False) -> None:
    """Embeds every shard that is not done, finishes all folders and prints a summary.

    Args:
        request: what to embed.
        runner: of the command.
        retry_rejects: whether to embed shards again whose rejected rows may be readable now.

    Raises:
        UserError: if a source or an encoder is wrong, too many rows are rejected, or no row is left.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with runner.stage("embed", "images", request.places.workdir) as stage:
        _check_sources(request)
        stage.doing("finding encoders, listing sources")
        names = class_names.read(request.places)
        encoders = columns.resolve(request)
        class_names.check(encoders, request.encoders)
        named = classes.agree(request)
        compared = classes.check_class_names(request, named, names)
        request = request.with_names(names or named.names)
        opened = folders.open_all(request, encoders, named, retry_rejects)
        pending = sum(len(folder.pending) for folder in opened)
        stage.worked = pending > 0
        if pending:
            from pipelines.embedding import job

            job.run(opened, encoders, request.embed, request.filters, runner, request.names)
        for folder in opened:
            conditions = request.filters.metadata if folder.is_memory else ()
            folders.check_rejects(folder, request.embed.max_rejects_share, conditions)
        chosen = completion.complete(opened, request, runner)
        written = class_names.write(
            names or list(named.names), encoders, request.places, request.encoders, request.embed.batch_size, runner
        )
        markers = [marker for folder in opened for marker in folder.markers]
        rows = sum(marker.rows_out for marker in markers)
        summary(
            f"embed: {counted(rows, 'row')} in {duration(stage.secs)}" if pending else "embed: already done",
            {
                **_row_lines(opened),
                **_class_lines(request, opened, named),
                **written.lines(request.places.classes, request.encoders),
                **({"class names differ": compared} if compared else {}),
                **_unused_lines(markers, chosen, bool(request.filters.leakage)),
                **_leakage_lines(opened[0], chosen),
                **_condition_lines(opened[0], request.filters.metadata),
                **_passed_over_line(request, opened, named),
                "shards": f"{len(markers)}, of which {len(markers) - pending} were already done",
                "encoders": _encoders_line(encoders),
                "output": request.places.workdir,
            },
        )


def foresee(request: Request) -> dict[str, str]:
    """Returns what is embedded and what would be, by folder, in words; writes to no output folder.

    Raises:
        UserError: if a source or an encoder is wrong, or a folder is another configuration's.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _check_sources(request)
    names = class_names.read(request.places)
    encoders = columns.resolve(request)
    class_names.check(encoders, request.encoders)
    named = classes.agree(request)
    classes.check_class_names(request, named, names)
    request = request.with_names(names or named.names)
    with tempfile.TemporaryDirectory(prefix="web-memory-") as scratch:
        found = folders.foresee(request, encoders, named, scratch)
    return {**found, "encoders": _encoders_line(encoders), "output": request.places.workdir}


def _condition_lines(memory: Folder, conditions: Sequence[str]) -> dict[str, str]:
    """Returns what the summary says of conditions on the metadata that change nothing."""
    kept = sum(marker.rows_out for marker in memory.markers)
    found = remarks(conditions, folders.filtered_by(memory.markers), kept)
    return {"conditions": "; ".join(found)} if found else {}


def _check_sources(request: Request) -> None:
    """Raises a `UserError` for a source that is not there, before encoders are fetched and anything is embedded."""
    for name, source in request.sources.items():
        try:
            sources.check_exists(source, request.places.data)
        except UserError as error:
            raise UserError(f"--config.{name if name == MEMORY else f'{name}_set'}: {error}") from error


def _row_lines(opened: Sequence[Folder]) -> dict[str, str]:
    return {folder.name: counted(sum(marker.rows_out for marker in folder.markers), "row") for folder in opened}


def _class_lines(request: Request, opened: Sequence[Folder], named: classes.Classes) -> dict[str, str]:
    splits = {folder.name: folder.path for folder in opened if not folder.is_memory}
    unknown = sum(marker.unknown_classes for folder in opened if folder.is_memory for marker in folder.markers)
    return classes.lines(splits, named, unknown)


def _passed_over_line(request: Request, opened: Sequence[Folder], named: classes.Classes) -> dict[str, str]:
    """Returns what the summary says of files that belong to no row, and of folders that were not entered."""
    # Splits that are parts of one source pass over the same files.
    same = {(s.format, s.path): folder for folder in opened for s in (request.sources[folder.name],)}
    files = sum((folder.passed_over for folder in same.values()), Counter[str]())
    system = sum((named.passed_over.get(folder.name, Counter()) for folder in same.values()), Counter[str]())
    lines = [f"{counted(files.total(), 'file')}: {said_passed_over(files)}"] if files else []
    if system:
        lines.append("system folders: " + ", ".join(f"{name} {count:,}" for name, count in sorted(system.items())))
    return {"passed over": "; ".join(lines)} if lines else {}


def _encoders_line(encoders: Mapping[str, EncoderSpec]) -> str:
    return ", ".join(f"{column} {spec.handle} ({spec.info.dim}-d)" for column, spec in encoders.items())


def _leakage_lines(memory: Folder, chosen: Selection) -> dict[str, str]:
    """Returns what the summary says of how copies of queries were found."""
    how = leaks.summary(chosen)
    warning = leaks.advice(memory.path, chosen, sum(marker.rows_out for marker in memory.markers))
    return {**({"leakage": how} if how else {}), **({"warning": warning} if warning else {})}


def _unused_lines(markers: Sequence[Marker], chosen: Selection, checks_leakage: bool) -> dict[str, str]:
    """Returns what the summary says of rows that are not used: rejected, filtered, dropped and removed."""
    rejected, retryable = sum(m.rows_rejected for m in markers), sum(m.retryable for m in markers)
    filtered = folders.filtered_by(markers)
    dropped = dict(chosen.totals)
    # A compaction moves removed rows from the selection to the markers.
    removed = filtered.pop(REMOVED, 0) + dropped.pop(REMOVED, 0)
    lines = {
        "rejected": counted(rejected, "row")
        + (", listed in _rejects/" if rejected else "")
        + (f"; {retryable:,} may be read with --retry_rejects" if retryable else ""),
        "filtered": completion.counts(filtered) + (", listed in _filtered/" if filtered else ""),
        "dropped": completion.counts(dropped) + (", listed in memory/_dropped/" if any(dropped.values()) else ""),
    }
    if removed:
        lines["removed"] = counted(removed, "row")
    if chosen.opt_out and str(chosen.opt_out):
        lines["opt-out list"] = str(chosen.opt_out)
    if checks_leakage and "leakage" not in chosen.totals:
        lines["leakage"] = "not checked, there is no val or test split"
    return lines
