"""Diagnoses of whole models and of finished runs."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from odenets.blocks import Engram, ManifoldHyperConnections, NgramMemory, Residual, RevNet
from odenets.diagnostics import diagnose, flow_input, substituted, summary, table
from odenets.fields import MLP
from odenets.models import FlowStack, ImageClassifier, LanguageModel, NeuralODE
from odenets.solvers import FixedStep


def printed(found) -> list[str]:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(found))
    return console.export_text().splitlines()


def test_everything_that_applies_to_a_stack_of_streams_is_asked_and_the_rest_explained():
    torch.manual_seed(0)
    stack = FlowStack(lambda: ManifoldHyperConnections(MLP(4, 6), 4, parametrisation="generator"), N=2)
    found = diagnose(stack, (torch.randn(6, 4),), samples=2)
    assert found.samples == 2
    assert set(found.skipped) == {"gates", "reversible"}
    assert "delta" in found.skipped["gates"]
    assert found.results["zero_stability"].stable is True
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["results"]["stream_gains"]["total_row"] == pytest.approx([1, 1], abs=1e-5)
    assert len(written["results"]["eigenvalues"][0]["z"][0][0]) == 2  # a complex number
    lines = printed(found)
    assert max(map(len, lines)) <= 80
    assert any("is it an ODE?" in line for line in lines)
    assert dict(summary(found))["streams"].startswith("cosine")


def test_a_reversible_stack_and_a_neural_ode():
    torch.manual_seed(0)
    found = diagnose(FlowStack(lambda: RevNet(lambda: MLP(4, 6)), N=2), (torch.randn(3, 4),))
    assert float(found.results["reversible"].double[0]) < 1e-13
    assert "eigenvalues" in found.skipped
    ode = NeuralODE(MLP(4, 6), FixedStep("rk4", steps=4))
    found = diagnose(ode, (torch.randn(3, 4),))
    assert not found.skipped
    assert found.results["order"].order == pytest.approx(4, abs=0.3)
    assert found.results["step_study"].verdict == "yes"
    total = float(found.results["spectrum"].largest.log().sum())  # the sum of all exponents is log |det|
    assert float(found.results["exponents"].exponents.sum()) == pytest.approx(total, abs=1e-3)


def test_the_flow_inside_a_model_is_found_with_what_it_is_given():
    torch.manual_seed(0)
    memory = NgramMemory(8, slots=16)
    stack = FlowStack(lambda: Engram(Residual(MLP(8, 6)), memory, 8), N=2)
    model = LanguageModel(stack, dim=8, context=5)
    tokens = torch.randint(256, (3, 5))
    given = flow_input(model, tokens)
    assert given.flow is stack
    torch.testing.assert_close(given.x, model.embedding_norm(model.embedding(tokens)))
    assert given.first(2).context["ids"].tolist() == tokens[:2].tolist()
    found = diagnose(model, (tokens,), samples=2, k=2)
    assert found.results["spectrum"].whole.largest.shape == (2, 2)
    with pytest.raises(ValueError, match="no flow to look at"):
        flow_input(nn.Linear(2, 2), torch.randn(1, 2))


def test_another_flow_takes_its_place_and_leaves_it_again():
    stack = FlowStack(lambda: Residual(MLP(4, 6)), N=2)
    model = nn.Sequential(stack)
    other = stack.refine(2)
    with substituted(model, stack, other) as changed:
        assert changed[0] is other
    assert model[0] is stack
    with substituted(stack, stack, other) as changed:
        assert changed is other


def test_the_model_is_measured_with_other_steps_in_evaluation_mode():
    torch.manual_seed(0)
    model = ImageClassifier(FlowStack(lambda: Residual(_Conv()), N=2), channels=4)
    images = torch.randn(3, 1, 8, 8)
    modes = []

    def evaluate() -> dict[str, float]:
        modes.append(model.training)
        return {"loss": float(model(images).square().mean()), "N": getattr(model.flow, "N", 0)}

    model.train()
    study = diagnose(model, (images,), evaluate=evaluate, measure="loss", samples=1, k=1).results["step_study"]
    assert [row.measures["N"] for row in study.rows if row.kind in ("trained", "step")] == [2, 1, 4, 8]
    assert not any(modes)
    assert model.training
    assert study.measure == "loss"


class _Conv(nn.Module):
    """A convolution as a field."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, t, x):
        return self.conv(x)


def test_a_finished_run_is_diagnosed_from_the_command_line(cli, refused, tiny_run: Path):
    outcome = cli("diagnose", f"run={tiny_run}")
    assert outcome.code == 0, outcome.err
    assert "is it an ODE?" in outcome.out
    written = json.loads((tiny_run / "diagnostics.json").read_text())
    assert written["flow"] == "FlowStack"
    accuracy = json.loads((tiny_run / "result.json").read_text())["measures"]["test_accuracy"]
    trained = written["results"]["step_study"]["rows"][0]
    assert trained["measures"]["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert "run=<folder>" in refused("diagnose")
    assert "no such run folder" in refused("diagnose", "run=/nowhere")
