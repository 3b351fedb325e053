"""Irregular observations with samples of the trajectories that a latent ODE sees behind them."""

from pathlib import Path

from torch import Tensor

from odenets.data import IrregularSeries
from odenets.report.style import COLOURS, new_figure, tidy, write


def plot_latent(path: Path, data: IrregularSeries, times: Tensor, samples: Tensor) -> Path:
    """The first test series, their first channel: what was observed, the truth, and `samples` [k, m, S, d] at `times`
    [S]; the encoder looked at what is left of the line."""
    figure = new_figure(10.0, 5.0)
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    for i, axes in enumerate(panels[: samples.shape[1]]):
        for k in range(len(samples)):
            axes.plot(times.cpu(), samples[k, i, :, 0].cpu(), color=COLOURS[0], lw=0.6, alpha=0.6)
        observed = data.test_mask[i].bool().cpu()
        axes.plot(data.times.cpu(), data.true[i, :, 0].cpu(), ":", color="black", lw=1, label="true")
        where, values = data.times.cpu()[observed], data.test[i, :, 0].cpu()[observed]
        axes.plot(where, values, "o", ms=3, color=COLOURS[1], label="observed")
        axes.axvline(float(data.times[data.seen]), color="grey", lw=0.8)
        tidy(axes)
    panels[0].legend(frameon=False)
    for axes in panels[2:]:
        axes.set_xlabel("time")
    return write(figure, path)
