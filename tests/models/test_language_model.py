"""The language model: causality with every block, generation, initial values, errors."""

import math

import pytest
import torch
from torch import nn

from odenets.blocks import Residual
from odenets.fields import Combined, RotaryAttention, SwiGLU
from odenets.models import FlowStack, LanguageModel, NeuralODE
from odenets.models.language_model import bits_per_byte
from odenets.solvers import Adaptive, FixedStep
from tests.language import LANGUAGE_BLOCKS, tiny_language_model


def shaken(model: LanguageModel) -> LanguageModel:
    """In float64 with every parameter moved off its initial value: no gate closed, no head zero."""
    torch.manual_seed(1)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def changed_logits(model: nn.Module, position: int) -> torch.Tensor:
    """Largest change of the logits at every position when one byte changes."""
    torch.manual_seed(2)
    tokens = torch.randint(256, (2, 11))
    other = tokens.clone()
    other[:, position] = (other[:, position] + 7) % 256
    with torch.no_grad():
        return (model(tokens) - model(other)).abs().amax(dim=(0, 2))


def assert_causal(model: nn.Module) -> None:
    for position in (1, 6):
        change = changed_logits(model, position)
        assert torch.equal(change[:position], torch.zeros(position, dtype=change.dtype))
        assert (change[position:] > 0).all()  # and it reaches every later one


@pytest.mark.parametrize("block", LANGUAGE_BLOCKS)
def test_a_byte_changes_no_logit_before_it(block):
    assert_causal(shaken(tiny_language_model(block)))


@pytest.mark.parametrize(
    "overrides",
    [
        ("block.value_channels=4", "block.compress=token", "block.expand=conv"),
        ("block.step=half_frozen", "scheme=rk4"),
        ("model.parameters=spline",),
        ("model.steps=free",),
        ("branch=transformer_layer",),
        ("task.network.tied=true",),
    ],
)
def test_options_keep_causality(overrides):
    assert_causal(shaken(tiny_language_model("delta", *overrides)))


def neural_ode(solver) -> LanguageModel:
    torch.manual_seed(0)
    field = Combined([RotaryAttention(16, 2), SwiGLU(16)], "parallel")
    return LanguageModel(NeuralODE(field, solver=solver), dim=16, context=16)


def test_fixed_steps_keep_causality_and_an_adaptive_step_size_leaks_and_is_refused():
    model = neural_ode(FixedStep("rk4", steps=3))
    assert_causal(shaken(model))
    model.flow.solver = Adaptive("dopri5", rtol=1e-3)
    assert (changed_logits(model, 6)[:6] > 0).all()
    for solver in ("dopri5", Adaptive("dopri5", per_sample=True)):
        with pytest.raises(ValueError, match=r"do not depend on the input, got Adaptive.*solver=rk4"):
            neural_ode(solver)


def small(**settings) -> LanguageModel:
    torch.manual_seed(0)
    kinds = [lambda: RotaryAttention(16, 2), lambda: SwiGLU(16)]
    return LanguageModel(FlowStack(Residual, T=4, N=4, branches=kinds), dim=16, context=8, **settings)


def test_the_first_loss_is_that_of_a_uniform_guess():
    tokens = torch.randint(256, (4, 9))
    logits = small()(tokens[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(256), rel=1e-6)
    assert bits_per_byte(math.log(256)) == pytest.approx(8.0, abs=1e-12)
    tied = small(tied=True)
    assert tied.head.weight is tied.embedding.weight
    loss = nn.functional.cross_entropy(tied(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss < math.log(256) + 0.2


def test_the_stack_starts_and_ends_at_unit_scale():
    for layers in (2, 16):
        model = tiny_language_model("residual", f"model.N={2 * layers}", "task.network.dim=64")
        x = model.embedding_norm(model.embedding(torch.randint(256, (2, 16))))
        torch.testing.assert_close(x.square().mean().item(), 1.0, rtol=0.05, atol=0)
        assert 1.0 < model.flow(x).square().mean() < 3.0


def test_generation_without_temperature_takes_the_largest_logit_and_repeats():
    model = shaken(small()).float()
    text = model.generate(b"de", 12, temperature=0)
    assert text == model.generate(b"de", 12, temperature=0)
    expected = list(b"de")
    for _ in range(12):
        expected.append(int(model(torch.tensor([expected[-8:]]))[0, -1].argmax()))
    assert text == bytes(expected)


def test_sampling_follows_the_generator_and_the_temperature():
    model = shaken(small()).float()

    def sample(seed, temperature=1.0):
        return model.generate(b"x", 20, temperature, torch.Generator().manual_seed(seed))

    assert sample(0) == sample(0) != sample(1)
    assert sample(0, 1e-4) == model.generate(b"x", 20, temperature=0)


def test_temperature_divides_the_logits(monkeypatch):
    logits = torch.full((256,), -math.inf)
    logits[[97, 98]] = torch.tensor([1.0, 0.0])
    model = small()
    monkeypatch.setattr(model, "forward", lambda tokens: logits.expand(1, tokens.shape[1], 256))
    text = model.generate(b"x", 2000, temperature=0.5, generator=torch.Generator().manual_seed(0))
    p = 1 / (1 + math.exp(-1 / 0.5))
    assert abs(text.count(b"a") / 2000 - p) < 4 * math.sqrt(p * (1 - p) / 2000)
    assert text.count(b"a") + text.count(b"b") == 2000


def test_generation_leaves_the_training_mode_as_it_was():
    model = small().train()
    model.generate(b"a", 1)
    assert model.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small()(torch.zeros(2, 3)), r"int64 tokens \[B, L\], got torch.float32 \[2, 3\]"),
        (lambda: small().generate(b""), "at least one byte"),
        (lambda: small().generate(b"a", temperature=-1.0), "temperature=-1"),
        (lambda: LanguageModel(nn.Linear(16, 8), dim=16)(torch.zeros(1, 3).long()), r"keeps the shape"),
        (lambda: LanguageModel(nn.Identity(), dim=0), "dim=0"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()
