"""What embedding sets for the whole process: TensorFlow's threads, and memory that is kept instead of given back."""

import contextlib
import ctypes

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
