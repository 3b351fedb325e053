"""Fair terms against counts and clocks of their own."""

from typing import Any

import pytest

from odenets.compare import grid, terms
from odenets.compare.options import Options

WORDS = ["experiment=digits", "task.network.channels=8", "model.N=2", "trainer.threads=1"]


def conv_parameters(channels: int, hidden: int) -> int:
    """Of a two-layer 3x3 convolution with biases."""
    return 9 * channels * hidden + hidden + 9 * hidden * channels + channels


def test_equal_parameters_chooses_the_nearest_width():
    configurations, _ = grid.expand([*WORDS, "block=residual,delta,mhc_generator,hamiltonian"])
    made = terms.apply(Options(terms="parameters"), configurations)
    reference, delta, mhc, hamiltonian = configurations
    assert reference.changed == {}
    wanted = made["reference"]
    plain_width = terms.parameters(delta.cfg) - wanted  # what the delta block adds at the same width
    per_width = 2 * (conv_parameters(8, 2) - conv_parameters(8, 1))  # two layers
    expected = 8 - round(plain_width / per_width)
    assert delta.changed == {"branch.hidden": expected}
    assert abs(made["counts"][delta.name] - wanted) <= per_width / 2
    assert mhc.changed["branch.hidden"] < 8
    assert set(hamiltonian.changed) == {"block.hidden"}  # it has no branch
    for one in configurations:
        words = [*one.words, *(f"{k}={v}" for k, v in one.changed.items())]
        assert terms.parameters(grid.compose_run(words, None)) == made["counts"][one.name]


def test_a_given_number_of_parameters_is_matched_by_all():
    configurations, _ = grid.expand([*WORDS, "block=residual,delta"])
    made = terms.apply(Options(terms="parameters", parameters=5000), configurations)
    assert all(one.changed for one in configurations)
    assert all(abs(count / 5000 - 1) < 0.04 for count in made["counts"].values())


def test_equal_time_gives_epochs_by_the_measured_time(monkeypatch: pytest.MonkeyPatch):
    seconds = {"residual": 1.0, "delta": 2.0, "momentum": 0.25}

    def clock(cfg: Any) -> float:
        return seconds[cfg.block._target_.rpartition(".")[2].lower()]

    monkeypatch.setattr(terms, "seconds_per_epoch", clock)
    configurations, _ = grid.expand([*WORDS, "trainer.epochs=10", "block=residual,delta,momentum"])
    made = terms.apply(Options(terms="time"), configurations)
    assert [one.changed for one in configurations] == [{}, {"trainer.epochs": 5}, {"trainer.epochs": 40}]
    assert made["budget_seconds"] == 10.0


def test_a_configuration_whose_time_cannot_be_measured_is_refused_alone(monkeypatch: pytest.MonkeyPatch):
    def clock(cfg: Any) -> float:
        if cfg.block._target_.endswith(".Delta"):
            raise ValueError("these shapes do not meet")
        return 1.0

    monkeypatch.setattr(terms, "seconds_per_epoch", clock)
    configurations, _ = grid.expand([*WORDS, "block=delta,residual"])
    made = terms.apply(Options(terms="time"), configurations)
    assert [one.refused for one in configurations] == ["its time could not be measured: these shapes do not meet", ""]
    assert list(made["seconds_per_epoch"]) == ["residual"]


def test_the_time_of_an_epoch_grows_with_its_steps():
    few, many = (grid.compose_run([*WORDS, f"trainer.batch_size={size}"], None) for size in (1024, 16))
    assert terms.seconds_per_epoch(few) > 0
    assert terms.seconds_per_epoch(many, warmup=1, repeats=2) > 0
