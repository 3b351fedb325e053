"""Microseconds of calls on a GPU: from a cold cache, the host kept ahead of the device."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

AHEAD = 40_000_000  # cycles that the device sleeps while the host enqueues the calls: about 20 milliseconds


@dataclass
class Times:
    """Microseconds at the 20th, 50th and 80th percentile of the calls."""

    p20: float
    p50: float
    p80: float

    def gigabytes_per_second(self, moved: float) -> float:
        return moved / self.p50 / 1e3


def timed(calls: Sequence[Callable[[], Any]], repeats: int = 30) -> Times | None:
    """The calls in turn, each doing the same work on inputs of its own; None without a GPU: they only run once.

    Before each, three times the cache's size of other data is read: nothing of the inputs is left in the cache, and
    nothing waits there to be written.
    """
    for call in calls:
        call()
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    other = torch.zeros(3 * torch.cuda.get_device_properties(0).L2_cache_size // 4, device="cuda")
    starts, ends = ([torch.cuda.Event(enable_timing=True) for _ in range(repeats)] for _ in range(2))
    torch.cuda._sleep(AHEAD)
    for i in range(repeats):
        call = calls[i % len(calls)]
        other.sum()
        starts[i].record()
        call()
        ends[i].record()
    torch.cuda.synchronize()
    taken = [start.elapsed_time(end) * 1e3 for start, end in zip(starts, ends)]
    fifths = statistics.quantiles(taken, n=10)
    return Times(fifths[1], statistics.median(taken), fifths[7])


def copy_bandwidth(size: int) -> float | None:
    """Bytes read and written per nanosecond (GB/s) by a copy of `size` bytes; None without a GPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = [[torch.empty(size // 2, dtype=torch.bfloat16, device=device).zero_() for _ in range(2)] for _ in range(2)]
    times = timed([lambda a=a, b=b: b.copy_(a) for a, b in pairs])
    return times and times.gigabytes_per_second(2 * size)
