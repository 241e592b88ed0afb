"""Data parallelism over the devices of this process: parameters and tables on each, batches split among them."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pipelines.errors import UserError

AXIS = "data"


@functools.cache
def mesh() -> Mesh | None:
    """Returns the devices as a one-dimensional mesh, None if there is only one."""
    devices = jax.local_devices()
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,)) if len(devices) > 1 else None


def check(batch_size: int, field: str) -> None:
    """Raises a `UserError` that names the `field` of the config if a batch cannot be split evenly."""
    if batch_size % (devices := jax.local_device_count()):
        raise UserError(f"--config.{field}={batch_size}: must be a multiple of the {devices} devices")


def whole() -> NamedSharding | None:
    """Returns the placement of arrays that each device has a whole copy of; None for JAX's default."""
    devices = mesh()
    return NamedSharding(devices, PartitionSpec()) if devices else None


def replicate(tree: Any) -> Any:
    """Puts arrays on every device; NumPy arrays may be used without a copy, so they must not be written to later."""
    return jax.device_put(tree, whole(), may_alias=True)


def split(tree: Any) -> Any:
    """Inside jit, splits arrays among the devices along their first axis."""
    devices = mesh()
    return jax.lax.with_sharding_constraint(tree, NamedSharding(devices, PartitionSpec(AXIS))) if devices else tree


def over_queries(function: Any, shared: Any, queries: Any) -> Any:
    """Calls `function(shared, queries)` on each device with its own part of the first axis of `queries`."""
    devices, rows = mesh(), len(jax.tree.leaves(queries)[0])
    if devices is None or rows % devices.size:
        return function(shared, queries)
    parts = PartitionSpec(AXIS)
    mapped = jax.shard_map(function, mesh=devices, in_specs=(PartitionSpec(), parts), out_specs=parts, check_vma=False)
    return mapped(shared, queries)
