"""The benchmark of ensembles runs, its gate is green and can turn red. Nothing is timed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow  # five programs are compiled, and scipy solves to 1e-13
def test_quick_run_is_green_and_a_small_limit_turns_it_red(tmp_path):
    script = ROOT / "benchmarks" / "ensemble.py"
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "ensemble.json").read_text())
    assert len(results["rows"]) >= 7
    for row in results["rows"]:
        assert row["error"] < results["settings"]["limit"]
        assert row["wall"] > 0
    assert "diffrax left out" in done.stdout
    assert "| ensemble, tsit5 |" in (tmp_path / "ensemble.md").read_text()
    strict = f"import sys, runpy; sys.argv = ['ensemble.py']; sys.path.insert(0, {str(script.parent)!r}); "
    strict += (
        "import ensemble; ensemble.LIMIT = 1e-12; row = ensemble.ours('it', 51, 1, solver='tsit5', per_sample=True); "
    )
    done = subprocess.run([sys.executable, "-c", strict + "assert 'wall' not in row"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no times" in done.stdout
