"""Plots carry their labels and units; the table has sensible digits."""

from pathlib import Path

import torch
from matplotlib.image import imread

from odenets.data import LynxHare
from odenets.diagnostics import LayerEigenvalues
from odenets.report import curves, dynamics, stability
from odenets.report.style import new_figure
from odenets.report.table import format_value


def test_curves_are_drawn_from_metrics_with_gaps(tmp_path: Path):
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("epoch,step,lr,train_loss,test_accuracy\n1,10,0.1,2.0,\n2,20,0.1,1.0,0.75\n")
    image = imread(curves.plot(tmp_path / "curves.png", metrics, "digits"))
    assert image.shape[1] > 1000
    assert image.std() > 0.01  # something is drawn


def test_fit_and_phase_plots_of_the_data_itself(tmp_path: Path):
    data = LynxHare().load()
    for path in (
        dynamics.plot_fit(tmp_path / "fit.png", data, data.times, data.values),
        dynamics.plot_phase(tmp_path / "phase.png", data, data.values + torch.ones(2)),
    ):
        assert imread(path).std() > 0.01


def test_stability_regions_with_eigenvalues_out_of_sight_counted():
    z = torch.tensor([[-1 + 0.5j, -1 - 0.5j, -50.0]], dtype=torch.complex128)
    layer = LayerEigenvalues(0, 0.0, 1.0, "forward_euler", z, torch.zeros(1, 3), None, 0.0, 1 / 3, 49.0)
    axes = new_figure().subplots()
    stability.draw(axes, "forward_euler", [layer])
    assert "1 further out" in axes.get_title()
    drawn = axes.get_lines()[-1].get_xydata()
    assert [-1.0, 0.5] in drawn.tolist()
    assert axes.get_xlim()[0] > -12


def test_a_panel_per_scheme(tmp_path: Path):
    z = torch.tensor([[-1 + 0.5j]], dtype=torch.complex128)
    layers = [
        LayerEigenvalues(n, 0.0, 1.0, scheme, z, torch.zeros(1, 1), z, 0.0, 0.0, 1.0)
        for n, scheme in enumerate(("forward_euler", "backward_euler"))
    ]
    image = imread(stability.plot_stability(tmp_path / "stability.png", layers))
    assert image.shape[1] > 1000
    assert image.std() > 0.01


def test_numbers_in_the_table():
    assert format_value("test_accuracy", 0.98611) == "98.61 %"
    assert format_value("seconds", 12.345) == "12.3 s"
    assert format_value("parameters", 74730) == "74,730"
    assert format_value("alpha", 0.5106934) == "0.5107"
    assert format_value("log_r2", None) == "not finite"
