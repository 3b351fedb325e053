"""Compiled solves take the steps of the eager ones, compile once, and say why where they cannot."""

from __future__ import annotations

import gc
import math
import re
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.fx.experimental.proxy_tensor import make_fx

from odenets import solve
from odenets.solvers import InputError, PIDController, Status
from odenets.solvers.compiled import adaptive, capture, host_loop, lanes
from odenets.solvers.compiled.hoist import hoisted
from odenets.solvers.compiled.sums import SumsApart

from .fields import COUPLED_START, coupled, coupled_exact

F64 = torch.float64
MISSING = capture.why_unavailable("cpu")
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "available"),
    pytest.mark.filterwarnings("error:solved eagerly"),
]


class Driven(nn.Module):
    """w k (y2, -y1) + b sin t."""

    def __init__(self, w: float = 0.7) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=F64))
        self.register_buffer("b", torch.tensor([0.1, 0.2], dtype=F64))
        self.k = 1.0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        time = t[:, None] if t.dim() else t
        return torch.stack((y[..., 1], -y[..., 0]), -1) * self.w * self.k + torch.sin(time) * self.b


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def both(field, y0, ts, **settings):
    with torch.no_grad():
        found = solve(field, y0, ts, compile="solve", throw=False, **settings)
        return found, solve(field, y0, ts, throw=False, **settings)


def same(found, eager, atol=1e-12) -> None:
    assert torch.equal(torch.as_tensor(found.stats.accepted), torch.as_tensor(eager.stats.accepted))
    assert torch.equal(torch.as_tensor(found.stats.rejected), torch.as_tensor(eager.stats.rejected))
    assert torch.equal(torch.as_tensor(found.status), torch.as_tensor(eager.status))
    # what a method without the first-same-as-last property evaluates at the end of a step, the eager loop leaves out
    # where no step follows
    assert 0 <= found.stats.nfe - eager.stats.nfe <= 1 + int(torch.as_tensor(eager.stats.rejected).max())
    assert torch.allclose(found.ys, eager.ys, rtol=0, atol=atol, equal_nan=True)
    assert torch.equal(found.ts, eager.ts)


# capture takes time for every stage
FEW_STAGES: dict = {"solver": "fehlberg2", "rtol": 1e-6, "atol": 1e-6}
SLOW = pytest.mark.slow(reason="capturing a program takes seconds")
LOOPS = capture.why_no_loops("cpu")
needs_loops = pytest.mark.skipif(bool(LOOPS), reason=f"no program that loops {LOOPS}")
START = torch.tensor([[1.0, 0.0], [0.3, -0.5], [2.0, 1.0]], dtype=F64)


@needs_loops
def test_one_clock_in_one_program(traced):
    """Outputs, tolerances, end times, parameters, buffers and batch contents may change: nothing is compiled again."""
    field, ts = Driven(), torch.linspace(0, 3, 7)
    before = graphs()
    same(*both(field, START, ts, **FEW_STAGES))
    compiled = graphs()
    assert compiled == before + 1
    with torch.no_grad():
        field.w.fill_(1.3)
        field.b.fill_(0.5)
    same(*both(field, 2 * START, torch.linspace(1, 4, 12), solver="fehlberg2", rtol=1e-5, atol=1e-7))
    same(*both(field, START, torch.linspace(0, 200, 5), max_steps=20, **FEW_STAGES))
    assert both(field, START, torch.linspace(0, 200, 5), max_steps=20, **FEW_STAGES)[0].status == Status.MAX_STEPS
    assert graphs() == compiled


@needs_loops
def test_other_batch_sizes_compile_once_more_a_field_of_the_same_class_never(traced):
    ts = torch.linspace(0, 1, 5)
    both(Driven(), START, ts, **FEW_STAGES)
    before = graphs()
    same(*both(Driven(0.9), START, ts, **FEW_STAGES))
    assert graphs() == before
    for size in (5, 8, 11):
        same(*both(Driven(0.9), START[:1].repeat(size, 1), ts, **FEW_STAGES))
    assert graphs() == before + 1


@SLOW
def test_number_read_by_the_field_is_compiled_in_anew(traced):
    field, ts = Driven(), (0.0, 2.0)
    both(field, START, ts, **FEW_STAGES)
    for field.k in (2.0, 3.0):
        same(*both(field, START, ts, **FEW_STAGES))


