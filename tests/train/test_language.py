"""The language task: its data order, its measures, a whole run and its exact resume."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from odenets.data import ByteCorpus, Bytes
from odenets.errors import UserError
from odenets.train.language import LanguageModelling

TINY = (
    "experiment=bytes_lm", "task.network.dim=16", "branch.heads=2", "task.network.context=16", "model.N=2",
    "task.steps_per_epoch=5", "task.eval_windows=8", "task.sample_bytes=12", "trainer.epochs=3",
    "trainer.threads=1", "data.max_bytes=50000", "run.plots=false", "run.tensorboard=false",
)  # fmt: skip


class Bigram(nn.Module):
    """Knows that byte b is followed by b + 1, with odds that can be set."""

    context = 4

    def __init__(self, odds: float) -> None:
        super().__init__()
        self.odds = odds

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot((tokens + 1) % 256, 256).float() * math.log(self.odds)


def task(odds: float = 1.0, **settings: Any) -> LanguageModelling:
    made = LanguageModelling(Bigram(odds), steps_per_epoch=7, **settings)
    counting = torch.arange(120, dtype=torch.uint8)
    made.attach(ByteCorpus(counting[:80], counting[80:], "test", 1))
    return made


def test_measures_are_nats_bits_and_perplexity_of_the_next_byte():
    p = 50 / (50 + 255)  # the probability of the right byte
    for measures in (task(odds=50.0).evaluate(), task(odds=50.0, eval_windows=3).evaluate()):
        assert measures["val_loss"] == pytest.approx(-math.log(p), rel=1e-6)
        assert measures["val_bits_per_byte"] == pytest.approx(-math.log2(p), rel=1e-6)
        assert measures["val_perplexity"] == pytest.approx(1 / p, rel=1e-5)
    assert task(odds=1.0).evaluate()["val_bits_per_byte"] == pytest.approx(8.0, rel=1e-6)
    made = task(odds=50.0)
    loss = made(*made.select(torch.tensor([0, 75])), progress=0.0)
    assert float(loss) == pytest.approx(-math.log(p), rel=1e-6)


def test_an_epochs_windows_follow_from_its_generator_and_are_shared_out_among_ranks():
    made = task()

    def order(seed: int, rank: int = 0, world: int = 1, batch: int = 6) -> torch.Tensor:
        return torch.stack(made.order(torch.Generator().manual_seed(seed), batch, rank, world))

    assert order(0).shape == (7, 6)
    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))
    both = torch.stack([order(0, rank, world=2, batch=3) for rank in (0, 1)], dim=-1).flatten(1)
    assert torch.equal(both, order(0))
    starts = torch.cat([order(seed).flatten() for seed in range(40)])
    assert (int(starts.min()), int(starts.max())) == (0, 75)  # the last window ends with the last byte
    inputs, targets = made.select(torch.tensor([75]))
    assert inputs.tolist() == [[75, 76, 77, 78]]
    assert targets.tolist() == [[76, 77, 78, 79]]


def test_windows_are_evenly_spaced_over_the_held_out_text():
    assert task()._eval_starts().tolist() == [0, 4, 8, 13, 17, 21, 26, 30, 35]
    assert task(eval_windows=2)._eval_starts().tolist() == [0, 35]


def test_too_little_text_is_refused():
    with pytest.raises(UserError, match="more than 4 bytes to hold one validation window, got 3"):
        LanguageModelling(Bigram(1.0)).attach(ByteCorpus(torch.zeros(80).byte(), torch.zeros(3).byte(), "x", 1))
    with pytest.raises(UserError, match="data=bytes, got Bytes"):
        LanguageModelling(Bigram(1.0)).attach(Bytes())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps_per_epoch": 0}, "steps_per_epoch"), ({"temperature": -1.0}, "temperature"), ({"prompt": ""}, "prompt")],
)
def test_settings_are_checked(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        LanguageModelling(Bigram(1.0), **settings)


def test_an_interrupted_run_resumes_bit_for_bit(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    outcome = cli("train", *TINY, f"run.dir={whole}")
    assert outcome.code == 0, outcome.err
    result = json.loads((whole / "result.json").read_text())
    assert set(result["measures"]) == {"val_loss", "val_bits_per_byte", "val_perplexity"}
    assert result["files"] == ["sample.txt"]
    sample = (whole / "sample.txt").read_bytes()
    assert sample.startswith(b"def ")
    assert len(sample) == 16

    select, count = LanguageModelling.select, iter(range(100))

    def stop_in_the_second_epoch(self: LanguageModelling, index: torch.Tensor) -> Any:
        if next(count) == 8:  # one of them is the rehearsal
            os.kill(os.getpid(), signal.SIGINT)
        return select(self, index)

    monkeypatch.setattr(LanguageModelling, "select", stop_in_the_second_epoch)
    assert cli("train", *TINY, f"run.dir={broken}").code == 130
    assert 5 < torch.load(broken / "checkpoint.pt", weights_only=True)["progress"]["step"] < 10
    monkeypatch.undo()
    outcome = cli("train", f"run.dir={broken}", "run.resume=true")
    assert outcome.code == 0, outcome.err
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (broken / "sample.txt").read_bytes() == sample


def test_a_text_of_the_users_own_trains_and_is_evaluated_again(cli: Callable[..., Any], tmp_path: Path):
    (tmp_path / "abc.txt").write_text("abc" * 2000)
    run = tmp_path / "run"
    settings = [*TINY, f"data.path={tmp_path / 'abc.txt'}", "optimizer.lr=0.03", "trainer.epochs=6"]
    outcome = cli("train", *settings, f"run.dir={run}")
    assert outcome.code == 0, outcome.err
    measures = json.loads((run / "result.json").read_text())["measures"]
    assert measures["val_loss"] < 0.5  # only the first byte of a window is open
    assert f"{measures['val_bits_per_byte']:.4g}" in cli("evaluate", f"run={run}").out
