"""What the training loop needs to know of a task."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Task(nn.Module, ABC):
    """A network, its data, its loss and its measures. `forward(*batch, progress)` returns the training loss."""

    network: nn.Module
    headline: tuple[str, ...]  # measures, most important first; the progress bar shows the first

    @abstractmethod
    def attach(self, data: Any) -> None:
        """Take the data (already on its device); called once, before the optimizer is made."""

    @abstractmethod
    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        """The index tensors of one epoch for this rank, the same number on every rank."""

    @abstractmethod
    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        """The batch for one index tensor, augmented if the task augments."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Measures on the data the task is judged by."""

    def plot(self, folder: Path) -> list[Path]:
        """Write the task's own plots and return their paths."""
        return []

    def write(self, folder: Path) -> list[Path]:
        """Write what else belongs to the result, such as generated text, and return the paths."""
        return []

    def facts(self) -> dict[str, float]:
        """Numbers worth a row in the result, such as fitted physical parameters."""
        return {}

    def portrait(self) -> dict[str, Any] | None:
        """The computed and the measured trajectory as plain numbers, where the task has some: names, unit, times [T],
        states [T][d], measured_times, measured, and `origin`, what the latter are if not measured. None otherwise."""
        return None
