"""A diagnosis in words: one line per question, for a table that a person reads."""

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from odenets.diagnostics.diagnose import Diagnosis

NAMES = {
    "step_study": "is it an ODE?",
    "order": "order of convergence",
    "spectrum": "singular values",
    "gains": "gain over depth",
    "contraction": "contraction",
    "exponents": "growth rates",
    "eigenvalues": "stability of the steps",
    "weights": "weights over depth",
    "step_sizes": "step sizes",
    "gates": "gates",
    "reversible": "undone backward",
    "zero_stability": "zero-stability",
    "stream_gains": "gain of the mixings",
    "stream_collapse": "streams",
}


def summary(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """(question, answer) of everything that was found, the verdict first."""
    found = diagnosis.results
    return [(title, SENTENCES[name](found[name])) for name, title in NAMES.items() if name in found]


def table(diagnosis: Diagnosis, title: str = "") -> Group:
    """What to print: the answers, and below them what does not apply and why. Readable at 80 columns."""
    answers = Table(title=title or f"{diagnosis.flow}, along {diagnosis.samples} samples", title_justify="left")
    answers.add_column("question", no_wrap=True)
    answers.add_column("answer", overflow="fold")
    for question, answer in summary(diagnosis):
        answers.add_row(question, Text(answer))
    rest = Text("\n".join(["does not apply:"] + [f"  {NAMES[n]}: {why}" for n, why in diagnosis.skipped.items()]))
    return Group(answers, rest) if diagnosis.skipped else Group(answers)


def _study(found: Any) -> str:
    critical = found.critical_step
    text = f"{found.verdict}: {found.reason}"
    tried = sorted(row.h for row in found.rows if row.h and row.kind in ("trained", "step") and not row.error)
    if found.measure and found.trained_h is not None and len(tried) > 1:
        step = f"below {tried[1]:.4g}" if critical is None else f"{critical:.4g}{' or more' * (critical == tried[-1])}"
        text += f". Trained at h = {found.trained_h:.4g}, critical step {step}"
    return text


def _order(found: Any) -> str:
    smallest = float(found.steps[-1])
    return f"{found.order:.2f} from h = {float(found.steps[0]):.3g} to {smallest:.3g}"


def _spectrum(found: Any) -> str:
    whole = getattr(found, "whole", found)
    text = f"end to end {_range(whole.smallest.min(), whole.largest.max())}"
    if whole is not found:
        low = min(float(layer.smallest.min()) for layer in found.layers)
        high = max(float(layer.largest.max()) for layer in found.layers)
        text += f", of single steps {_range(low, high)}"
    return text + ("" if whole.method == "dense" else " (the smallest are upper bounds)")


def _gains(found: Any) -> str:
    return (
        f"signal x{float(found.signal[-1]):.3g} at the end (at most x{float(found.signal.max()):.3g}), "
        f"gradient x{float(found.gradient[0]):.3g} at the start (at most x{float(found.gradient.max()):.3g})"
    )


def _contraction(found: Any) -> str:
    kind = "contracts everywhere" if float(found.mu.max()) < 0 else "does not contract everywhere"
    return f"{kind}: logarithmic norm {_range(found.mu.min(), found.mu.max())} per unit of time"


def _exponents(found: Any) -> str:
    mean = found.exponents.mean(0)
    return f"{_range(mean.min(), mean.max())} per unit of time, of {len(mean)} perturbations"


def _eigenvalues(found: Any) -> str:
    growing = max(layer.growing for layer in found)
    outside = max(layer.outside for layer in found)
    radius = max(layer.radius for layer in found)
    schemes = ", ".join(dict.fromkeys(layer.scheme for layer in found))
    of = "modes of the linear part" if any(layer.linear is not None for layer in found) else "eigenvalues found"
    return (
        f"{schemes}: |R(h lambda)| up to {radius:.4g}; in the worst step {100 * growing:.0f} % of the {of} grow by "
        f"themselves, and the scheme makes {100 * outside:.0f} % of the others grow"
    )


def _weights(found: Any) -> str:
    return (
        f"change by {found.mean:.2f} of their size from step to step (independent ones by {found.of_independent:.2f})"
    )


def _step_sizes(found: torch.Tensor) -> str:
    low, high = float(found.min()), float(found.max())
    return f"all {high:.4g}" if high - low < 1e-6 * high else f"{low:.4g} to {high:.4g}, sum {float(found.sum()):.4g}"


def _gates(found: Any) -> str:
    low, high = min(layer.beta.low for layer in found), max(layer.beta.high for layer in found)
    mean = sum(layer.beta.mean for layer in found) / len(found)
    share = sum(layer.reflecting for layer in found) / len(found)
    return f"beta {mean:.3g} in the mean, {low:.3g} to {high:.3g}; {100 * share:.1f} % overshoot (beta > 1)"


def _reversible(found: Any) -> str:
    return f"relative error {float(found.single[0]):.1e} in float32, {float(found.double[0]):.1e} in float64"


def _zero_stability(found: Any) -> str:
    verdict = {True: "yes", False: "no", None: "not proven"}[found.stable]
    return f"{verdict}: {found.cause}; products have norm up to {float(found.product_norm.max()):.3g}"


def _stream_gains(found: Any) -> str:
    return (
        f"rows {float(found.total_row.max()):.4g}, columns {float(found.total_column.max()):.4g}, "
        f"spectral norm {float(found.total_norm.max()):.4g} at most, of products over depth"
    )


def _stream_collapse(found: Any) -> str:
    return (
        f"cosine {float(found.cosine[-1]):.3f}, effective rank {float(found.effective_rank[-1]):.2f} "
        f"of {found.streams} at the end"
    )


def _range(low: Any, high: Any) -> str:
    return f"{float(low):.3g} to {float(high):.3g}"


SENTENCES: dict[str, Callable[[Any], str]] = {
    "step_study": _study,
    "order": _order,
    "spectrum": _spectrum,
    "gains": _gains,
    "contraction": _contraction,
    "exponents": _exponents,
    "eigenvalues": _eigenvalues,
    "weights": _weights,
    "step_sizes": _step_sizes,
    "gates": _gates,
    "reversible": _reversible,
    "zero_stability": _zero_stability,
    "stream_gains": _stream_gains,
    "stream_collapse": _stream_collapse,
}
