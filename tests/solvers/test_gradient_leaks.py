"""No gradient method keeps anything alive: not over training steps, not after an exception in the field."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from odenets import solve
from odenets.solvers import Reversible as Coupled
from odenets.solvers.gradients import DiscreteAdjoint

METHODS = {
    "autograd": ("autograd", "heun2"),
    "checkpoint": ("checkpoint", "heun2"),
    "recursive": ("recursive", "heun2"),
    "discrete_adjoint": ("discrete_adjoint", "heun2"),
    "discrete_adjoint, 1 slot": (DiscreteAdjoint(slots=1), "heun2"),
    "forward": ("forward", "heun2"),
    "adjoint": ("adjoint", "heun2"),
    "reversible_heun": ("reversible", "reversible_heun"),
    "alf": ("reversible", "alf"),
    "coupled": ("reversible", Coupled("euler")),
}
every_method = pytest.mark.parametrize(
    ("gradient", "solver"),
    [*METHODS.values(), pytest.param("discrete_adjoint", "trbdf2", marks=pytest.mark.slow)],  # 800 Newton iterations
    ids=[*METHODS, "implicit"],
)
AT_ONCE = ("autograd", "adjoint", "forward")  # no steps of their own in the backward pass


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * torch.sin(t) * y.square()


@every_method
def test_training_steps_do_not_grow_memory(gradient, solver):
    field = Decay()
    optimizer = torch.optim.SGD(field.parameters(), lr=1e-3)
    counts = []
    gc.collect()
    gc.disable()  # nothing may need the collector
    try:
        for step in range(200):
            optimizer.zero_grad()
            y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
            solve(field, y0, (0.0, 1.0), gradient=gradient, solver=solver, steps=2).ys.sum().backward()
            optimizer.step()
            if step in (9, 199):
                counts.append(sum(issubclass(type(x), Tensor) for x in gc.get_objects()))
    finally:
        gc.enable()
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("gradient", "solver"), [m for m in METHODS.values() if m[0] not in AT_ONCE],
    ids=[name for name in METHODS if METHODS[name][0] not in AT_ONCE],
)  # fmt: skip
def test_an_exception_in_the_field_leaves_nothing_alive(gradient, solver):
    alive: list[weakref.ref] = []

    class Raises(Decay):
        def forward(self, t, y):
            if torch.is_grad_enabled():
                alive.append(weakref.ref(y))
                if t < 0.5:
                    raise ArithmeticError("here")
            return super().forward(t, y)

    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    ys = solve(Raises(), y0, (0.0, 0.6, 1.0), gradient=gradient, solver=solver, steps=7).ys
    state = torch.get_rng_state()
    with pytest.raises(ArithmeticError):
        ys.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    del ys
    gc.collect()
    assert len(alive) > 1  # it raised after the first step back, not in it
    assert not any(ref() is not None for ref in alive)
