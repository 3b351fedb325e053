"""The step functions are pure: they can be captured whole, and they never read from the device."""

from __future__ import annotations

import dataclasses

import torch
from torch._higher_order_ops.while_loop import while_loop
from torch.utils._python_dispatch import TorchDispatchMode

from odenets import solve
from odenets.solvers import TABLEAUS, Adaptive, resolve_solver
from odenets.solvers.field import FlatField
from odenets.solvers.masked import RUNNING, Clock
from odenets.solvers.state import StateLayout

from .fields import COUPLED_START, coupled

F64 = torch.float64
SYNCS = ("_local_scalar_dense", "is_nonzero", "aten.equal", "aten.nonzero")


class Recorder(TorchDispatchMode):
    """Names of the ATen operators called."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))

    @property
    def syncs(self) -> int:
        return sum(any(name in op for name in SYNCS) for op in self.ops)


def masked(y0, method="dopri5", batch=True):
    layout = StateLayout.of(y0, batch_dims=int(batch))
    solver = resolve_solver(Adaptive(method, rtol=1e-6, atol=1e-6, per_sample=batch))
    ts = torch.tensor([0.0, 2.0], dtype=F64)
    stepper = solver.stepper(FlatField(coupled, layout), ts, y0, 1.0)
    stepper = dataclasses.replace(stepper, field=stepper.field.evaluate)
    t = torch.zeros(len(y0), dtype=F64)
    return stepper, stepper.start(t, torch.full_like(t, 0.05), y0, coupled(t, y0))


def test_masked_step_reads_nothing_back():
    stepper, clock = masked(COUPLED_START.expand(3, 2))
    with Recorder() as recorder:
        stepper(clock)
    assert recorder.syncs == 0


def test_masked_step_is_captured_in_one_graph():
    for method in [name for name, tableau in TABLEAUS.items() if tableau.adaptive]:
        stepper, clock = masked(COUPLED_START.expand(3, 2), method)
        torch._dynamo.reset()
        compiled = torch.compile(lambda c, s=stepper: s(c)[0], fullgraph=True, backend="eager")
        for mine, reference in zip(compiled(clock), stepper(clock)[0]):
            assert torch.allclose(mine, reference, rtol=1e-14, atol=1e-14)


def test_whole_solve_as_one_while_loop():
    """The same step inside while_loop gives what the eager loop gives."""
    y0 = torch.stack([COUPLED_START, COUPLED_START * 0.9])
    stepper, start = masked(y0)

    def advance(*clock):
        # the operator refuses outputs that alias inputs
        return tuple(x.clone() for x in stepper(Clock(*clock))[0])

    torch._dynamo.reset()
    run = torch.compile(
        lambda clock: while_loop(lambda *c: (c[6] == RUNNING).any(), advance, clock), fullgraph=True, backend="eager"
    )
    end = Clock(*run(tuple(x.clone() for x in start)))
    eager = solve(coupled, y0, (0.0, 2.0), rtol=1e-6, atol=1e-6, per_sample=True, first_step=0.05)
    assert torch.equal(end.accepted, eager.stats.accepted)
    assert torch.allclose(end.y, eager.ys[-1], atol=1e-12)


def per_step(run, length):
    """(operators, syncs) of one step: the difference of a long and a short solve over that of their steps."""

    def cost(t1):
        with Recorder() as recorder:
            steps = run(t1)
        return len(recorder.ops), recorder.syncs, steps

    (ops1, syncs1, steps1), (ops2, syncs2, steps2) = cost(length), cost(4 * length)
    return (ops2 - ops1) / (steps2 - steps1), (syncs2 - syncs1) / (steps2 - steps1)


def test_adaptive_step_costs_few_operators_and_one_sync():
    y0 = torch.ones(64, 2, dtype=F64)

    def run(t1):
        stats = solve(lambda t, y: -y, y0, (0.0, t1), solver="dopri5").stats
        return stats.accepted + stats.rejected

    ops, syncs = per_step(run, 3.0)
    assert ops <= 60
    assert syncs <= 1.01


def test_per_sample_step_reads_the_host_once():
    y0 = COUPLED_START.expand(8, 2)

    def run(t1):
        stats = solve(coupled, y0, (0.0, t1), per_sample=True).stats
        return int((stats.accepted + stats.rejected).max())

    _, syncs = per_step(run, 3.0)
    assert syncs <= 2.01


def test_fixed_step_never_waits_while_stepping():
    y0 = torch.ones(8, dtype=F64)

    def run(t1):
        steps = int(t1 * 20)
        solve(lambda t, y: -y, y0, (0.0, t1), solver="rk4", steps=steps)
        return steps

    ops, syncs = per_step(run, 2.0)
    assert syncs == 0
    assert ops <= 30
