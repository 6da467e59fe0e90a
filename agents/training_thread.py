"""What a thread that trains sets for itself first: small batched products on one core are fast only so."""

import ctypes
import functools
import logging
import sys
from typing import Final

import torch

log = logging.getLogger(__name__)

TRIM_THRESHOLD: Final = -1
MMAP_THRESHOLD: Final = -3
KEPT: Final = 1 << 30
"""Bytes of freed memory that stay with the process."""


def prepare() -> None:
    """Call first in every thread that trains.

    One thread of its own for the products: those of a population are too small to share out. Denormal numbers are 0:
    the moments of dead units decay into them, of which a square root is 25-50 times slower.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    _keep_freed_memory()


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep what a gradient step frees for the next one: else each step takes up to 300 page faults anew.

    At 64 networks of 128 rows this saves 28 % of a step (benchmarks/engine.py's machine). Other C libraries: no change.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.debug("this C library has no mallopt")
        return
    mallopt(TRIM_THRESHOLD, KEPT)
    mallopt(MMAP_THRESHOLD, KEPT)
