"""How a worker's process handles its memory."""

from __future__ import annotations

import ctypes
import platform


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