@pytest.mark.parametrize(
    "ts",
    [
        torch.linspace(0, 1.5, 40),
        pytest.param(torch.stack([torch.linspace(0, x, 9) for x in (1, 2, 3)]), marks=SLOW),
    ],
)
def test_clock_per_sample(traced, ts):
    """40 outputs, several in one step: more than one iteration writes."""
    starts = COUPLED_START * torch.tensor([[1.0], [0.9], [1.1]], dtype=F64)
    found, eager = both(coupled, starts, ts, per_sample=True, **FEW_STAGES)
    assert torch.equal(found.stats.accepted, eager.stats.accepted)
    assert torch.allclose(found.ys, eager.ys, rtol=0, atol=1e-12)
    first = ts if ts.dim() == 1 else ts[0]
    assert torch.allclose(found.ys[:, 0], coupled_exact(first.double()), atol=1e-3)


@pytest.mark.parametrize(
    "settings", [pytest.param({}, marks=SLOW), pytest.param({"per_sample": True}, marks=SLOW), {"save_at": "end"}]
)
def test_backwards_in_time(traced, settings):
    ts = torch.tensor([1.0, 0.7, 0.65, 0.1], dtype=F64)
    found, eager = both(coupled, coupled_exact(ts[:1]), ts, **FEW_STAGES, **settings)
    assert torch.allclose(found.ys[-1, 0], coupled_exact(ts[-1]), atol=1e-3)
    assert torch.allclose(found.ys, eager.ys, rtol=0, atol=1e-13)
    assert torch.equal(found.ts, eager.ts)


@pytest.mark.parametrize(
    "solver", [*(pytest.param(name, marks=SLOW) for name in ("adaptive_heun", "bosh3", "tsit5", "dopri5", "dopri8"))]
)
def test_every_explicit_method(traced, solver):
    found, eager = both(coupled, COUPLED_START, torch.linspace(0, 1, 4), solver=solver, rtol=1e-5, atol=1e-5)
    assert (found.stats.accepted, found.stats.rejected) == (eager.stats.accepted, eager.stats.rejected)
    assert torch.allclose(found.ys, eager.ys, rtol=0, atol=1e-13)


def test_tree_of_tensors_with_tolerances_and_first_step(traced):
    def field(t, state):
        return {"a": -state["b"][:1] * torch.cos(t), "b": state["a"].expand(2) * 1.0}

    state = {"a": torch.ones(1), "b": torch.ones(2)}
    found, eager = both(field, state, torch.linspace(0, 3, 4), solver="fehlberg2",
                        rtol=(1e-4, 1e-5), atol=1e-5, first_step=0.01)  # fmt: skip
    assert found.stats.accepted == eager.stats.accepted
    for name in state:
        assert torch.allclose(found.ys[name], eager.ys[name], atol=1e-6)


def test_failures_have_their_cause(traced):
    """y' = y^2 from 1 has a pole at t = 1; log(1/2 - t) y has no value beyond t = 1/2."""
    ts = (0.0, 0.5, 2.0)
    found, eager = both(lambda t, y: y * y, torch.ones(1, dtype=F64), ts, **FEW_STAGES)
    assert found.status == eager.status == Status.STEP_TOO_SMALL
    assert math.isclose(float(re.findall(r"at t = ([\d.]+)", found.message)[0].rstrip(".")), 1, rel_tol=1e-2)
    assert found.ys[:2].isfinite().all()
    assert found.ys[2].isnan().all()
    found, eager = both(lambda t, y: torch.log(0.5 - t) * y, torch.ones(1, dtype=F64), (0.0, 2.0), **FEW_STAGES)
    assert found.status == eager.status == Status.NON_FINITE
    assert "the vector field is NaN or infinite" in found.message


@SLOW
def test_failure_of_one_sample(traced):
    starts = torch.tensor([[1.0], [0.1]], dtype=F64)
    found, _ = both(lambda t, y: y * y, starts, (0.0, 2.0), per_sample=True, **FEW_STAGES)
    assert found.status.tolist() == [Status.STEP_TOO_SMALL, Status.SUCCESS]
    assert math.isclose(float(found.ys[1, 1]), 0.1 / (1 - 0.2), rel_tol=1e-4)
    assert found.ys[1, 0].isnan()
    assert "1 of 2 samples" in found.message


