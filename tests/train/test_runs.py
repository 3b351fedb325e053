"""Whole runs through the command line: the folder they leave, evaluation, resuming, refusals."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

Cli = Callable[..., Any]
Refused = Callable[..., str]


def test_a_run_leaves_everything_needed_to_understand_it(cli: Cli, tiny: tuple[str, ...], tmp_path: Path):
    folder = tmp_path / "run"
    outcome = cli("train", *tiny, "run.plots=true", "run.tensorboard=true", f"run.dir={folder}")
    assert outcome.code == 0
    assert "test accuracy" in outcome.out
    assert str(folder) in outcome.out.splitlines()[-2]
    assert outcome.err == ""  # no bar where there is no terminal
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    result = json.loads((folder / "result.json").read_text())
    assert result["measures"]["test_accuracy"] == pytest.approx(float(rows[-1]["test_accuracy"]), abs=1e-6)
    weights = load_file(folder / "model.safetensors")
    assert result["parameters"] == sum(w.numel() for w in weights.values())
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]  # not every build names CUDA
    assert versions["machine"]["cores"] > 0
    assert OmegaConf.load(folder / "config.yaml").trainer.epochs == 2
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((folder / "tensorboard").glob("events.*"))
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["progress"]["step"] == result["steps"]


def test_a_run_says_which_backend_its_operators_took(cli: Cli, tiny: tuple[str, ...], tiny_run: Path, tmp_path: Path):
    assert json.loads((tiny_run / "result.json").read_text())["kernels"] == {}
    folder = tmp_path / "streams"
    cli("train", *tiny, "block=manifold_hyper_connections", "trainer.epochs=1", f"run.dir={folder}")
    ran = json.loads((folder / "result.json").read_text())["kernels"]
    backend = "triton" if torch.cuda.is_available() else "reference"
    assert set(ran) >= {"project", "coefficients", "aggregate"}
    assert set(ran.values()) == {backend}


def test_plots_can_be_switched_off(tiny_run: Path):
    assert not list(tiny_run.glob("*.png"))


def test_evaluate_measures_the_exported_weights_again(cli: Cli, tiny_run: Path):
    accuracy = json.loads((tiny_run / "result.json").read_text())["measures"]["test_accuracy"]
    outcome = cli("evaluate", f"run={tiny_run}")
    assert outcome.code == 0
    assert f"{100 * accuracy:.2f} %" in outcome.out


def test_a_finished_run_resumes_to_the_same_result(cli: Cli, tiny_run: Path):
    before = (tiny_run / "model.safetensors").read_bytes()
    outcome = cli("train", f"run.dir={tiny_run}", "run.resume=true")
    assert outcome.code == 0
    assert (tiny_run / "model.safetensors").read_bytes() == before


def test_resuming_with_a_changed_configuration_is_refused(refused: Refused, tiny: tuple[str, ...], tiny_run: Path):
    line = refused("train", *tiny, "optimizer.lr=0.5", f"run.dir={tiny_run}", "run.resume=true")
    assert "optimizer.lr (0.005 -> 0.5)" in line
    assert f"odenets train run.dir={tiny_run} run.resume=true" in line


def test_resuming_from_a_truncated_checkpoint_is_refused(refused: Refused, tiny_run: Path):
    path = tiny_run / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert "damaged or truncated" in refused("train", f"run.dir={tiny_run}", "run.resume=true")


def test_resuming_or_evaluating_another_models_weights_is_refused(
    cli: Cli, refused: Refused, tiny: tuple[str, ...], tiny_run: Path, tmp_path: Path
):
    other = tmp_path / "other"
    assert cli("train", *tiny, "task.network.channels=16", "trainer.epochs=1", f"run.dir={other}").code == 0
    for name in ("checkpoint.pt", "model.safetensors"):
        (tiny_run / name).write_bytes((other / name).read_bytes())
    assert "weights of another model" in refused("train", f"run.dir={tiny_run}", "run.resume=true")
    assert "weights of another model" in refused("evaluate", f"run={tiny_run}")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    cli: Cli, tiny: tuple[str, ...], tmp_path: Path
):
    folder = tmp_path / "run"
    outcome = cli("train", *tiny, "optimizer=sgd", "optimizer.lr=1e30", "trainer.clip_norm=null", f"run.dir={folder}")
    assert outcome.code == 1
    assert "became nan" in outcome.err or "became inf" in outcome.err
    assert "last good checkpoint" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert all(w.isfinite().all() for w in torch.load(folder / "checkpoint.pt", weights_only=True)["model"].values())


def test_a_sweep_runs_every_combination_in_its_own_folder(cli: Cli, tiny: tuple[str, ...], tmp_path: Path):
    outcome = cli("train", "-m", *tiny, "trainer.epochs=1", "seed=0,1", f"run.root={tmp_path}")
    assert outcome.code == 0
    seeds = {path.parent.name: OmegaConf.load(path).seed for path in tmp_path.glob("sweeps/*/*/config.yaml")}
    assert seeds == {"0_seed=0": 0, "1_seed=1": 1}


def test_the_seed_decides_the_weights(cli: Cli, tiny: tuple[str, ...], tiny_run: Path, tmp_path: Path):
    for name, seed in (("same", 0), ("other", 1)):
        assert cli("train", *tiny, f"seed={seed}", f"run.dir={tmp_path / name}").code == 0
    weights = {n: (tmp_path / n / "model.safetensors").read_bytes() for n in ("tiny", "same", "other")}
    assert weights["tiny"] == weights["same"]
    assert weights["tiny"] != weights["other"]
