"""Every example runs as a user would start it, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Found from a checkout too, and one thread: the suite itself runs in parallel.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
PLAIN = ("compare.measure=false", "compare.diagnose=false", "run.plots=false")
# Example -> arguments that make it short, and a number it must print with its bounds.
EXAMPLES = {
    "own_vector_field": ([], r"spikes .*: \[(\d+), ", 2, 3),
    "fit_lotka_volterra": (["--steps", "60"], r"step   59   window error ([\d.]+)", 0.0, 0.15),
    "depth_is_time": (["--epochs", "2"], r"0.250 +4 +([\d.]+)", 0.9, 1.0),
    "compare_solvers": ([], r"Adaptive\(dopri8\) +(\S+)", 0.0, 1e-5),
    "bouncing_ball": ([], r"   7 +([\d.]+)", 0.799, 0.801),
    "lorenz_ensemble": ([], r"rest: between (\S+) and 1.000", 0.99999, 1.00001),
    "compare_on_digits": (
        [*PLAIN, "compare.dir=TMP", "block=residual", "scheme=forward_euler", "seed=0", "trainer.epochs=1"],
        r"as configured, seed 0 +test accuracy ([\d.]+)",
        50,
        100,
    ),
    "compare_gradients": (
        [*PLAIN, "compare.dir=TMP", "gradient=autograd,adjoint", "trainer.epochs=1", "task.steps_per_epoch=3"],
        r"adjoint, seed 0 +log rmse ([\d.]+)",
        0.1,
        2,
    ),
    "explicit_or_implicit": (
        ["compare.measure=false", "run.root=TMP", "data.t1=2.0", "data.points=8"],
        r"gl4, seed 0 +relative error (\S+)",
        1e-7,
        1e-4,
    ),
    "torchdiffeq_drop_in": ([], r"adjoint equation: (\d+) numbers", 252, 252),
}


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


# a dozen and more runs each; comparisons have tests of their own
LONG = ("explicit_or_implicit", "compare_on_digits", "compare_gradients")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in EXAMPLES]
)
def test_the_example_prints_what_it_promises(name, tmp_path):
    arguments, pattern, low, high = EXAMPLES[name]
    arguments = [word.replace("TMP", str(tmp_path)) for word in arguments]
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(pattern, done.stdout)
    assert found, done.stdout
    assert low <= float(found[1]) <= high, done.stdout


@pytest.mark.slow(reason="a comparison in a process of its own, ten seconds")
def test_a_field_of_ones_own_is_compared_from_its_folder(tmp_path):
    words = "compare field=neuron.FitzHughNagumo compare=solvers solver=dopri5,tsit5 --config-dir configs"
    command = [sys.executable, "-m", "odenets", *words.split(), *PLAIN, f"compare.dir={tmp_path}"]
    folder = ROOT / "examples" / "own_field"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=folder, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    errors = re.findall(r"(dopri5|tsit5), seed 0 +relative error (\S+)", done.stdout)
    assert [name for name, _ in errors] == ["dopri5", "tsit5"], done.stdout
    assert all(0 < float(error) < 1e-5 for _, error in errors)
