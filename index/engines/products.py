"""The products that a search in JAX is made of."""

import jax
import jax.numpy as jnp


@jax.jit
def products(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Returns all dot products of queries `[q, d]` and keys `[n, d]`, summed in float32, `[q, n]`."""
    return jax.lax.dot_general(
        queries, keys, (((1,), (1,)), ((), ())), precision="highest", preferred_element_type=jnp.float32
    )
