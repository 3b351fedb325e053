"""The words of a grid: its configurations, the equal ones merged, bad words refused in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from odenets.compare import grid
from odenets.compare.options import read_request
from odenets.configs.catalog import ROOT
from odenets.errors import UserError

Refused = Callable[..., str]


def test_every_combination_is_there_once_and_equal_ones_are_merged():
    words = ["experiment=digits", "block=residual,delta", "scheme=forward_euler,exponential", "seed=0,1,2"]
    configurations, seeds = grid.expand(words)
    assert seeds == [0, 1, 2]
    assert [one.name for one in configurations] == ["residual", "delta forward_euler", "delta exponential"]
    residual = configurations[0]
    assert residual.choice == {"block": "residual", "scheme": ""}  # a residual block takes no scheme
    assert residual.equal == [{"block": "residual", "scheme": "exponential"}]
    assert residual.words == ["experiment=digits", "block=residual"]
    assert all(not one.equal for one in configurations[1:])


def test_a_solver_is_idle_for_a_stack_and_counts_for_a_neural_ode():
    words = ["experiment=digits", "model=flow_stack,neural_ode", "solver=rk4,dopri5", "solver.method=rk4,dopri5"]
    names = [one.name for one in grid.expand([*words[:3]])[0]]
    assert names == ["flow_stack", "neural_ode rk4", "neural_ode dopri5"]


def test_numbers_keep_their_key_in_the_name():
    assert [one.name for one in grid.expand(["experiment=digits", "model.N=2,4"])[0]] == ["model.N=2", "model.N=4"]
    assert [one.name for one in grid.expand(["experiment=digits", "model.N=range(1,3)"])[0]] == [
        "model.N=1",
        "model.N=2",
    ]


def test_true_false_and_null_keep_their_key_in_the_name():
    words = ["experiment=digits", "model.tied=true,false", "block.norm=null,layer"]
    assert grid.expand(words)[0][0].name == "model.tied=True block.norm=null"
    assert grid.expand(words)[0][-1].name == "model.tied=False layer"


def test_folders_and_numbers_of_the_comparison_are_read_as_typed():
    options = read_request(["experiment=digits", "compare.dir=2026-11-22", "compare.target=1e-3"]).options
    assert (options.dir, options.target) == ("2026-11-22", 0.001)


def test_a_combination_that_does_not_fit_is_refused_alone():
    words = ["experiment=digits", "block=residual,manifold_hyper_connections", "block.norm=null"]
    assert all(not one.refused for one in grid.expand(words)[0])
    lines = [one.refused for one in grid.expand(["experiment=digits", "model.N=4,many"])[0]]
    assert lines[0] == ""
    assert "model.N" in lines[1]


def test_a_file_gives_the_grid_and_typed_words_come_before_it(tmp_path: Path):
    (tmp_path / "compare").mkdir()
    path = tmp_path / "compare" / "mine.yaml"
    path.write_text(
        "# Mine\nterms: parameters\ngrid:\n  experiment: digits\n  block: [residual, delta]\n  seed: [0, 1]\n"
    )
    request = read_request(["compare=mine", "seed=3", "hydra/launcher=joblib", f"--config-dir={tmp_path}"])
    assert request.options.terms == "parameters"
    assert request.words == ["experiment=digits", "block=residual,delta", "seed=3"]
    assert request.hydra == ["hydra/launcher=joblib"]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "compare").glob("*.yaml")))
def test_every_comparison_of_the_package_composes(name: str):
    request = read_request([f"compare={name}"])
    configurations, _ = grid.expand(request.words)
    assert len(configurations) > 1
    assert not any(one.refused for one in configurations)


def test_the_same_words_have_the_same_folder():
    words = ["experiment=digits", "block=residual,delta"]
    folder = read_request(words).folder
    assert folder == read_request(words[::-1]).folder
    assert folder.parent.as_posix() == "runs/compare"
    assert folder != read_request([*words, "seed=1"]).folder
    assert folder != read_request([*words, "compare.terms=time"]).folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["experiment=digits", "block=residual,delat"], ["block=delat", "did you mean 'delta'"]),
        (["experiment=digits", "blok=residual,delta"], ["blok", "did you mean 'block'"]),
        (["block=residual,delta"], ["choose an experiment"]),
        (["experiment=digits", "seed=a,b"], ["seed=a,b", "whole numbers"]),
        (["experiment=digits", "compare.term=time"], ["compare.term", "did you mean 'terms'"]),
        (["experiment=digits", "compare.terms=money"], ["compare.terms", "steps or parameters or time", "'money'"]),
        (["experiment=digits", "compare.terms=["], ["compare.terms=[", "cannot be read"]),
        (["experiment=digits", "compare.target=.nan"], ["compare.target=nan", "finite number"]),
        (["experiment=digits", "compare.parameters=100"], ["compare.parameters=100", "terms=parameters"]),
        (["compare=digitz"], ["compare=digitz", "did you mean 'digits'"]),
        (["experiment=digits", "--multirun"], ["--multirun", "--config-dir"]),
        (["experiment=digits", "block"], ["'block'", "key=value"]),
        (["experiment=digits", "model.N=0,-1"], ["no configuration", "N >= 1"]),
        (["experiment=digits", "optimizer.lr=interval(0,1)"], ["interval", "list of values"]),
    ],
)
def test_bad_words_are_one_line_before_any_work(
    refused: Refused, arguments: list[str], says: list[str], tmp_path: Path
):
    line = refused("compare", *arguments, f"run.root={tmp_path}/runs")
    for words in says:
        assert words in line
    assert not list(tmp_path.glob("**/comparison.json"))


def test_a_launcher_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    from hydra.core.plugins import Plugins

    from odenets.compare.launch import _check_launcher

    monkeypatch.setattr(Plugins.instance(), "discover", lambda *_: [])
    with pytest.raises(UserError, match=r"pip install 'odenets\[joblib\]'"):
        _check_launcher(["hydra/launcher=joblib"])
    _check_launcher(["hydra/launcher=basic"])
