"""What every block must do, whatever its scheme."""

import pytest
import torch

from odenets.models import FlowStack
from tests.blocks.cases import CASES, DIM, NOT_CAUSAL, made, tensors

L = 6
every = pytest.mark.parametrize("name", CASES)


def stack_and_input(name: str, n: int = 3, t: float = 1.2, tied: bool = False):
    torch.manual_seed(0)
    stack = FlowStack(made(CASES[name]), T=t, N=n, tied=tied)
    x = torch.randn(2, L, DIM, dtype=torch.float64)
    return stack, x, {"ids": torch.randint(0, 20, (2, L))}


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_CAUSAL])
def test_no_output_depends_on_a_later_position(name: str):
    stack, x, context = stack_and_input(name)
    x.requires_grad_()
    for position in range(L - 1):
        y = stack(x, context)[:, position]
        (grad,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x)
        assert grad[:, position + 1 :].abs().max() == 0
        assert grad[:, position].abs().max() > 0
    ids = context["ids"].clone()
    ids[:, 3:] = (ids[:, 3:] + 1) % 20
    assert torch.equal(stack(x, {"ids": ids})[:, :3], stack(x, context)[:, :3])


@every
def test_gradients_reach_every_parameter_and_every_parameter_acts(name: str):
    stack, x, context = stack_and_input(name, tied=True, n=4)
    y = stack(x, context)
    (y * torch.randn_like(y)).sum().backward()
    for label, p in stack.named_parameters():
        assert p.grad is not None, label
        assert p.grad.isfinite().all(), label
        assert p.grad.abs().max() > 1e-10, label
        with torch.no_grad():
            p.add_(0.1 * torch.randn_like(p))
            assert (stack(x, context) - y).abs().max() > 1e-9, label
            y = stack(x, context)


@every
def test_gradients_match_finite_differences(name: str):
    stack, x, context = stack_and_input(name, n=2)
    x = x[:1, :3].clone().requires_grad_()
    context = {"ids": context["ids"][:1, :3]}
    assert torch.autograd.gradcheck(lambda x: stack(x, context), (x,), fast_mode=True)


@every
def test_times_and_step_sizes_per_sample_equal_a_loop(name: str):
    torch.manual_seed(0)
    block = made(CASES[name])()
    x, ids = torch.randn(3, L, DIM, dtype=torch.float64), torch.randint(0, 20, (3, L))
    t, h = torch.rand(3, dtype=torch.float64), 0.1 + torch.rand(3, dtype=torch.float64)

    def two_steps(x, t, h, ids):
        context = {"ids": ids} if block.needs else {}
        return block(t + h, block(t, block.lift(x), h, **context), h, **context)

    together = tensors(two_steps(x, t, h, ids))
    for i in range(3):
        alone = tensors(two_steps(x[i : i + 1], t[i].item(), h[i].item(), ids[i : i + 1]))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1e-12, atol=1e-12)


@every
def test_the_state_keeps_its_kind_shapes_and_precision(name: str):
    torch.manual_seed(0)
    block = CASES[name]().bfloat16()
    x = torch.randn(2, L, DIM, dtype=torch.bfloat16)
    context = {"ids": torch.randint(0, 20, (2, L))} if block.needs else {}
    state = block.lift(x)
    for step in range(3):
        after = block(torch.tensor(step / 4), state, 0.25, **context)
        assert type(after) is type(state)
        assert {a.dtype for a in tensors(after)} == {a.dtype for a in tensors(state)}
        assert all(a.isfinite().all() for a in tensors(after))
        state = after
    assert block.readout(state).dtype == torch.bfloat16
    assert block.readout(state).shape == x.shape
    torch.testing.assert_close(block.readout(block.lift(x)), x, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["momentum", "leapfrog-halves", "mudd-2", "attention-residual", "engram-times"])
def test_compiles_to_one_graph(name: str):
    torch._dynamo.reset()
    stack, x, context = stack_and_input(name)
    compiled = torch.compile(stack, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, context), stack(x, context), rtol=1e-12, atol=1e-12)


def test_trajectories_of_larger_states_are_readouts():
    stack, x, _ = stack_and_input("momentum")
    states = stack.trajectory(x)
    assert states.shape == (4, *x.shape)
    torch.testing.assert_close(states[0], x)
    torch.testing.assert_close(states[-1], stack(x))
