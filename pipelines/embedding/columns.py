"""The encoder of each vector column of a memory. How a handle is resolved is up to `pipelines.encoders`."""

import concurrent.futures

from pipelines import sources
from pipelines.embedding.request import Request
from pipelines.encoders import handles
from pipelines.encoders.handles import PRECOMPUTED, EncoderSpec
from pipelines.errors import UserError


def resolve(request: Request) -> dict[str, EncoderSpec]:
    """Returns the encoder of each vector column, building or downloading those that are not cached.

    Raises:
        UserError: if an encoder is unknown or of the wrong kind, or there is none for keys.
    """
    wanted, named = request.encoders, handles.columns(request.encoders)
    provided: dict[str, int] = {}
    for source in request.sources.values():
        provided |= sources.brought_dims(sources.resolve(source, request.places.data))

    def one(column: str) -> EncoderSpec:
        handle, _ = named[column]
        if not handle.startswith(PRECOMPUTED):
            return handles.configured(handle, wanted)
        if column not in provided:
            raise UserError(f"--config.encoders: {column} is {handle}, but no source provides such vectors")
        return handles.precomputed(handle, provided[column], wanted.dtype, wanted.normalize)

    # Building an encoder waits for the network, then uses one core: several at a time are done sooner.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        specs = dict(zip(named, pool.map(one, named), strict=True))
    for column, spec in specs.items():
        kind = named[column][1]
        if spec.kind not in (kind, "precomputed"):
            raise UserError(f"--config.encoders: {column} is {spec.handle}, an encoder of {spec.kind}s, not {kind}s")
    return specs
