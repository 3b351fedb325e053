"""benchmarks/gpu.py without a GPU: every path runs, nothing is claimed, and a red gate stops it."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_models
from benchmarks.gpu_operators import CASES
from odenets.kernels.mhc import triton as mhc
from odenets.solvers.compiled import cuda_graph
from tests.cuda_stand_in import install
from tests.kernels import operators

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="the dry run needs the interpreter"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def dry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry-run", "--json", str(path)])
    return path


@pytest.mark.slow  # every operator by the interpreter: 10 s
def test_dry_run_goes_through_everything_and_says_that_no_speed_was_measured(
    dry: Path, capsys: pytest.CaptureFixture[str]
):
    assert gpu.main() == 0
    assert "no speed was measured" in capsys.readouterr().out
    result = json.loads(dry.read_text())
    assert {row["operator"] for row in result["operators"]} == set(CASES)
    assert {row["implementation"] for row in result["operators"]} >= {"triton", "eager", "compiled"}
    assert all(row["agrees"] and row["bytes"] > 0 for row in result["operators"])
    assert not [row for row in result["operators"] if "p50_us" in row]
    assert [row["block"] for row in result["models"]] == ["residual", "mHC, n = 4", "DDL, d_v = 4"]
    assert all(row["losses_finite"] for row in result["models"])
    assert {"eager", "eager, per sample", "ensemble", "torchdiffeq"} == {row["contender"] for row in result["solvers"]}
    assert all(row["error"] < 1e-3 for row in result["solvers"])
    assert not [row for row in result["solvers"] if "ms" in row]
    assert result["copy_gb_per_s"] is None
    assert result["skipped"] == []


@pytest.mark.slow  # two models are captured: 20 s
def test_models_as_graphs_are_measured_only_if_they_compute_the_same(monkeypatch: pytest.MonkeyPatch):
    size = gpu_models.Size(1, 16, 2, 1, 4)
    assert "CUDA device" in gpu_models.measure(size, "residual", "triton", "cuda_graph")["note"]
    install(monkeypatch)
    row = gpu_models.measure(size, "mHC, n = 4", "reference", "cuda_graph")
    assert row["differs"] <= gpu_models.ALLOWED and row["losses_finite"] and "note" not in row
    right = cuda_graph.CudaGraph.backward
    monkeypatch.setattr(cuda_graph.CudaGraph, "backward", lambda *args: [1.05 * g for g in right(*args)])
    assert "wrong, by" in gpu_models.measure(size, "residual", "triton", "cuda_graph")["note"]


def test_a_kernel_that_is_wrong_stops_it_before_anything_is_measured(
    dry: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(operators, "OPERATORS", {"aggregate": operators.OPERATORS["aggregate"]})
    right = mhc.aggregate
    monkeypatch.setattr(mhc, "aggregate", lambda x, pre: 1.05 * right(x, pre))
    assert gpu.main() == 1
    out = capsys.readouterr().out
    assert "the gate is red, no speed is measured" in out
    assert "aggregate" in out
    assert "copy" not in out
    assert not dry.exists()
