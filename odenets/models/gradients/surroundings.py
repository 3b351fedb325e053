"""What a step depends on that is no argument of it: random numbers, autocast, buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RandomState:
    """The states of the random generators of the CPU and of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def moved(self) -> bool:
        """Whether random numbers have been drawn since."""
        now = RandomState(self.device)
        return not torch.equal(self.cpu, now.cpu) or (
            self.cuda is not None and now.cuda is not None and not torch.equal(self.cuda, now.cuda)
        )

    def set(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


@contextmanager
def replayed(random: RandomState | None) -> Iterator[None]:
    """Random numbers as they were drawn after `random` was taken; afterwards go on as if none had been drawn."""
    if random is None:
        yield
        return
    now = RandomState(random.device)
    random.set()
    try:
        yield
    finally:
        now.set()


def autocast_of(device: torch.device) -> Callable[[], torch.autocast]:
    """A factory of the present autocast, for the same casts later.

    Without the cache of cast weights: later operations, which need their graph, would find those cast under no_grad.
    """
    kind = device.type
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False)


class BuffersKept:
    """Undo what an evaluation does to the buffers of modules in training: running statistics count it once.

    A context that can be entered again after it was left.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.parts = [part for module in modules for part in module.modules() if part.training]
        self.kept: list[tuple[Tensor, Tensor, int]] = []

    def __enter__(self) -> None:
        for part in self.parts:
            # batch norm changes its statistics without changing their version
            hidden = -1 if isinstance(part, _BatchNorm) else 0
            self.kept += [(b, b.clone(), b._version + hidden) for b in part.buffers(recurse=False)]

    def __exit__(self, *exception: object) -> None:
        kept, self.kept = self.kept, []
        for buffer, before, version in kept:
            if buffer._version != version:
                buffer.data.copy_(before)  # .data: for the graph just recorded, which may hold it, nothing has changed
