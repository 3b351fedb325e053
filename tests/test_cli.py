"""The command line as a person meets it: one clear line and exit code 2 for bad input, before any work."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., str]


@pytest.fixture
def user_configs(tmp_path: Path) -> Path:
    """A folder for --config-dir with an experiment of its own."""
    folder = tmp_path / "mine"
    (folder / "experiment").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["experiment=digitz"], ["experiment=digitz", "did you mean 'digits'"]),
        (["experiment=digits", "trainer.epochs=abc"], ["trainer.epochs", "abc", "Integer"]),
        (["experiment=digits", "trainer.epochs=-1"], ["trainer.epochs", "at least 0", "-1"]),
        (["experiment=digits", "trainer.schedule=cosin"], ["trainer.schedule", "cosine", "one_cycle"]),
        (["experiment=digits", "solver.ordr=4"], ["solver.ordr", "method", "step_size"]),
        (["experiment=digits", "solver.step=4"], ["solver.step", "did you mean 'steps'"]),
        (["experiment=digits", "+solver.ordr=4"], ["solver.ordr", "method", "step_size"]),
        (["experiment=digits", "+train.epochz=3"], ["train", "did you mean 'trainer'"]),
        (["experiment=digits", "+trainer.epochz=3"], ["trainer.epochz", "did you mean 'epochs'"]),
        (["experiment=digits", "sovler=rk4"], ["sovler", "did you mean 'solver'"]),
        (["experiment=digits", "model.N=many"], ["model.N", "int", "'many'"]),
        (["experiment=digits", "model.N=0"], ["model", "N >= 1", "0"]),
        (["experiment=digits", "gradient=adjont"], ["gradient", "adjoint"]),
        (["experiment=digits", "trainer.epochs"], ["trainer.epochs", "key=value"]),
        (["experiment=digits", "--mulitrun"], ["--mulitrun", "did you mean '--multirun'"]),
        (["experiment=digits", "--config-dir", "/nowhere"], ["/nowhere", "no such folder"]),
        (["trainer.epochs=3"], ["choose an experiment", "digits", "lynx_hare"]),
        (["experiment=digits", "trainer.devices=64", "trainer.accelerator=gpu"], ["trainer", "accelerator=gpu"]),
        (["experiment=digits", "data=lynx_hare"], ["image_classification", "data=digits", "Series"]),
        (["-m", "experiment=digits,digitz"], ["experiment=digitz", "did you mean 'digits'"]),
        (
            ["experiment=digits", "model=neural_ode", "solver.rtol=abc", "solver=dopri5"],
            ["solver.rtol", "number", "'abc'"],
        ),
        (["experiment=digits", "model=neural_ode", "solver.steps=4"], ["solver", "exclusive", "steps", "step_size"]),
        (["experiment=digits", "model=neural_ode", "solver=scipy"], ["Scipy", "gradient='adjoint'"]),
        (["experiment=digits", "branch=mlp"], ["MLP expects x"]),
        (["experiment=bytes_lm", "gradient=downdate"], ["gradient=downdate needs", "delta", "got Residual"]),
        (["experiment=digits", "gradient=selective"], ["gradient=selective needs", "manifold_hyper", "got Residual"]),
        (["experiment=digits", "model=neural_ode", "gradient=downdate"], ["unknown gradient Downdate"]),
        (["experiment=bytes_lm", "block=hamiltonian"], ["Hamiltonian takes no branch", "block=residual"]),
        (["experiment=digits", "block=engram"], ["Engram needs", "ids"]),
        (
            ["experiment=digits", "scheme=exponential"],
            ["Residual takes no scheme", "block=delta"],
        ),
        (["experiment=digits", "scheme=exponentiel"], ["did you mean 'exponential'"]),
        (["experiment=bytes_lm", "model=neural_ode", "field=transformer_layer", "solver=dopri5"], ["solver=rk4"]),
        (["experiment=bytes_lm", "data=digits"], ["language_model", "data=bytes", "LabelledImages"]),
        (["experiment=bytes_lm", "data.path=/nowhere"], ["data.path=/nowhere", "no such file or folder"]),
        (["experiment=bytes_lm", "data.max_bytes=500"], ["more than 128 bytes", "task.network.context"]),
        (["experiment=bytes_lm", "model.N=7"], ["multiple of its 2 kinds", "N=7"]),
        (["experiment=bytes_lm", "model.parameters=splin"], ["parameters", "'splin'"]),
        (["run.resume=true"], ["run.dir=<folder>"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_fix(
    refused: Refused, arguments: list[str], says: list[str], tmp_path: Path
):
    line = refused("train", *arguments, f"run.root={tmp_path}/runs")
    for words in says:
        assert words in line
    assert not list(tmp_path.glob("runs/**/config.yaml"))  # before any work


def test_unknown_command_names_the_near_match(refused: Refused):
    assert "did you mean 'train'" in refused("trian")


def test_extra_keys_in_a_users_experiment_are_refused(refused: Refused, user_configs: Path):
    path = user_configs / "experiment" / "mine.yaml"
    path.write_text("# @package _global_\nname: mine\ntrainer:\n  epochz: 3\n")
    line = refused("train", "--config-dir", str(user_configs), "experiment=mine")
    assert "trainer.epochz" in line
    assert "did you mean 'epochs'" in line
    path.write_text("# @package _global_\nname: mine\nmodel:\n  depth: 3\n")
    assert "model.depth" in refused("train", "--config-dir", str(user_configs), "experiment=mine")


def test_a_target_outside_the_package_is_refused_and_not_called(refused: Refused, user_configs: Path, tmp_path: Path):
    trace = tmp_path / "trace"
    (user_configs / "data").mkdir()
    (user_configs / "data" / "mine.yaml").write_text(f"_target_: pathlib.Path.touch\nself: {trace}\n")
    line = refused("train", "--config-dir", str(user_configs), "experiment=digits", "data=mine")
    assert "data._target_: 'pathlib.Path.touch' is outside odenets" in line
    assert "run.allow_targets=[pathlib]" in line
    assert not trace.exists()


def test_a_run_folder_that_cannot_be_made_is_refused(refused: Refused, tiny: tuple[str, ...], tmp_path: Path):
    (tmp_path / "file").write_text("")
    line = refused("train", *tiny, f"run.dir={tmp_path}/file/run")
    assert "cannot make this folder" in line
    assert "choose another run.dir" in line


def test_an_existing_run_is_not_overwritten(refused: Refused, tiny: tuple[str, ...], tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("precious")
    line = refused("train", *tiny, f"run.dir={tmp_path}")
    assert "run.resume=true" in line
    assert (tmp_path / "metrics.csv").read_text() == "precious"


@pytest.mark.parametrize("arguments", [[], ["run="], ["folder"], ["run=/nowhere"]])
def test_evaluate_needs_a_run(refused: Refused, arguments: list[str]):
    line = refused("evaluate", *arguments)
    assert "run" in line


def test_resuming_what_is_no_run_is_refused(refused: Refused, tmp_path: Path):
    assert "no such run folder" in refused("train", f"run.dir={tmp_path}/none", "run.resume=true")
    assert "not a run folder" in refused("train", f"run.dir={tmp_path}", "run.resume=true")


def test_list_shows_every_option_with_a_description_in_80_columns(cli: Callable[..., Any]):
    out = cli("list").out
    for words in (
        "experiment=",
        "  digits ",
        "  lynx_hare ",
        "  dopri5 ",
        "  adjoint ",
        "  neural_ode ",
        "branch=",
        "  swiglu ",
        "scheme=",
        "  exponential ",
        "  bytes_lm ",
        "kernels: Triton ",
    ):
        assert words in out
    for line in out.splitlines():
        assert len(line) <= 80
        if line.startswith("  "):
            assert len(line.split(maxsplit=1)) == 2, f"no description: {line}"


def test_help_list_and_typos_answer_without_loading_torch():
    probe = (
        "import sys\nfrom odenets.cli import main\n"
        "try:\n    main({arguments!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        "assert 'torch' not in sys.modules and 'lightning_fabric' not in sys.modules\nsys.exit(code)"
    )
    for arguments, code in ([["--help"], 0], [["list"], 0], [["train", "experiment=digits", "trainer.epochz=3"], 2]):
        done = subprocess.run([sys.executable, "-c", probe.format(arguments=arguments)], capture_output=True, text=True)
        assert done.returncode == code, done.stderr


def test_python_m_odenets_runs_the_command_line():
    done = subprocess.run([sys.executable, "-m", "odenets", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "odenets train experiment=digits" in done.stdout
