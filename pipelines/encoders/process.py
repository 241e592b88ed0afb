"""What embedding sets for the whole process: TensorFlow's threads and precision, and memory that is kept when freed."""

import contextlib
import ctypes
import pathlib

from pipelines.errors import UserError

FLOAT32, BFLOAT16 = "float32", "bfloat16"
FLAG = "--config.encoders.compute"
_CPUINFO = pathlib.Path("/proc/cpuinfo")
# Either makes matrix products of bfloat16 faster than those of float32.
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
_REWRITER = "auto_mixed_precision_onednn_bfloat16"

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def one_thread_a_call(calls: int) -> None:
    """Makes TensorFlow use one thread for each of `calls` simultaneous calls; has no effect once it has run."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(calls)
    except RuntimeError:
        # The runtime of this process has started, with the threads it was given first.
        return


def keep_freed_memory() -> None:
    """Makes glibc keep large blocks that are freed; has no effect on other C libraries. Call it before threads start.

    Each batch frees hundreds of megabytes and allocates them again. Returning them to the kernel in between took a
    third of the processor time of an EfficientNet. All threads share one arena, since an arena of their own cannot keep
    a block of more than 64 MB.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def check_compute(compute: str) -> None:
    """Checks that this machine computes in a precision, `float32` or `bfloat16`, faster than in float32.

    Raises:
        UserError: for bfloat16, if no processor flag says that it has such instructions, or TensorFlow uses a GPU.
    """
    if compute == FLOAT32:
        return
    found = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    if not {*_BFLOAT16_FLAGS} & {*found.split()}:
        raise UserError(
            f"{FLAG}={compute}: the processor of this machine has neither AMX-BF16 nor AVX-512 BF16 "
            f"({' and '.join(_BFLOAT16_FLAGS)} were looked for in {_CPUINFO}), so bfloat16 would bring nothing; "
            f"set {FLAG}={FLOAT32}"
        )
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        # `auto_mixed_precision`, TensorFlow's rewriting for GPUs, computes in float16.
        raise UserError(
            f"{FLAG}={compute}: TensorFlow computes on a GPU here and rewrites models to bfloat16 only for processors; "
            f"set {FLAG}={FLOAT32}, or CUDA_VISIBLE_DEVICES=-1 to embed on the processor"
        )


def set_compute(compute: str) -> None:
    """Makes every TensorFlow model of this process, also those loaded before, compute in `float32` or `bfloat16`.

    Call it before threads run models: a thread that has run one keeps the precision of its first call.

    Raises:
        UserError: as `check_compute`.
    """
    import tensorflow as tf

    check_compute(compute)
    is_wanted = compute == BFLOAT16
    if tf.config.optimizer.get_experimental_options().get(_REWRITER, False) != is_wanted:
        tf.config.optimizer.set_experimental_options({_REWRITER: is_wanted})
