"""The benchmark of operations runs, its gate is green and can turn red, and operations stay few. Nothing is timed."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchode")
ROOT = Path(__file__).parents[1]
SLOW = pytest.mark.slow  # the whole benchmark in a process of its own: 20 s


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "quick.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "operations.py"), "--quick", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text()), done.stdout


def rows_by_name(table):
    return {row["name"]: row for row in table["rows"]}


@SLOW
def test_quick_run_covers_every_problem_and_mode_with_a_green_gate(quick_run):
    results, printed = quick_run
    assert [(table["problem"], table["mode"]) for table in results["tables"]] == [
        ("decay", "forward"),
        ("van_der_pol", "forward"),
        ("mlp", "forward"),
        ("mlp", "autograd"),
        ("mlp", "adjoint"),
    ]
    for table in results["tables"]:
        for row in table["rows"]:
            assert row["green"]
            assert row["error"] <= table["allowed_error"]
            assert min(row["milliseconds"]) > 0
            if table["mode"] != "forward":
                assert row["gradient_error"] <= table["allowed_gradient_error"]
                assert row["backward"]["ops"] > 0
    assert {"machine", "versions", "commit", "date", "command"} <= set(results)
    assert max(map(len, printed.splitlines()[4:])) <= 100
    assert "RED" not in printed


@SLOW
def test_a_dopri5_step_takes_at_most_half_of_torchdiffeqs_operations_and_two_reads(quick_run):
    for table in quick_run[0]["tables"]:
        if table["mode"] != "forward":
            continue
        rows = rows_by_name(table)
        limit = rows["torchdiffeq odeint"]["ops_per_step"] / 2
        for name in ("odenets odeint", "odenets solve"):
            assert rows[name]["ops_per_step"] <= limit, (table["problem"], name)
        for row in table["rows"]:
            if row["library"] == "odenets":
                assert row["syncs_per_step"] <= 2, (table["problem"], row["name"])


@SLOW
def test_the_adjoint_over_nine_intervals_takes_at_most_half_of_torchdiffeqs_operations(quick_run):
    rows = rows_by_name(quick_run[0]["tables"][-1])
    theirs = rows["torchdiffeq odeint_adjoint"]["backward"]["ops"]
    assert rows["odenets odeint_adjoint"]["backward"]["ops"] <= theirs / 2


def test_a_wrong_solution_turns_the_gate_red_and_gets_no_speed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import compare
    import contenders
    import problems
    import table

    decay = problems.problems(quick=True)[0]
    wrong = contenders.Contender("wrong", "odenets", lambda field, problem, method: lambda y0, ts: y0[None] * 0.0067)
    right = contenders.FORWARD[0]
    case = compare.Case(dataclasses.replace(decay, repeats=2), "dopri5", "forward", (right, wrong))
    green, red = compare.measure(case)
    assert green.green
    assert not red.green
    # e^-5 = 0.0067379...: off by 3.8e-5 |y0| / (1 + e^-5 |y0|)
    start = decay.y0
    expected = ((start * (0.006737946999 - 0.0067)) / (1 + start * 0.006737946999)).square().mean().sqrt() / 1e-6
    torch.testing.assert_close(red.error, float(expected), rtol=1e-6, atol=0)
    assert red.milliseconds is None
    assert red.ops_per_step is None
    assert not red.faster_than
    assert "RED" in table.table(case, 2, [green, red])


def test_the_counter_sees_operations_views_and_every_kind_of_read(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from measure import OpCounter

    x = torch.arange(3.0)
    with OpCounter() as counter:
        y = (x + 1).view(3, 1)
        float(y[0, 0])  # two selects and a read
        y.tolist()
        bool((y > 2).any())
    assert counter.ops["add.Tensor"] == 1
    assert counter.views == 3
    assert counter.syncs == 3
