"""Exponential moving average of the weights, used for evaluation and export."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Averaged:
    """Averages of a module's floating-point parameters; `decay` per step, shorter while there are few steps."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = module
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.module.named_parameters():
            if self.average:
                self.average[name].lerp_(parameter.detach(), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module holds the averages; afterwards its own weights again."""
        if not self.average:
            yield
            return
        own = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return dict(self.average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        for name, value in state.items():
            self.average[name].copy_(value)

    @torch.no_grad()
    def _write(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.copy_(weights[name])
