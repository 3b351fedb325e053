"""A comparison that is killed, twice, ends as if it had not been: no run repeated, none lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from odenets.compare import costs
from tests.conftest import Cli

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "odenets", "compare", *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def written(folder: Path) -> dict[str, int]:
    """When each file of finished runs was last written."""
    return {
        str(path): path.stat().st_mtime_ns
        for result in folder.glob("runs/*/result.json")
        for path in result.parent.iterdir()
        if path.name in ("result.json", "checkpoint.pt", "model.safetensors", "metrics.csv", "costs.json")
    }


@pytest.mark.slow(reason="three comparisons in processes of their own, half a minute; train/test_resume kills one run")
def test_killed_twice_and_started_again_no_run_is_repeated_and_none_lost(
    cli: Cli, tiny_grid: tuple[str, ...], tmp_path: Path
):
    folder = tmp_path / "compared"
    words = [*tiny_grid, "trainer.epochs=6", "block=residual,delta", "seed=0,1", f"compare.dir={folder}"]
    words.append("compare.diagnose=false")
    second = folder / "runs" / "delta-seed-0"

    def rows(run: Path) -> int:
        return len((run / "metrics.csv").read_text().splitlines()) - 1 if (run / "metrics.csv").is_file() else 0

    kill_when(start(*words), lambda: rows(second) >= 2)  # in the middle of a run
    before = written(folder)
    assert any("residual-seed-0" in name for name in before)
    assert not (second / "result.json").is_file()
    assert torch.load(second / "checkpoint.pt", weights_only=True)["progress"]["step"] > 0

    kill_when(start(*words), lambda: any(folder.glob("runs/*/costs.json")))  # all runs done, in the middle of measuring
    between = written(folder)
    assert len(list(folder.glob("runs/*/result.json"))) == 4
    assert between.items() >= {k: v for k, v in before.items() if "costs" not in k}.items()

    outcome = cli("compare", *words)
    assert outcome.code == 0, outcome.err
    assert "4 of them done" in outcome.out
    assert written(folder).items() >= between.items()
    assert len(list(folder.glob("runs/*/costs.json"))) == 4

    command = json.loads((second / "versions.json").read_text())["command"]
    assert command[:2] == ["odenets", "train"]
    again = [word for word in command[2:] if not word.startswith("run.dir=")]
    assert cli("train", *again, f"run.dir={tmp_path / 'undisturbed'}").code == 0
    undisturbed = (tmp_path / "undisturbed" / "model.safetensors").read_bytes()
    assert (second / "model.safetensors").read_bytes() == undisturbed


def test_a_failed_run_is_a_row_with_its_cause_and_runs_again_only_on_request(
    cli: Cli, tiny_grid: tuple[str, ...], tmp_path: Path
):
    words = [*tiny_grid, "trainer.epochs=1", "model.N=1,0", "optimizer=adamw", f"compare.dir={tmp_path}"]
    words += ["compare.diagnose=false", "compare.measure=false"]
    first = cli("compare", *words)
    assert first.code == 0, first.err
    assert "model.N=0, seed 0 failed" in first.out
    assert "N >= 1" in first.out
    cause = json.loads((tmp_path / "runs" / "model.N-0-seed-0" / "failure.json").read_text())["cause"]
    assert "N >= 1" in cause
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*.json")}
    assert cli("compare", *words).code == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*.json")} == times
    assert cli("compare", *words, "compare.retry=true").code == 0
    changed = [path.name for path in times if path.stat().st_mtime_ns != times[path]]
    assert changed == ["failure.json"]


def test_what_cannot_be_measured_or_diagnosed_does_not_cost_the_comparison(
    cli: Cli, tiny_grid: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 1 TB")

    monkeypatch.setattr(costs, "costs", fail)
    monkeypatch.setattr(costs, "diagnose_run", fail)
    outcome = cli("compare", *tiny_grid, "trainer.epochs=1", f"compare.dir={tmp_path}")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "report.html").read_text()
    assert "not measured: RuntimeError: not enough memory" in page
    assert "not diagnosed: RuntimeError: not enough memory" in page


def test_a_loss_that_is_not_finite_and_a_run_that_kills_its_process_are_rows(
    cli: Cli, tiny_grid: tuple[str, ...], tmp_path: Path
):
    words = [*tiny_grid, "optimizer=sgd", "trainer.clip_norm=null", "optimizer.lr=1e30,0.1", "trainer.epochs=1"]
    words += [f"compare.dir={tmp_path}", "compare.diagnose=false", "compare.measure=false", "seed=0"]
    (tmp_path / "runs").mkdir()
    marker = tmp_path / "runs" / ".optimizer.lr-0.1-seed-0.attempts.json"
    marker.write_text('{"rows": 0, "attempts": 3}')
    outcome = cli("compare", *words)
    assert outcome.code == 1
    assert "every run failed" in outcome.err
    assert "became nan" in outcome.out or "became inf" in outcome.out
    assert "ended 3 times" in outcome.out
    assert not marker.is_file() or cli("compare", *words, "compare.retry=true").code == 0


def test_a_folder_gains_runs_and_refuses_another_comparison(
    cli: Cli, refused: Callable[..., str], tiny_grid: tuple[str, ...], tmp_path: Path
):
    words = [
        *tiny_grid,
        "trainer.epochs=1",
        f"compare.dir={tmp_path}",
        "compare.diagnose=false",
        "compare.measure=false",
    ]
    assert cli("compare", *words, "block=residual", "seed=0").code == 0
    assert "1 of them done" in cli("compare", *words, "block=residual", "seed=0,1").out
    line = refused("compare", *words, "block=delta", "seed=0")
    assert "holds another comparison" in line
    assert "block=residual" in line


def test_one_process_at_a_time(tmp_path: Path):
    from odenets.compare.lock import Lock
    from odenets.errors import UserError

    with Lock(tmp_path), pytest.raises(UserError, match="another process"), Lock(tmp_path):
        pass
    with Lock(tmp_path):
        pass