@pytest.mark.parametrize("mode", ["auto", "solve"])
def test_field_that_cannot_be_captured_is_named_and_solved_eagerly(traced, mode):
    def field(t, y):
        if y.sum().item() > 0:
            return -y
        return y

    line = field.__code__.co_firstlineno + 1
    with pytest.warns(UserWarning, match=re.escape(f"{__file__}:{line}") + ".*depends on a tensor's value"):
        found = solve(field, torch.ones(2, dtype=F64), (0.0, 1.0), compile=mode)
    assert torch.allclose(found.ys[-1], torch.full((2,), math.exp(-1), dtype=F64), atol=1e-6)
    before = graphs()
    solve(field, torch.ones(2, dtype=F64), (0.0, 1.0), compile=mode)  # neither a warning nor another attempt
    assert graphs() == before


@SLOW
def test_programs_keep_no_field_alive(traced):
    field = Driven()
    both(field, START, (0.0, 1.0), **FEW_STAGES)
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None


@SLOW
def test_sums_are_taken_apart_from_products():
    """One graph with a bias, a full summand, and another weight of the summand, which stays as it is."""
    aten, matrix = torch.ops.aten, torch.randn(3, 3, dtype=F64)

    def layers(x, bias):
        first = torch.addmm(bias, x, matrix)
        return torch.addmm(torch.addmm(first, first, x), x, first, beta=2.0)

    inputs = torch.randn(3, 3, dtype=F64), torch.randn(3, dtype=F64)
    module = make_fx(layers, tracing_mode="fake")(*inputs)
    SumsApart()(module.graph)
    module.recompile()
    targets = [node.target for node in module.graph.nodes]
    assert (targets.count(aten.mm.default), targets.count(aten.addmm.default)) == (2, 1)
    assert torch.allclose(module(*inputs), layers(*inputs), rtol=1e-14, atol=1e-14)


@SLOW
def test_programs_are_bounded(traced, monkeypatch):
    monkeypatch.setattr(capture, "PROGRAMS", 2)
    for p in (0.1, 0.2, 0.3):
        solve(coupled, COUPLED_START, (0.0, 0.1), compile="solve", controller=PIDController(p=p), solver="fehlberg2")
    assert len(capture._programs) == 2


@pytest.mark.parametrize("gradient", ["autograd", pytest.param("checkpoint", marks=SLOW)])
def test_fixed_steps_forward_and_backward(traced, gradient):
    """19 steps: two chunks and a shorter one; outputs inside chunks."""
    results = []
    for mode in ("solve", False):
        field, start = Driven(), START.clone().requires_grad_()
        solution = solve(
            field, start, torch.linspace(0, 1.9, 20), solver="midpoint", gradient=gradient, compile=mode, save_at="ts"
        )
        loss = (solution.ys[7] * solution.ys[-1]).sum()
        results.append((solution, torch.autograd.grad(loss, [start, field.w])))
    (mine, gradients), (eager, expected) = results
    assert mine.stats == eager.stats
    assert torch.allclose(mine.ys, eager.ys, rtol=0, atol=1e-13)
    for found, wanted in zip(gradients, expected):
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-13)


@needs_loops
@pytest.mark.parametrize("gradient", ["autograd", pytest.param("checkpoint", marks=SLOW)])
def test_adaptive_steps_forward_and_backward(traced, gradient):
    """Exactly the gradient through the accepted steps."""
    results = []
    for mode in ("solve", False):
        field, start = Driven(), START.clone().requires_grad_()
        solution = solve(field, start, (0.0, 2.0), gradient=gradient, compile=mode, solver="fehlberg2", rtol=1e-4)
        loss = solution.ys[-1].square().sum()
        results.append((solution, torch.autograd.grad(loss, [start, field.w])))
    (mine, gradients), (eager, expected) = results
    assert (mine.stats.accepted, mine.stats.rejected) == (eager.stats.accepted, eager.stats.rejected)
    assert torch.allclose(mine.ys, eager.ys, rtol=0, atol=1e-12)
    for found, wanted in zip(gradients, expected):
        assert torch.allclose(found, wanted, rtol=1e-11, atol=1e-12)


def test_without_loops_what_needs_them_is_refused(monkeypatch):
    monkeypatch.setattr(lanes, "LARGEST", 0)
    monkeypatch.setattr(adaptive, "LOOPS_ON", set())
    monkeypatch.setattr(capture, "LOOPS_WRITE", False)
    for solver, what in (("dopri5", "gradients of adaptive steps"), ("kvaerno3", "implicit methods")):
        with pytest.raises(InputError, match=rf"does not take {what} before torch 2.13 .*: use"):
            solve(Driven(), START, (0.0, 1.0), solver=solver, compile="solve")


