"""Sinkhorn as the map of a small step: how wrong are 20 iterations near the identity?

    python benchmarks/sinkhorn.py docs/results/sinkhorn

For n = 4 and h from 1e-4 to 1: H = Sinkhorn_20(I + h W), compared with the converged projection H*; the error is the
median over draws of W of |H - H*|_F / |H* - I|_F, in float64. W is entrywise exp(2 N(0, 1)), uniform on [0, 1], or the
symmetric part of the first. The generator's steps, (I - hG)^-1 and exp(hG), are doubly stochastic at every h: their
error here is their row and column sums' deviation over |H - I|_F. Writes PATH.png and PATH.md.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from odenets.flows import resolve_scheme
from odenets.flows.linear import generator_basis, generator_from_rates, sinkhorn

N, DRAWS = 4, 2000
STEPS = torch.logspace(-4, 0, 17, dtype=torch.float64)


def lognormal(generator: torch.Generator) -> Tensor:
    return torch.exp(2 * torch.randn(DRAWS, N, N, dtype=torch.float64, generator=generator))


def uniform(generator: torch.Generator) -> Tensor:
    return torch.rand(DRAWS, N, N, dtype=torch.float64, generator=generator)


def symmetric(generator: torch.Generator) -> Tensor:
    w = lognormal(generator)
    return (w + w.transpose(1, 2)) / 2


def converged(p: Tensor) -> Tensor:
    """The doubly stochastic scaling of p > 0 by Newton's method on log scalings; checked by its sums."""
    u, v = -p.sum(2).log(), torch.zeros(len(p), N, dtype=p.dtype)
    for _ in range(200):
        h = p * torch.exp(u[:, :, None] + v[:, None, :])
        rows, columns = h.sum(2), h.sum(1)
        gradient = torch.cat([rows - 1, columns - 1], 1)
        top = torch.cat([torch.diag_embed(rows), h], 2)
        bottom = torch.cat([h.transpose(1, 2), torch.diag_embed(columns)], 2)
        hessian = torch.cat([top, bottom], 1) + 1e-14 * torch.eye(2 * N, dtype=p.dtype)
        step = -torch.linalg.lstsq(hessian, gradient[..., None], driver="gelsd").solution[..., 0]
        step = step * (1.0 / step.abs().amax(1, keepdim=True).clamp(min=1.0))
        u, v = u + step[:, :N], v + step[:, N:]
        if gradient.abs().max() < 1e-13:
            break
    return p * torch.exp(u[:, :, None] + v[:, None, :])


def sinkhorn_error(w: Tensor, h: float) -> float:
    eye = torch.eye(N, dtype=w.dtype)
    start = eye + h * w
    limit = converged(start)
    error = (sinkhorn(start.log(), 20) - limit).norm(dim=(1, 2)) / (limit - eye).norm(dim=(1, 2))
    return float(error.median())


def generator_error(scheme: str, generator: torch.Generator, h: float) -> float:
    basis = generator_basis(N, dtype=torch.float64)
    rates = torch.exp(2 * torch.randn(DRAWS, basis.shape[0], dtype=torch.float64, generator=generator))
    step = resolve_scheme(scheme).R_matrix(h * generator_from_rates(rates, basis))
    deviation = torch.cat([step.sum(1) - 1, step.sum(2) - 1], 1).norm(dim=1)
    return float((deviation / (step - torch.eye(N, dtype=torch.float64)).norm(dim=(1, 2))).median())


def main(path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    draws: dict[str, Callable[[torch.Generator], Tensor]] = {
        "Sinkhorn, W lognormal": lognormal, "Sinkhorn, W uniform": uniform, "Sinkhorn, W symmetric": symmetric,
    }  # fmt: skip
    curves: dict[str, list[float]] = {}
    for name, draw in draws.items():
        w = draw(torch.Generator().manual_seed(0))
        curves[name] = [sinkhorn_error(w, float(h)) for h in STEPS]
    for name, scheme in (("generator, backward Euler", "backward_euler"), ("generator, exponential", "exponential")):
        curves[name] = [generator_error(scheme, torch.Generator().manual_seed(0), float(h)) for h in STEPS]

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, values in curves.items():
        axes.loglog(STEPS, values, "--" if name.startswith("generator") else "-", label=name)
    axes.set(xlabel="step size h", ylabel="median relative error of the step, H - I", ylim=(1e-17, 3))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(f"{path}.png", dpi=150)

    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    text = ["# Sinkhorn near the identity\n", __doc__.split("\n\n")[2].replace("\n", " ") + "\n",
            f"`python benchmarks/sinkhorn.py docs/results/sinkhorn`, commit {commit}, torch {torch.__version__}, "
            f"{DRAWS} draws.\n", f"![error against h]({Path(path).name}.png)\n",
            "| h | " + " | ".join(curves) + " |", "|---|" + "---|" * len(curves)]  # fmt: skip
    for i in range(0, len(STEPS), 4):
        text.append(f"| {STEPS[i]:.0e} | " + " | ".join(f"{values[i]:.1e}" for values in curves.values()) + " |")
    Path(f"{path}.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docs/results/sinkhorn")
