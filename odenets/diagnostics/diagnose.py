"""Everything that can be said about the flow in a trained model."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odenets.diagnostics.contraction import contraction
from odenets.diagnostics.flow_input import FlowInput, flow_input, substituted
from odenets.diagnostics.gains import depth_gains, stream_gains
from odenets.diagnostics.gates import gates, step_sizes
from odenets.diagnostics.jacobian import Jacobian
from odenets.diagnostics.lyapunov import LyapunovExponents, depth_exponents, lyapunov_exponents
from odenets.diagnostics.multistep import propagation_matrices, zero_stability
from odenets.diagnostics.order import measured_order
from odenets.diagnostics.result import Result
from odenets.diagnostics.reversible import reconstruction
from odenets.diagnostics.spectrum import layer_spectra, singular_values
from odenets.diagnostics.stability import layer_eigenvalues, ode_eigenvalues
from odenets.diagnostics.step_study import Evaluate, step_study
from odenets.diagnostics.streams import stream_collapse
from odenets.diagnostics.weights import weight_smoothness
from odenets.models import FlowODE, FlowStack, NeuralODE
from odenets.solvers import SolveError

ITERATIONS = 24
"""Krylov steps per Jacobian: the extreme singular values to a few digits."""


@dataclass
class Diagnosis(Result):
    """What was found, by name of the diagnostic, and why the others do not apply.

    Attributes:
        flow: the class of the flow.
        samples: how many inputs it was looked at along.
        results: `step_study`, `spectrum`, `gains`, `contraction`, `exponents`, `eigenvalues`, `order`, `weights`,
            `step_sizes`, `gates`, `reversible`, `zero_stability`, `stream_gains`, `stream_collapse`, as far as they
            apply.
        skipped: the reason for each that does not.
    """

    flow: str
    samples: int
    results: dict[str, Any]
    skipped: dict[str, str]


def diagnose(
    model: nn.Module,
    batch: tuple[Any, ...],
    *,
    evaluate: Callable[[], dict[str, float]] | None = None,
    measure: str = "",
    samples: int = 4,
    k: int = 6,
) -> Diagnosis:
    """Look at the flow in a model along a few samples.

    Args:
        model: a `FlowStack`, a `NeuralODE`, or a module that holds one.
        batch: what the model is called with.
        evaluate: measures the model, for the question whether its flow is an ODE; it is called with other flows in
            the model's place.
        measure: which of its measures counts.
        samples: of the batch, for everything but `evaluate`.
        k: singular values, eigenvalues and exponents per sample.

    Raises:
        ValueError: no flow in the model, or samples or k below 1.
    """
    if samples < 1 or k < 1:
        raise ValueError(f"diagnose expects samples >= 1 and k >= 1, got samples={samples}, k={k}")
    training = model.training
    model.eval()
    try:
        given = flow_input(model, *batch).first(samples)
        measured = None if evaluate is None else _measured(model, given.flow, evaluate)
        questions = _questions(given, k) | {
            "step_study": functools.partial(
                step_study, given.flow, given.x, given.context, evaluate=measured, measure=measure
            )
        }
        results, skipped = {}, {}
        for name, ask in questions.items():
            try:
                results[name] = ask()
            except (ValueError, NotImplementedError, SolveError, torch.linalg.LinAlgError) as error:
                skipped[name] = " ".join(str(error).split())
    finally:
        model.train(training)
    return Diagnosis(type(given.flow).__name__, len(given.x), results, skipped)


def _measured(model: nn.Module, flow: nn.Module, evaluate: Callable[[], dict[str, float]]) -> Evaluate:
    def measured(other: nn.Module) -> dict[str, float]:
        with substituted(model, flow, other):
            return evaluate()

    return measured


def _questions(given: FlowInput, k: int) -> dict[str, Callable[[], Any]]:
    flow, x, context = given
    if isinstance(flow, FlowStack):
        return _of_stack(flow, x, context, k)
    return {
        "spectrum": lambda: singular_values(Jacobian(flow, x), k, iterations=ITERATIONS),
        "eigenvalues": lambda: ode_eigenvalues(flow, x, k=k, iterations=ITERATIONS),
        "exponents": lambda: _exponents(flow, x, k),
        "order": lambda: measured_order(flow, x),
    }


def _of_stack(
    stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None, k: int
) -> dict[str, Callable[[], Any]]:
    return {
        "spectrum": lambda: layer_spectra(stack, x, context, k, iterations=ITERATIONS),
        "gains": lambda: depth_gains(stack, x, context),
        "contraction": lambda: contraction(stack, x, context, iterations=ITERATIONS),
        "exponents": lambda: depth_exponents(stack, x, context, k),
        "eigenvalues": lambda: layer_eigenvalues(stack, x, context, k=k, iterations=ITERATIONS),
        "order": lambda: measured_order(stack, x, context),
        "weights": lambda: weight_smoothness(stack),
        "step_sizes": lambda: step_sizes(stack),
        "gates": lambda: gates(stack, x, context),
        "reversible": lambda: reconstruction(stack, x, context),
        "zero_stability": lambda: zero_stability(propagation_matrices(stack, x, context).matrices),
        "stream_gains": lambda: stream_gains(stack, x, context),
        "stream_collapse": lambda: stream_collapse(stack, x, context),
    }


def _exponents(ode: NeuralODE, x: Tensor, k: int) -> LyapunovExponents:
    """Finite-time exponents over the interval of the neural ODE."""
    start = ode.block.lift(x) if isinstance(ode, FlowODE) else x
    time = ode.t1 - ode.t0
    size = start[0].numel()
    return lyapunov_exponents(ode.field, start.detach(), time, min(k, size), dt=time / 32, t0=ode.t0)