@needs_loops
def test_fixed_steps_without_gradient_are_one_loop_whatever_their_number(traced):
    field = Driven()
    with torch.no_grad():
        for steps, every in ((19, 1), (38, 2), (7, 7)):
            settings = {"solver": "bosh3", "steps": steps}
            ts = torch.linspace(0, 1.9, steps + 1, dtype=F64)[:: every if every > 1 else 1]
            before = graphs()
            mine = solve(field, START, ts, compile="solve", **settings)
            compiled = graphs() - before
            eager = solve(field, START, ts, **settings)
            assert compiled == (0 if steps == 38 else 1)  # the last wants the end alone: another program
            assert mine.stats == eager.stats
            assert torch.allclose(mine.ys, eager.ys, rtol=0, atol=1e-13)


@torch.no_grad()
def test_two_output_times_on_one_point_of_the_grid_are_solved_eagerly():
    ts = [0.0, 0.5, 0.5 + 1e-14, 1.0]
    with pytest.raises(InputError, match="between the grid's points"):
        solve(coupled, COUPLED_START, ts, solver="rk4", steps=2, compile="solve")
    found = solve(coupled, COUPLED_START, ts, solver="rk4", steps=2, compile="auto").ys
    assert torch.equal(found, solve(coupled, COUPLED_START, ts, solver="rk4", steps=2).ys)


