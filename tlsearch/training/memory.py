"""How a worker's process handles its memory."""

from __future__ import annotations

import ctypes
import platform

DEVICE_SHARE = 0.5
"""Of the free memory of a GPU: what one view of stored activations may take. Training needs the rest."""


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of giving it back after every operation.

    Activations are freed and asked for again in every step; page faults are a sixth of a training step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc.mallopt(m_mmap_threshold, 32 * 2**20 - 1)  # the most that glibc takes
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def use_threads(count: int) -> None:
    """Have torch, and all BLAS and OpenMP libraries that are loaded, use so many threads.

    Those that a worker loads later look at ``OMP_NUM_THREADS``, which Ray sets to the trial's CPUs.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(count)
    threadpool_limits(count)


def take_share(share: float) -> None:
    """Keep this process to its share of the GPU: asking for more is answered as out of memory.

    Ray places trials by their shares, and leaves it to them to keep to it.
    """
    import torch

    if 0 < share < 1:
        torch.cuda.set_per_process_memory_fraction(share)


def device_room(share: float) -> int:
    """Bytes of the GPU that stored activations may take now."""
    import torch

    free, total = torch.cuda.mem_get_info()
    # What torch has reserved and not allocated is free too, to this process alone.
    own = total * min(1.0, share or 1.0) - torch.cuda.memory_allocated()
    idle = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(DEVICE_SHARE * max(0, min(own, free + idle)))
