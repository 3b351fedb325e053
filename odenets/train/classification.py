"""Images to classes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odenets.data import LabelledImages
from odenets.data.digits import random_shift
from odenets.errors import UserError
from odenets.train.task import Task


class Classification(Task):
    """Cross-entropy on images [B, 1, 8, 8]; `shift` pixels of random translation; judged by held-out accuracy."""

    headline = ("test_accuracy", "test_loss")

    def __init__(self, network: nn.Module, label_smoothing: float = 0.0, shift: int = 0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"task.label_smoothing: expected 0 <= label_smoothing < 1, got {label_smoothing}")
        if shift < 0:
            raise UserError(f"task.shift: expected 0 or more pixels, got {shift}")
        self.network = network
        self.label_smoothing = label_smoothing
        self.shift = shift

    def attach(self, data: Any) -> None:
        if not isinstance(data, LabelledImages):
            raise UserError(f"task=image_classification needs labelled images such as data=digits, got {_name(data)}")
        self.data = data

    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        n = len(self.data.train_x)
        permutation = torch.randperm(n, generator=generator)
        per_step = min(batch_size * world, n)
        # the remainder is left out of this epoch: another one in each, and every rank takes as many steps
        return [permutation[start + rank : start + per_step : world] for start in range(0, n - per_step + 1, per_step)]

    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        index = index.to(self.data.train_x.device)
        return random_shift(self.data.train_x[index], self.shift), self.data.train_y[index]

    def forward(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        return F.cross_entropy(self.network(images), labels, label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        logits = torch.cat([self.network(part) for part in self.data.test_x.split(512)]).float()
        correct = (logits.argmax(dim=1) == self.data.test_y).float().mean()
        return {"test_accuracy": float(correct), "test_loss": float(F.cross_entropy(logits, self.data.test_y))}


def _name(value: Any) -> str:
    return type(value).__name__
