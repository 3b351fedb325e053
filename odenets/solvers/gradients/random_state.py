"""States of the random number generators, so that a recomputed field draws what it drew before (dropout)."""

from __future__ import annotations

from typing import Any

import torch


class RandomState:
    """The generators' states of the CPU and of one device at one moment.

    Args:
        device: where the field computes.
        like: an earlier state, returned by `capture` in place of an equal new one, so that fields that draw nothing
            cost no memory.
    """

    def __init__(self, device: torch.device, cpu: torch.Tensor, accelerator: torch.Tensor | None) -> None:
        self.device, self.cpu, self.accelerator = device, cpu, accelerator

    @classmethod
    def capture(cls, device: torch.device, like: RandomState | None = None) -> RandomState:
        cpu = torch.default_generator.get_state()
        accelerator = None if device.type in ("cpu", "meta") else _module(device).get_rng_state(device)
        if like is not None and _same(cpu, like.cpu) and _same(accelerator, like.accelerator):
            return like
        return cls(device, cpu, accelerator)

    def restore(self) -> None:
        torch.default_generator.set_state(self.cpu)
        if self.accelerator is not None:
            _module(self.device).set_rng_state(self.accelerator, self.device)


def _module(device: torch.device) -> Any:
    return torch.get_device_module(device)


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    # as bytes on the host, where the states lie: several times faster than comparing tensors
    return a is b or (a is not None and b is not None and a.numpy().tobytes() == b.numpy().tobytes())
