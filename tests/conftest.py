"""Shared by the tests of the command line: run it inside the test process, with the exit code and both streams."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports Triton: its kernels are then interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)  # two cores: one thread per worker keeps results repeatable and the suite fast

# One small block, no plots: about a second a run.
TINY = (
    "experiment=digits", "task.network.channels=8", "model.N=1", "trainer.epochs=2", "trainer.batch_size=256",
    "trainer.threads=1", "run.plots=false", "run.tensorboard=false",
)  # fmt: skip


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli("train", "experiment=digits")` runs the command."""
    from odenets.cli import main

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """`refused("train", "experiment=digitz")` is the one line on stderr with which the command is refused."""

    def run(*arguments: str) -> str:
        outcome = cli(*arguments)
        assert outcome.code == 2, outcome
        lines = outcome.err.splitlines()
        assert len(lines) == 1, outcome.err
        assert outcome.out == ""
        return lines[0]

    return run


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Overrides of a run that takes a second."""
    return TINY


@pytest.fixture
def tiny_run(cli: Cli, tmp_path: Path) -> Path:
    """The folder of a finished tiny run."""
    folder = tmp_path / "tiny"
    outcome = cli("train", *TINY, f"run.dir={folder}")
    assert outcome.code == 0, outcome.err
    return folder
