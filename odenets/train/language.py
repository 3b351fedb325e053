"""The next byte of a text."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odenets.data import ByteCorpus
from odenets.data.bytes import windows
from odenets.errors import UserError
from odenets.models.language_model import BYTES, bits_per_byte
from odenets.train.task import Task

BATCH = 32  # windows at a time in the evaluation: it bounds the memory of the logits


class LanguageModelling(Task):
    """Cross-entropy of the next byte over random windows of `context` bytes; judged on windows of the held-out text.

    The measures average over every position of a window, the first ones with little context included.

    Args:
        network: `LanguageModel`; its `context` is the length of the windows.
        steps_per_epoch: optimizer steps in an epoch: an epoch is a measure of work here, not a pass over the text.
        eval_windows: at most so many windows, evenly spaced over the held-out text.
        prompt: what the sample in the run folder starts with.
        sample_bytes: how many bytes it adds; 0 writes no sample.
        temperature: of the sample.
    """

    headline = ("val_loss", "val_bits_per_byte")

    def __init__(
        self,
        network: nn.Module,
        steps_per_epoch: int = 50,
        eval_windows: int = 128,
        prompt: str = "def ",
        sample_bytes: int = 400,
        temperature: float = 0.7,
    ) -> None:
        super().__init__()
        for name, value in (("steps_per_epoch", steps_per_epoch), ("eval_windows", eval_windows)):
            if value < 1:
                raise UserError(f"task.{name}: expected at least 1, got {value}")
        if sample_bytes < 0 or not temperature >= 0:
            raise UserError(
                f"task: expected sample_bytes >= 0 and temperature >= 0, got {sample_bytes} and {temperature}"
            )
        if not prompt:
            raise UserError("task.prompt: expected at least one character")
        self.network = network
        self.steps_per_epoch = steps_per_epoch
        self.eval_windows = eval_windows
        self.prompt = prompt
        self.sample_bytes = sample_bytes
        self.temperature = temperature
        self.context: int = network.context  # type: ignore[assignment]

    def attach(self, data: Any) -> None:
        if not isinstance(data, ByteCorpus):
            raise UserError(f"task=language_model needs a text such as data=bytes, got {type(data).__name__}")
        for part, held in (("training", data.train), ("validation", data.val)):
            if len(held) <= self.context:
                raise UserError(
                    f"data.path={data.source}: expected more than {self.context} bytes to hold one {part} window, got "
                    f"{len(held)}; give more text or a smaller task.network.context"
                )
        self.data = data

    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        shape = (self.steps_per_epoch, batch_size * world)
        starts = torch.randint(len(self.data.train) - self.context, shape, generator=generator)
        return list(starts[:, rank::world])

    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        chosen = windows(self.data.train, index.to(self.data.train.device), self.context + 1)
        return chosen[:, :-1], chosen[:, 1:]

    def forward(self, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
        return F.cross_entropy(self.network(inputs).view(-1, BYTES), targets.reshape(-1))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        total = 0.0
        starts = self._eval_starts()
        for part in starts.split(BATCH):
            chosen = windows(self.data.val, part, self.context + 1)
            logits = self.network(chosen[:, :-1]).float()
            total += float(F.cross_entropy(logits.view(-1, BYTES), chosen[:, 1:].reshape(-1), reduction="sum"))
        nats = total / (len(starts) * self.context)
        return {"val_loss": nats, "val_bits_per_byte": bits_per_byte(nats), "val_perplexity": math.exp(min(nats, 700))}

    def _eval_starts(self) -> Tensor:
        last = len(self.data.val) - self.context - 1
        count = min(self.eval_windows, 1 + last // self.context)
        return torch.linspace(0, last, count, dtype=torch.float64).long().to(self.data.val.device)

    def write(self, folder: Path) -> list[Path]:
        """A sample of generated text: the same for the same weights."""
        if self.sample_bytes == 0:
            return []
        generator = torch.Generator().manual_seed(0)
        text = self.network.generate(  # type: ignore[operator]
            self.prompt.encode(), self.sample_bytes, self.temperature, generator
        )
        path = folder / "sample.txt"
        path.write_bytes(text)
        return [path]
