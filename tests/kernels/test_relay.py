"""Steps that give the next step its reading of the state: where it happens, and that nothing else changes."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from odenets.blocks import Delta, ManifoldHyperConnections
from odenets.fields import SwiGLU
from odenets.kernels.backend import chosen, prefer
from odenets.models import FlowStack
from tests.kernels.operators import DEVICE

# padding of the interpreter's tiles
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
DIM = 6
FACTORIES = {
    "mHC": partial(ManifoldHyperConnections, dim=DIM, streams=2),
    "delta": partial(Delta, dim=DIM, value_channels=2),
}
JOINED = {"mHC": "expand_project", "delta": "delta_compress"}


@pytest.fixture(autouse=True)
def nothing_chosen() -> Iterator[None]:
    chosen.clear()
    yield
    chosen.clear()


def stack(name: str, N: int = 3, **settings) -> FlowStack:
    torch.manual_seed(0)
    made = FlowStack(lambda: FACTORIES[name](SwiGLU(DIM)), T=float(N), N=N, **settings).to(DEVICE)
    for p in made.parameters():  # away from the initialisation, where streams and channels are equal
        nn.init.normal_(p, std=0.3)
    return made


def result(model: nn.Module, preferred: str) -> list[Tensor | None]:
    """Output and gradients of every parameter and of the input."""
    x = torch.randn(2, 3, DIM, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
    with prefer(preferred):
        out = model(x)
        return [out, *torch.autograd.grad(out.sin().sum(), [x, *model.parameters()], allow_unused=True)]


def assert_equal(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mHC", {}),
        ("delta", {}),
        ("delta", {"tied": True}),
        ("delta", {"gradient": "checkpoint"}),
        pytest.param("mHC", {"tied": True}, marks=pytest.mark.slow),  # the interpreter takes seconds for each
        pytest.param("mHC", {"gradient": "checkpoint"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_stack_with_relays_equals_the_reference(name: str, settings: dict):
    expected = result(stack(name, **settings), "reference")
    chosen.clear()
    assert_equal(result(stack(name, **settings), "triton"), expected)
    assert JOINED[name] in chosen


@pytest.mark.parametrize("name", ["delta", pytest.param("mHC", marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", [{"parameters": "spline"}, {"gradient": "downdate"}], ids=str)
def test_where_steps_stand_alone_nothing_is_relayed(name: str, settings: dict):
    expected = result(stack(name, **settings), "reference")
    chosen.clear()
    assert_equal(result(stack(name, **settings), "triton"), expected)
    assert JOINED[name] not in chosen
    assert len(chosen) >= 1


@pytest.mark.parametrize("name", ["delta", pytest.param("mHC", marks=pytest.mark.slow)])
def test_a_block_that_somebody_listens_to_is_called(name: str):
    model, seen = stack(name, N=4), []
    expected = result(model, "reference")
    model.block(1).register_forward_hook(lambda *_: seen.append(1))
    chosen.clear()
    assert_equal(result(model, "triton"), expected)
    assert seen == [1]
    assert JOINED[name] in chosen  # from the third step to the fourth


def test_blocks_that_cannot_take_each_other_s_reading_do_not_relay():
    streams = FACTORIES["mHC"](SwiGLU(DIM))
    assert streams.relays_to(ManifoldHyperConnections(SwiGLU(DIM), DIM, streams=2, parametrisation="generator"))
    for options in ({"streams": 3}, {"streams": 2, "parametrisation": "generator", "step": "half_frozen"}):
        assert not streams.relays_to(ManifoldHyperConnections(SwiGLU(DIM), DIM, **options))
    wide = [ManifoldHyperConnections(SwiGLU(DIM), DIM, streams=5) for _ in range(2)]
    assert not wide[0].relays_to(wide[1])
    delta = FACTORIES["delta"](SwiGLU(DIM))
    assert delta.relays_to(Delta(SwiGLU(DIM), DIM, 2, scheme="backward_euler", beta_0=0.5))
    for options in ({"compress": "token"}, {"write_only": True}, {"coefficient": "exact"}, {"step": "half_frozen"}):
        assert not delta.relays_to(Delta(SwiGLU(DIM), DIM, 2, **options))
    assert not streams.relays_to(delta)
    assert not delta.relays_to(streams)


@pytest.mark.slow  # half a minute of tracing and interpreting
@pytest.mark.parametrize("name", FACTORIES)
def test_a_stack_with_relays_survives_the_compiler_whole(name: str):
    torch._dynamo.reset()
    model = stack(name)
    expected = result(model, "triton")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, DIM, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
    with prefer("triton"):
        out = compiled(x)
    found = torch.autograd.grad(out.sin().sum(), [x, *model.parameters()], allow_unused=True)
    assert_equal([out, *found], expected)


@pytest.mark.slow  # a process group of its own
@pytest.mark.parametrize("name", FACTORIES)
def test_gradients_arrive_in_data_parallel_training(name: str):
    expected = result(stack(name), "reference")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(stack(name), find_unused_parameters=True)
        x = torch.randn(2, 3, DIM, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
        with prefer("triton"):
            out = model(x)
        out.sin().sum().backward()
        found = [out, x.grad, *(p.grad for p in model.parameters())]
        assert_equal([a for a, b in zip(found, expected) if b is not None], [b for b in expected if b is not None])
        assert JOINED[name] in chosen
    finally:
        torch.distributed.destroy_process_group()


def test_step_sizes_may_be_learned_and_differ_by_sample():
    expected = result(stack("delta", steps="free"), "reference")
    assert_equal(result(stack("delta", steps="free"), "triton"), expected)
    block, other = stack("delta").block(0), stack("delta").block(1)
    x, h = torch.randn(2, 3, DIM, 2, device=DEVICE), torch.tensor([0.5, 1.5], device=DEVICE)
    with prefer("triton"):
        new, c = block.relay(0.0, x, h, None, other)
    torch.testing.assert_close(new, block(0.0, x, h))
    torch.testing.assert_close(c, other.flow.coefficients.read(new))
