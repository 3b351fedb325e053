"""The stability region of a scheme with the trained layers' eigenvalues over it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor

from odenets.diagnostics import LayerEigenvalues, stability_region
from odenets.report.style import COLOURS, new_figure, write

REACH = 12.0
"""Eigenvalues beyond this are left out of the picture, and counted."""


def plot_stability(path: Path, layers: Sequence[LayerEigenvalues]) -> Path:
    """One panel per scheme that the layers take, their h lambda coloured by depth."""
    schemes = list(dict.fromkeys(layer.scheme for layer in layers))
    figure = new_figure(4.6 * len(schemes) + 0.8, 4.4)
    for axes, scheme in zip(figure.subplots(1, len(schemes), squeeze=False)[0], schemes):
        draw(axes, scheme, [layer for layer in layers if layer.scheme == scheme])
    return write(figure, path)


def draw(axes: Axes, scheme: str, layers: Sequence[LayerEigenvalues]) -> None:
    """Where |R(z)| <= 1, shaded, and z = h lambda of the layers: dots of the whole field, rings of the linear part."""
    fields = [layer.z.flatten() for layer in layers]
    linear = [layer.linear.flatten() for layer in layers if layer.linear is not None]
    everything = torch.cat([*fields, *linear, torch.tensor([-4.0 + 3.2j, 1.5 - 3.2j], dtype=torch.complex128)])
    near = everything[everything.abs() <= REACH]
    left, right = float(near.real.min()) - 0.4, float(near.real.max()) + 0.4
    top = float(near.imag.abs().max()) + 0.4
    region = stability_region(scheme, (left, right), (-top, top), 301)
    axes.contourf(region.re, region.im, (region.modulus <= 1).double(), levels=[0.5, 1.5], colors=COLOURS[5], alpha=0.3)
    axes.contour(region.re, region.im, region.modulus.clamp(max=10), levels=[1.0], colors=COLOURS[0], linewidths=1)
    axes.axhline(0, color="grey", lw=0.5)
    axes.axvline(0, color="grey", lw=0.5)
    shades = colormaps["viridis"](torch.linspace(0, 0.9, max(2, len(layers))).numpy())
    for layer, shade in zip(layers, shades):
        _points(axes, layer.z, ".", shade)
        if layer.linear is not None:
            _points(axes, layer.linear, "o", shade)
    hidden = len(everything) - len(near)
    axes.set_title(scheme.replace("_", " ") + (f" ({hidden} further out)" if hidden else ""))
    axes.set_xlabel("Re h λ")
    axes.set_ylabel("Im h λ")
    axes.set_xlim(left, right)
    axes.set_ylim(-top, top)
    axes.set_aspect("equal")


def _points(axes: Axes, z: Tensor, marker: str, colour: object) -> None:
    fill = {"markerfacecolor": "none"} if marker == "o" else {}
    axes.plot(z.real.flatten(), z.imag.flatten(), marker, color=colour, markersize=4, alpha=0.8, **fill)  # type: ignore[arg-type]
