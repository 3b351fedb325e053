"""Classes of the person's own on the command line, and whose word counts for what may be called."""

import json
import sys
from pathlib import Path

import pytest

from odenets.cli import main
from odenets.configs.own import take_own_classes, trusted
from odenets.errors import UserError

MODULE = """
import torch
from torch import nn

class Decay(nn.Module):
    initial, span = (1.0, 2.0), (0.0, 1.0)

    def __init__(self, rate: float = 1.0):
        super().__init__()
        self.rate = rate

    def forward(self, t, x):
        return -self.rate * x
"""
QUICK = ("run.plots=false", "run.tensorboard=false", "data.points=4", "solver=rk4", "solver.step_size=null")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module of one's own."""
    (tmp_path / "own_fields.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_fields", raising=False)
    return tmp_path


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(words)
    return int(done.value.code)


def test_a_dotted_name_is_an_option_with_the_classs_own_defaults(mine: Path):
    assert (
        run("train", "experiment=solve_field", "field=own_fields.Decay", "field.rate=2.0", "run.dir=out", *QUICK) == 0
    )
    result = json.loads((mine / "out" / "result.json").read_text())
    h = 2.0 * 0.25  # four classical Runge-Kutta steps of x' = -2 x: the truncated exponential series
    factor = 1 - h + h**2 / 2 - h**3 / 6 + h**4 / 24
    expected = max(abs(factor**n - 2.718281828459045 ** (-h * n)) for n in range(5))
    assert result["measures"]["relative_error"] == pytest.approx(expected, rel=1e-6)


def test_what_a_run_folder_allows_itself_does_not_count(mine: Path, capsys: pytest.CaptureFixture):
    assert run("train", "experiment=solve_field", "field=own_fields.Decay", "run.dir=out", *QUICK) == 0
    for command in ("evaluate", "diagnose"):
        assert run(command, "run=out") == 2
        assert "add run.allow_targets=[own_fields]" in capsys.readouterr().err
    assert run("evaluate", "run=out", "run.allow_targets=[own_fields]") == 0
    assert run("train", "run.dir=out", "run.resume=true") == 2
    assert "add run.allow_targets=[own_fields]" in capsys.readouterr().err


@pytest.mark.slow(reason="a comparison of whole runs, six seconds")
def test_a_comparison_over_solvers(mine: Path):
    words = ("experiment=solve_field", "field=own_fields.Decay", "solver=euler,rk4", "solver.step_size=null")
    assert run("compare", *words, "data.points=4", "compare.dir=out", "compare.diagnose=false") == 0
    found = {path.parent.name: json.loads(path.read_text()) for path in (mine / "out" / "runs").glob("*/result.json")}
    assert found["rk4-seed-0"]["measures"]["relative_error"] < found["euler-seed-0"]["measures"]["relative_error"] / 50
    costs = json.loads((mine / "out" / "runs" / "euler-seed-0" / "costs.json").read_text())
    assert (costs["nfe"], costs["notes"]) == (4, [])
    assert "nothing is trained" in (mine / "out" / "report.md").read_text()


def test_names_that_cannot_be_loaded_are_refused_in_a_line(mine: Path):
    for name in ("own_fields.Missing", "no_such_module.Decay"):
        with pytest.raises(UserError, match=f"field={name}: cannot load it from this folder"):
            take_own_classes([f"field={name}"])


def test_a_name_in_a_file_is_not_taken(mine: Path, capsys: pytest.CaptureFixture):
    """Only what is typed counts: a grid of somebody else's calls nothing."""
    (mine / "their_fields.py").write_text(MODULE)
    (mine / "my" / "compare").mkdir(parents=True)
    grid = "grid:\n  experiment: solve_field\n  solver: [euler, rk4]\n  field: their_fields.Decay\n"
    (mine / "my" / "compare" / "theirs.yaml").write_text(grid)
    assert run("compare", "compare=theirs", "--config-dir", "my", "compare.dir=out") == 2
    assert "field=their_fields.Decay: no such option" in capsys.readouterr().err
    assert "their_fields" not in sys.modules


def test_a_saved_comparison_names_nothing_that_was_not_typed(mine: Path, capsys: pytest.CaptureFixture):
    words = ("compare", "experiment=solve_field", "solver=euler,rk4", "solver.step_size=0.5", "compare.dir=out")
    words += ("data.points=4", "compare.diagnose=false", "compare.measure=false")
    assert run(*words) == 0
    path = mine / "out" / "comparison.json"
    content = json.loads(path.read_text())
    content["runs"][0]["words"].append("field=their_fields.Decay")
    path.write_text(json.dumps(content))
    assert run(*words) == 2
    assert "its runs name their_fields" in capsys.readouterr().err


def test_null_is_no_option():
    for words in (["scheme=null"], ["scheme=null,exponential"]):
        with pytest.raises(UserError, match="leave scheme= out"):
            take_own_classes(words)


def test_only_what_is_typed_as_a_dotted_name_is_taken(mine: Path):
    words = ["experiment=digits", "field=mlp", "solver.rtol=0.5", "field=odenets.fields.MLP", "run.root=a.b"]
    assert take_own_classes(words) == words
    assert take_own_classes(["field=mlp,own_fields.Decay", "run.allow_targets=[other]"]) == [
        "field=mlp,own_fields.Decay",
        "run.allow_targets=[other,own_fields]",
    ]


def test_a_list_of_packages_is_read_or_refused():
    assert trusted(["run.allow_targets=[a, b]"]) == ["a", "b"]
    assert trusted(["run.dir=x"]) == []
    with pytest.raises(UserError, match="expected a list of packages"):
        trusted(["run.allow_targets=a"])