@needs_loops
def test_loops_take_any_batch_with_and_without_gradient(traced):
    """The first size, the second, and from then on none is compiled for."""
    for settings in (
        {"solver": "midpoint", "steps": 4},
        {"solver": "fehlberg2", "gradient": "checkpoint", "rtol": 1e-3},
    ):
        field = Driven()
        for n in (3, 5, 6, 7):
            before, start = graphs(), torch.randn(n, 4, 2, dtype=F64)
            with torch.set_grad_enabled("gradient" in settings):
                mine = solve(field, start, (0.0, 1.0), compile="solve", **settings).ys
            assert (graphs() == before) == (n > 5)
            eager = solve(field, start, (0.0, 1.0), **settings).ys
            assert torch.allclose(mine, eager, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_first_step_that_is_a_tensor_is_read_at_every_call(traced):
    first, start = torch.tensor(0.1), torch.full((20,), 0.5, dtype=F64)
    settings = {"solver": "fehlberg2", "first_step": first, "max_steps": 100_000}
    for value in (0.1, 1e-4):
        first.fill_(value)
        mine = solve(lambda t, y: -1.5 * y, start, (0.0, 1.0), compile="solve", **settings)
        assert mine.stats.accepted == solve(lambda t, y: -1.5 * y, start, (0.0, 1.0), **settings).stats.accepted


def test_fixed_steps_of_a_field_with_random_numbers_are_unrolled(traced):
    calls = []

    def noisy(t, y):
        return -y + torch.randn_like(y) * 1e-9

    with torch.no_grad():
        for _ in range(2):
            before = graphs()
            ys = solve(noisy, START, (0.0, 1.0), solver="rk4", steps=4, compile="solve").ys
            calls.append(graphs() - before)
    assert torch.allclose(ys[-1], START * torch.exp(torch.tensor(-1.0, dtype=F64)), rtol=0, atol=1e-3)
    assert calls[1] == 0  # nor is the loop tried again


def test_fixed_steps_with_outputs_off_the_grid_are_refused():
    with pytest.raises(InputError, match="between the grid's points"):
        solve(coupled, COUPLED_START, (0.0, 0.33, 1.0), solver="rk4", steps=10, compile="solve")


@needs_loops
@SLOW
def test_odeint(traced):
    from odenets.solvers import odeint

    ts = torch.linspace(0, 1, 3, dtype=F64)
    with torch.no_grad():
        before = graphs()
        found = odeint(coupled, COUPLED_START, ts, method="fehlberg2", rtol=1e-5, atol=1e-5, compile="solve")
        assert graphs() == before + 1
        eager = odeint(coupled, COUPLED_START, ts, method="fehlberg2", rtol=1e-5, atol=1e-5)
    assert torch.allclose(found, eager, rtol=0, atol=1e-13)


def test_wrong_mode_and_what_is_not_compiled():
    with pytest.raises(InputError, match="compile= takes"):
        solve(coupled, COUPLED_START, (0.0, 1.0), compile="all")
    with pytest.raises(InputError, match="does not take events|dense=True"):
        solve(coupled, COUPLED_START, (0.0, 1.0), compile="solve", dense=True)
    assert solve(coupled, COUPLED_START, (0.0, 1.0), compile="auto", dense=True).dense is not None


def test_compiled_step_under_the_eager_loop(monkeypatch):
    """Gradients, dense output and every step come from the eager loop; the steps are the same."""
    from odenets.solvers.compiled import step

    step._program.cache_clear()
    monkeypatch.setattr(step, "BACKEND", "eager")
    field = Driven()
    results = []
    for mode in ("step", False):
        solution = solve(field, START, torch.linspace(0, 1, 3), compile=mode, save_at="steps", solver="bosh3")
        (gradient,) = torch.autograd.grad(solution.ys[-1].square().sum(), field.w)
        results.append((solution, gradient))
    step._program.cache_clear()
    (mine, gradient), (eager, expected) = results
    assert mine.stats == eager.stats
    assert torch.allclose(mine.ys, eager.ys, rtol=0, atol=1e-13)
    assert torch.allclose(gradient, expected, rtol=1e-12)


@pytest.mark.slow(reason="half a minute in the C++ compiler")
@pytest.mark.parametrize("per_sample", [False, True])
def test_program_from_the_cpp_compiler(per_sample, monkeypatch):
    """The real thing, outputs and all; the inputs stay what they were."""
    capture.clear()
    monkeypatch.setattr(lanes, "LARGEST", 0)
    ts, start = torch.linspace(0, 3, 12), START.clone()
    same(*both(Driven(), start, ts, per_sample=per_sample, **FEW_STAGES))
    before = graphs()
    same(*both(Driven(0.4), 3 * START, ts * 0.5 + 1, solver="fehlberg2", rtol=1e-5, per_sample=per_sample))
    assert graphs() == before
    assert torch.equal(start, START)


@pytest.mark.parametrize("per_sample", [False, pytest.param(True, marks=SLOW)])
def test_loop_of_the_host(traced, monkeypatch, per_sample):
    """As on a device with a queue: compiled steps, and a look at whether they are all there once in several of them."""
    monkeypatch.setattr(adaptive, "LOOPS_ON", set())
    monkeypatch.setattr(host_loop, "LOOK_EVERY", 7)
    called = []
    call = capture.call

    def counted(build, key, *given, **more):
        called.append(key)
        return call(build, key, *given, **more)

    monkeypatch.setattr(capture, "call", counted)
    for ts in (torch.linspace(0, 2, 9, dtype=F64), (2.0, 0.5)):
        called.clear()
        found, eager = both(Driven(), START, ts, per_sample=per_sample, **FEW_STAGES)
        same(found, eager)
        assert (len(called) - 1) % 7 == 0
        trials = int((found.stats.accepted + torch.as_tensor(found.stats.rejected)).max())
        assert trials <= len(called) - 1 < trials + 7 + len(ts)


def test_buffers_are_allocated_before_the_loop():
    """The rewriting of generated code, on code in its form."""
    source = """before
    AtenTensorHandle buf1_handle;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_assign_tensors_out(arg0_1, &buf1_handle));
    RAIIAtenTensorHandle buf1(buf1_handle);
    while (1) {
        AtenTensorHandle body_arg0_1_handle;
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_assign_tensors_out(buf1, &body_arg0_1_handle));
        RAIIAtenTensorHandle body_arg0_1(body_arg0_1_handle);
        static constexpr int64_t int_array_0[] = {4L, 2L};
        AtenTensorHandle body_buf0_handle;
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, int_array_0, int_array_0, f64, cpu, 0, &body_buf0_handle));
        RAIIAtenTensorHandle body_buf0(body_buf0_handle);
        kernel((const double*)(body_arg0_1.data_ptr()), (double*)(body_buf0.data_ptr()));
        body_arg0_1.reset();
        buf1.reset();
        buf1 = std::move(body_buf0);
    }
after"""
    found = [line.strip() for line in hoisted(source).splitlines()]
    loop = found[found.index("while (1) {") :]
    assert [line for line in loop if line] == [
        "while (1) {",
        "kernel((const double*)(buf1.data_ptr()), (double*)(body_buf0.data_ptr()));",
        "std::swap(buf1, body_buf0);",
        "}",
        "after",
    ]
    # the input itself is not written to
    assert "AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_clone(arg0_1, &buf1_handle));" in found
