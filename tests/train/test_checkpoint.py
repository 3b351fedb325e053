"""Checkpoints: whole or not at all, safe to read, and random states that come back exactly."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from odenets.errors import UserError
from odenets.train import checkpoint, export


def test_random_states_come_back_exactly_through_a_file(tmp_path: Path):
    module = nn.Linear(2, 2)
    checkpoint.save(tmp_path / "c.pt", {"model": module.state_dict(), "random": checkpoint.random_state()})
    drawn = [torch.rand(3).tolist(), list(np.random.rand(3)), random.random(), list(np.random.randn(3))]  # noqa: NPY002
    checkpoint.set_random_state(checkpoint.load(tmp_path / "c.pt", module)["random"])
    again = [torch.rand(3).tolist(), list(np.random.rand(3)), random.random(), list(np.random.randn(3))]  # noqa: NPY002
    assert drawn == again


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "c.pt"
    path.write_text("good")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_atomically(path, fail)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.98])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, keep: float):
    module, path = nn.Linear(8, 8), tmp_path / "c.pt"
    checkpoint.save(path, {"model": module.state_dict()})
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(UserError, match="damaged or truncated"):
        checkpoint.load(path, module)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path):
    torch.save({"format": 1, "model": random.Random()}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="expected a whole checkpoint"):
        checkpoint.load(tmp_path / "c.pt", nn.Linear(1, 1))


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path):
    checkpoint.save(tmp_path / "c.pt", {"model": nn.Linear(2, 3).state_dict()})
    with pytest.raises(UserError, match=r"weight is of shape \[3, 2\] there and of shape \[3, 5\]"):
        checkpoint.load(tmp_path / "c.pt", nn.Linear(5, 3))
    with pytest.raises(UserError, match=r"bias is of shape .* there and absent"):
        checkpoint.load(tmp_path / "c.pt", nn.Linear(2, 3, bias=False))


def test_safetensors_export_round_trips_and_refuses_damage(tmp_path: Path):
    path, module, other = tmp_path / "m.safetensors", nn.Linear(3, 2), nn.Linear(3, 2)
    export.save(path, module)
    export.load(path, other)
    assert torch.equal(module.weight, other.weight)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="damaged"):
        export.load(path, other)
