"""What every operator promises: the Triton kernels equal the float64 reference, forward and every gradient.

Without a GPU the kernels run in Triton's interpreter; on one, they run as they are.
"""

import pytest
import torch
from torch import Tensor

from tests.kernels.comparison import compare
from tests.kernels.operators import DEVICE, OPERATORS, TOKENS, mapped, outputs, tensors, with_gradients

# Operators made of two others, or of a series of products, whose every number of tokens is worth seconds of interpreting
# only where asked for.
LONG = ("expand_project", "delta_compress", "delta_compress given k", "aggregate_through", "exponential")
NAMES = list(OPERATORS)
MOSTLY = [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in NAMES]
STREAMS = ("aggregate", "aggregate_through", "expand", "project", "expand_project")
MATRICES = ("sinkhorn", "coefficients", "resolvent", "exponential")
DEPTH = ("mix", "attend")
QUICK = (*MATRICES[:3], *DEPTH)
TUNED = (*STREAMS, "delta", "delta_compress", "stage_sum", "finish", *MATRICES, *DEPTH)
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # padding of the tiles


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds NaN: an element that a kernel does not write shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def fill(x: Tensor) -> Tensor:
        return x.fill_(float("nan")) if x.is_floating_point() and not x.is_meta else x

    monkeypatch.setattr(torch, "empty", lambda *a, **k: fill(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: fill(empty_like(*a, **k)))


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        pytest.param(n, t, marks=pytest.mark.slow if n in LONG and t not in ((2, 3), (0,)) else ())
        for n in NAMES
        for t in TOKENS
    ],
    ids=str,
)
def test_kernel_equals_the_reference_with_gradients(name: str, tokens: tuple[int, ...]):
    compare(name, tokens, OPERATORS[name].sizes[0], torch.float32)


@pytest.mark.parametrize(("name", "size"), [(n, s) for n in NAMES for s in OPERATORS[n].sizes[1:]], ids=str)
def test_odd_sizes(name: str, size: tuple[int, ...]):
    compare(name, (3,), size, torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name: str):
    compare(name, (5,), OPERATORS[name].sizes[0], torch.bfloat16)


@pytest.mark.parametrize("name", MOSTLY)
def test_memory_in_another_order(name: str):
    compare(name, (2, 3), OPERATORS[name].sizes[0], torch.float32, noncontiguous=True)


@pytest.mark.parametrize("name", ["sinkhorn", "coefficients", "resolvent", "aggregate", "project", "attend"])
def test_more_tokens_than_a_tile(name: str):
    compare(name, (150,), (3,) if len(OPERATORS[name].sizes[0]) == 1 else (2, 5), torch.float32)


@pytest.mark.parametrize("name", ["expand_project", "delta_compress"])
def test_programs_that_take_several_tiles_of_tokens(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"odenets.kernels.{name}.triton.PROGRAMS", 2)
    compare(name, (75,), (3, 2), torch.float32)


# Minutes of interpreting for all operators; seconds for small matrices and depth. The interpreter knows no warps: of the
# matrices' candidates, numbers 2 and 4 repeat others there.
@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param(n, i, marks=() if n in DEPTH or (n in QUICK and i in (1, 3)) else pytest.mark.slow)
        for n in TUNED
        for i in range(1, 5)
    ],
)
def test_every_tile_size_to_tune_from(name: str, number: int, monkeypatch: pytest.MonkeyPatch):
    launched = []

    def run(operator, x, sizes, candidates, launch):
        launched.append(candidates[min(number, len(candidates) - 1)])
        return launch(launched[-1])

    monkeypatch.setattr("odenets.kernels.tuning.run", run)
    monkeypatch.setattr("odenets.kernels.depth_mix.triton.PROGRAMS", 8)
    tokens = 33 if name in MATRICES else 9 if name in DEPTH else 70
    size = (4, 35) if name in STREAMS else (300, 4) if name.startswith("delta") else (1500,)
    compare(name, (tokens,), (3,) if name in MATRICES else size, torch.float32)
    assert len(launched) >= 1


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n not in QUICK else ()) for n in TUNED])
def test_launches_for_tuning_leave_nothing_behind(name: str, monkeypatch: pytest.MonkeyPatch):
    def run(operator, x, sizes, candidates, launch):
        return [launch(tiles) for tiles in (candidates[-1], candidates[0])][-1]

    monkeypatch.setattr("odenets.kernels.tuning.run", run)
    compare(name, (3,), OPERATORS[name].sizes[0], torch.float32)


@pytest.mark.parametrize("name", MOSTLY)
def test_inputs_are_not_written_to(name: str):
    inputs = OPERATORS[name].make((3,), *OPERATORS[name].sizes[0])
    before = [x.clone() for x in tensors(inputs)]
    with_gradients(
        OPERATORS[name], inputs, "triton", [torch.ones_like(x) for x in outputs(OPERATORS[name], inputs, "reference")]
    )
    assert all(torch.equal(a, b) for a, b in zip(tensors(inputs), before))


@pytest.mark.parametrize("name", NAMES)
def test_reference_passes_gradcheck(name: str):
    operator = OPERATORS[name]
    inputs = mapped(operator.make((2,), *(min(s, 3) for s in operator.sizes[0])), lambda _, x: x.double().cpu())
    leaves = [x.requires_grad_() for x in tensors(inputs)]

    def call(*_):
        return [x for x in outputs(operator, inputs, "reference") if x.requires_grad]

    assert torch.autograd.gradcheck(lambda *a: call(), leaves, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in LONG[2:]])
def test_survives_the_compiler_whole(name: str):
    torch._dynamo.reset()
    operator = OPERATORS[name]
    inputs = mapped(operator.make((3,), *operator.sizes[0]), lambda _, x: x.requires_grad_())
    compiled = torch.compile(lambda i: outputs(operator, i, "triton"), fullgraph=True, backend="aot_eager")
    found = compiled(inputs)
    expected = outputs(operator, inputs, "triton")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    leaves = tensors(inputs)
    one, other = (
        torch.autograd.grad(sum(x.sin().sum() for x in o if x.requires_grad), leaves, allow_unused=True)
        for o in (found, expected)
    )
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None) or not (a if b is None else b).any()
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_auto_is_the_reference_on_the_cpu_and_an_impossible_triton_says_why(name: str, monkeypatch: pytest.MonkeyPatch):
    operator = OPERATORS[name]
    inputs = mapped(operator.make((3,), *operator.sizes[0]), lambda _, x: x.cpu())
    for a, b in zip(outputs(operator, inputs, "auto"), outputs(operator, inputs, "reference")):
        assert torch.equal(a, b)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="needs a CUDA device, got a tensor on cpu"):
        outputs(operator, inputs, "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"float32, bfloat16 and float16, got torch.float64; use backend='reference'"):
        outputs(operator, mapped(inputs, lambda _, x: x.double()), "triton")
    with pytest.raises(ValueError, match="auto, reference, triton, got 'cuda'"):
        outputs(operator, inputs, "cuda")


def test_device_is_as_expected():
    assert next(iter(tensors(OPERATORS["delta"].make((1,), 3, 1)))).device.type == DEVICE
