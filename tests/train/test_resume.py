"""Exact resume: a run that is killed, and one that is interrupted, end with the weights of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

COMMAND = [sys.executable, "-m", "odenets", "train"]
ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = [
    "experiment=digits", "task.network.channels=8", "model.N=1", "trainer.epochs=12", "trainer.batch_size=256",
    "trainer.threads=1", "trainer.checkpoint_every=2", "run.plots=false", "run.tensorboard=false",
]  # fmt: skip


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def wait_for_rows(folder: Path, rows: int, process: subprocess.Popen[str]) -> None:
    """Until metrics.csv has a header and `rows` rows."""
    path, deadline = folder / "metrics.csv", time.monotonic() + 600
    while not (path.is_file() and len(path.read_text().splitlines()) > rows):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def step(folder: Path) -> int:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["progress"]["step"]


def test_a_killed_and_an_interrupted_run_end_bit_identical_to_an_undisturbed_one(tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    undisturbed = start(*OVERRIDES, f"run.dir={whole}")
    killed = start(*OVERRIDES, f"run.dir={broken}")
    wait_for_rows(broken, 3, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert undisturbed.wait() == 0, undisturbed.communicate()[1]
    total = step(whole)
    assert 0 < step(broken) < total

    interrupted = start(f"run.dir={broken}", "run.resume=true")
    wait_for_rows(broken, 6, interrupted)
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate()
    assert interrupted.returncode == 130, errors
    assert f"odenets train run.dir={broken} run.resume=true" in errors
    assert len(errors.splitlines()) == 1
    assert f"stopped after step {step(broken)} of {total}" in errors

    last = start(f"run.dir={broken}", "run.resume=true")
    assert last.wait() == 0, last.communicate()[1]
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    one, other = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (whole, broken))
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert torch.equal(one["random"][0]["torch"], other["random"][0]["torch"])

    def without_seconds(folder: Path) -> list[str]:
        lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
        return [",".join(cell for i, cell in enumerate(line) if lines[0][i] != "seconds") for line in lines]

    assert without_seconds(broken) == without_seconds(whole)
