"""Whole models on the kernels: two training steps equal those of the reference path."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from odenets.kernels import backend
from odenets.kernels.backend import chosen, prefer
from odenets.kernels.delta import delta, delta_undo
from tests.kernels.operators import DEVICE
from tests.language import tiny_language_model

# padding of the interpreter's tiles
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

# what the model calls: (block, overrides, operators that must have run)
MODELS = {
    "delta": ("delta", ["block.value_channels=2"], {"delta", "delta_compress"}),
    "delta, one value": ("delta", [], {"delta", "delta_compress"}),
    "delta, write only": ("delta", ["block.value_channels=2", "block.write_only=true"], set()),
    "delta, |k| as it is": ("delta", ["block.value_channels=2", "block.coefficient=exact"], {"delta"}),
    "mHC": ("manifold_hyper_connections", [], {"project", "coefficients", "aggregate", "expand_project", "expand"}),
    "mHC backward Euler": (
        "manifold_hyper_connections",
        ["block.parametrisation=generator"],
        {"project", "resolvent", "aggregate", "expand_project", "expand"},
    ),
    "mHC exponential": (
        "manifold_hyper_connections",
        ["block.parametrisation=generator", "scheme=exponential", "block.step=half_frozen"],
        {"project", "exponential", "aggregate", "expand"},
    ),
    "mHC Cayley": (
        "manifold_hyper_connections",
        ["block.parametrisation=generator", "scheme=implicit_midpoint"],
        {"project", "resolvent", "aggregate", "expand_project", "expand"},
    ),
    "HC": ("hyper_connections", [], {"aggregate", "expand"}),
    "MUDD": ("mudd", [], {"mix"}),
    "attention residuals": ("attention_residual", [], {"attend"}),
}


@pytest.fixture(autouse=True)
def nothing_chosen() -> Iterator[None]:
    chosen.clear()
    yield
    chosen.clear()


def losses(name: str, preferred: str, autocast: bool = False) -> tuple[list[float], nn.Module]:
    block, overrides, _ = MODELS[name]
    torch.manual_seed(0)
    model = tiny_language_model(block, *overrides).to(DEVICE)
    nn.init.normal_(model.head.weight, std=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    tokens = torch.randint(256, (1, 6), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    found = []
    with prefer(preferred), torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        for _ in range(2):
            loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
    return found, model


SLOW = (
    "mHC exponential",
    "mHC Cayley",
    "HC",
    "delta, |k| as it is",
)  # interpreted a second time through other schemes: a minute


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MODELS])
def test_two_training_steps_equal_the_reference(name: str):
    reference, one = losses(name, "reference")
    assert set(chosen.values()) <= {"reference"}
    kernels, other = losses(name, "triton")
    assert {op for op, ran in chosen.items() if ran == "triton"} == MODELS[name][2]
    assert kernels == pytest.approx(reference, rel=2e-5)
    assert reference[1] != pytest.approx(reference[0], rel=1e-3)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["delta", "mHC"])
def test_autocast_stays_within_half_precision_of_the_reference(name: str):
    reference, _ = losses(name, "reference", autocast=True)
    kernels, _ = losses(name, "triton", autocast=True)
    assert kernels == pytest.approx(reference, rel=5e-3)


@pytest.mark.parametrize("name", ["delta", "mHC"])
def test_activation_checkpointing_gives_the_same_gradients(name: str):
    block, overrides, _ = MODELS[name]
    model = tiny_language_model(block, *overrides).to(DEVICE)
    step, state = model.flow.block(0), torch.randn(1, 5, 16, device=DEVICE)
    with prefer("triton"):
        results = []
        for wrapped in (False, True):
            x = state.clone().requires_grad_()

            def run(x: Tensor) -> Tensor:
                return step(0.0, step.lift(x), 0.5)

            out = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False) if wrapped else run(x)
            parameters = [p for p in step.parameters() if p.requires_grad]
            results.append(torch.autograd.grad(out.sin().sum(), [x, *parameters], allow_unused=True))
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_undoing_the_delta_step_is_good_to_rounding_after_96_sublayers_at_any_gate():
    torch.manual_seed(0)
    x = start = torch.randn(7, 32, 2, device=DEVICE)
    tape = []
    for _ in range(96):
        k, v, beta = (
            torch.randn(7, 32, device=DEVICE),
            torch.randn(7, 2, device=DEVICE),
            2 * torch.rand(7, device=DEVICE),
        )
        beta[0] = 1.0  # where the algebraic inverse divides by zero
        x, e = delta(x, k, v, beta, backend="triton")
        tape.append((k, e, beta))
    for k, e, beta in reversed(tape):
        x = delta_undo(x, k, e, beta, backend="triton")
    assert float((x - start).norm() / start.norm()) < 3e-6


def test_preference_is_undone_even_after_an_error_and_an_unknown_one_is_refused():
    with pytest.raises(RuntimeError, match="on purpose"), prefer("triton"):
        raise RuntimeError("on purpose")
    assert backend.fused(torch.randn(2)) is False
    with pytest.raises(ValueError, match="auto, reference, triton, got 'fast'"), prefer("fast"):
        pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: delta(x, x, x, x), r"x \[.., d, d_v\], k \[.., d\]"),
        (lambda x: delta(x, torch.ones(3), torch.ones(3), torch.ones(2)), "delta expects"),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(4, 3))
