"""The table of solvers: what its gate refuses gets no speed, its references are right. Nothing is timed."""

import dataclasses
import importlib
import itertools
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

pytest.importorskip("torchode")
from odenets.solvers import InputError, solve

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def parts(monkeypatch):
    """The modules of the table."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("systems", "contenders", "limits", "rounds", "report", "figure")
    return {name: importlib.import_module(f"work_precision.{name}") for name in names}


def measured(parts, task, contenders, most=2):
    rounds = parts["rounds"].Rounds(most, time.monotonic() + 3600, lambda rows: None)
    return rounds.measure(task, contenders), rounds


def test_right_contenders_are_timed_and_a_wrong_one_gets_no_speed(parts):
    c, mlp = parts["contenders"], parts["systems"].systems(4)[2]
    task = c.Task(mlp, 4, 1e-4, backward=True)
    wrong = c.Contender("wrong", lambda task: lambda: [1.001 * x for x in c.ours("it").prepare(task)()])
    late = c.Contender("wrong gradient", lambda task: lambda: [*c.ours("it").prepare(task)()[:-1], torch.zeros(8)])
    strict = dataclasses.replace(mlp, allowed=1.0, allowed_gradient=1.0)
    right, torchdiffeq, torchode = c.ours("eager"), c.theirs("", c.torchdiffeq.odeint), c.of_torchode("", False)
    found, _ = measured(parts, task, [right, torchdiffeq, torchode, late])
    assert [len(row.cpu) for row in found] == [2, 2, 2, 0]
    assert found[-1].gradient_error == 1.0
    assert "wrong: no speed" in parts["report"].table(found)
    (row,), _ = measured(parts, c.Task(strict, 4, 1e-4), [wrong])
    exact = mlp.reference(4)[0].abs()
    assert row.error == pytest.approx(float((1e-3 * exact / (1 + exact)).max()), rel=0.2)  # 0.2: its own error
    assert not row.cpu
    assert "wrong: no speed" in parts["report"].table([row])


def test_a_refusal_is_a_note_and_is_not_asked_again(parts):
    c, mlp = parts["contenders"], parts["systems"].systems(2)[2]
    calls = []

    def refuse(task):
        calls.append(task)
        raise InputError("not this one, use another: " + "x" * 40)

    refusing = c.Contender("refusing", refuse)
    task = c.Task(mlp, 2, 1e-3)
    rows, rounds = measured(parts, task, [refusing, c.scipys("LSODA")])
    assert "1. refusing: not this one, use another" in parts["report"].table(rows)
    assert rows[1].cpu
    (again,) = rounds.measure(task, [refusing])
    assert again.note == rows[0].note
    assert len(calls) == 1


def test_after_the_deadline_nothing_starts_and_says_so(parts):
    c, mlp = parts["contenders"], parts["systems"].systems(2)[2]
    rounds = parts["rounds"].Rounds(2, time.monotonic() - 1, lambda rows: None)
    (row,) = rounds.measure(c.Task(mlp, 2, 1e-3), [c.ours("eager")])
    assert row.note == "no time left"
    assert row.error is None


def test_limits_stop_an_endless_solve_and_one_that_takes_all_memory(parts):
    limits = parts["limits"]
    with pytest.raises(limits.Over, match=r"over 0\.05 s"), limits.limited(0.05, 8.0):
        for i in itertools.count():
            math.sqrt(i)
    with pytest.raises(limits.Over, match="over 0.25 GiB"), limits.limited(60.0, 0.25):
        torch.empty(2**30, dtype=torch.uint8)
    torch.empty(2**30, dtype=torch.uint8)  # afterwards there is memory again


SLOW = pytest.mark.slow  # thousands of steps, 2 s and 7 s


@pytest.mark.parametrize("name", [pytest.param("vdp", marks=SLOW), "lorenz", "mlp"])
def test_references_of_nonstiff_systems_are_scipys_solutions_and_differences(parts, name):
    system = {s.name: s for s in parts["systems"].systems(2)}[name]
    y, by_y0, *_ = system.reference(1)

    def end(y0):
        return solve_ivp(system.plain, (0, system.end), y0, "DOP853", rtol=1e-13, atol=1e-13).y[:, -1]

    start = system.distinct[0].numpy()
    torch.testing.assert_close(y[0], torch.from_numpy(end(start)), rtol=0, atol=1e-10)
    shift = 1e-5 * np.eye(len(start))[0]
    difference = (np.sum(end(start + shift) ** 2) - np.sum(end(start - shift) ** 2)) / 2e-5
    assert float(by_y0[0, 0]) == pytest.approx(difference, rel=1e-4)


@SLOW
def test_robertsons_reference_is_that_of_radau_steps_and_of_autograd_through_them(parts):
    system = parts["systems"].systems(32)[3]
    y0 = system.y0(2).requires_grad_()
    y = solve(system.field, y0, (0.0, system.end), solver="radauIIA5", rtol=1e-9, atol=1e-13).ys[-1]
    gradients = torch.autograd.grad(parts["systems"].loss(y), [y0, *system.field.parameters()])
    for found, exact in zip([y.detach(), *gradients], system.reference(2), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-12)


def test_a_large_batch_repeats_the_starts_and_its_reference(parts):
    mlp = parts["systems"].systems(4)[2]
    y, by_y0, *by_parameters = mlp.reference(12)
    few = mlp.reference(4)
    assert torch.equal(y[5], few[0][1])
    assert torch.equal(mlp.y0(12)[5], mlp.distinct[1])
    assert torch.allclose(by_y0[9] * 3, few[1][1], rtol=1e-14)
    assert all(torch.equal(a, b) for a, b in zip(by_parameters, few[2:], strict=True))


def test_time_at_equal_error_lies_on_the_line_between_two_tolerances(parts):
    Row = parts["rounds"].Row
    rows = [
        Row("s", 1, False, tolerance, "it", error=error, cpu=[seconds])
        for tolerance, error, seconds in ((1e-3, 1e-4, 1.0), (1e-5, 1e-6, 4.0))
    ]
    assert parts["report"].at_error(rows, 1e-5) == pytest.approx(2.0)  # halfway on both axes
    assert parts["report"].at_error(rows, 1e-7) is None


@pytest.mark.slow  # compiles every contender that compiles: minutes
def test_the_whole_command_writes_table_data_and_figure(monkeypatch, tmp_path, parts):
    solvers = importlib.import_module("solvers")
    assert Path(solvers.__file__).parent == BENCHMARKS
    assert solvers.main(["--quick", "--only", "lorenz", "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "solvers.json").read_text())
    timed = {(row["name"], row["batch"], row["backward"]) for row in data["rows"] if row["cpu"]}
    assert ("torchode solve compiled", 16, True) in timed
    for name in ("odenets eager", "odenets compiled", "odenets ensemble", "torchdiffeq", "torchode"):
        assert {(name, batch, backward) for batch in (1, 16) for backward in (False, True)} <= timed
    text = (tmp_path / "solvers.md").read_text()
    assert "### 16 trajectories, forward and backward" in text
    assert (tmp_path / "solvers-lorenz.png").stat().st_size > 10_000
    assert str(sys.executable) not in text
