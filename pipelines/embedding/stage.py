"""The embed stage: embeds every shard that is not done, selects the memory's rows, embeds the class names.

Both the command `embed` and `index.reindex` run it.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from pipelines import sources
from pipelines.embedding import class_names, columns, completion, folders
from pipelines.embedding.folders import Folder
from pipelines.embedding.request import MEMORY, Request
from pipelines.encoders.handles import EncoderSpec
from pipelines.errors import UserError
from pipelines.filtering.dropped import REMOVED
from pipelines.filtering.selection import Selection
from pipelines.manifest import Marker
from pipelines.progress import duration, summary
from pipelines.runner import Runner


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
        names = class_names.read(request.places)
        encoders = columns.resolve(request)
        opened = folders.open_all(request, encoders, retry_rejects)
        pending = sum(len(folder.pending) for folder in opened)
        stage.worked = pending > 0
        if pending:
            from pipelines.embedding import job

            job.run(opened, encoders, request.embed, request.filters, runner)
        for folder in opened:
            folders.check_rejects(folder, request.embed.max_rejects_share)
        chosen = completion.complete(opened, request, runner)
        classes = class_names.write(names, encoders, request.places.classes, request.embed.batch_size)
        markers = [marker for folder in opened for marker in folder.markers]
        rows = sum(marker.rows_out for marker in markers)
        summary(
            f"embed: {rows:,} rows in {duration(stage.secs)}" if pending else "embed: already done",
            {
                **_row_lines(opened),
                **({"class names": f"{classes:,}, in {request.places.classes}"} if classes else {}),
                **_unused_lines(markers, chosen, bool(request.filters.leakage)),
                "shards": f"{len(markers)}, of which {len(markers) - pending} were already done",
                "encoders": _encoders_line(encoders),
                "output": request.places.workdir,
            },
        )


def _check_sources(request: Request) -> None:
    """Raises a `UserError` for a source that is not there, before encoders are fetched and anything is embedded."""
    for name, source in request.sources.items():
        try:
            sources.check_exists(source, request.places.data)
        except UserError as error:
            raise UserError(f"--config.{name if name == MEMORY else f'{name}_set'}: {error}") from error


def _row_lines(opened: Sequence[Folder]) -> dict[str, str]:
    return {folder.name: f"{sum(marker.rows_out for marker in folder.markers):,} rows" for folder in opened}


def _encoders_line(encoders: Mapping[str, EncoderSpec]) -> str:
    return ", ".join(f"{column} {spec.handle} ({spec.info.dim}-d)" for column, spec in encoders.items())


def _unused_lines(markers: Sequence[Marker], chosen: Selection, checks_leakage: bool) -> dict[str, str]:
    """Returns what the summary says of rows that are not used: rejected, filtered, dropped and removed."""
    rejected, retryable = sum(m.rows_rejected for m in markers), sum(m.retryable for m in markers)
    filtered: Counter[str] = sum((Counter(marker.filtered) for marker in markers), Counter())
    dropped = dict(chosen.totals)
    # A compaction moves removed rows from the selection to the markers.
    removed = filtered.pop(REMOVED, 0) + dropped.pop(REMOVED, 0)
    lines = {
        "rejected": f"{rejected:,} rows"
        + (", listed in _rejects/" if rejected else "")
        + (f"; {retryable:,} may be read with --retry_rejects" if retryable else ""),
        "filtered": completion.counts(filtered) + (", listed in _filtered/" if filtered else ""),
        "dropped": completion.counts(dropped) + (", listed in memory/_dropped/" if any(dropped.values()) else ""),
    }
    if removed:
        lines["removed"] = f"{removed:,} rows"
    if checks_leakage and "leakage" not in chosen.totals:
        lines["leakage"] = "not checked, there is no val or test split"
    return lines
