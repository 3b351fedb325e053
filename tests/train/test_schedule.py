"""Learning-rate factors at the places that matter."""

import pytest

from odenets.train.schedule import factor


def test_cosine_warms_up_linearly_and_ends_at_zero():
    lr = factor("cosine", total=100, warmup=0.1)
    assert [round(lr(step), 6) for step in (0, 4, 10)] == [round(1 / 11, 6), round(5 / 11, 6), 1.0]
    assert lr(55) == pytest.approx(0.5)
    assert lr(100) == pytest.approx(0.0)
    assert all(lr(step) > lr(step + 1) for step in range(10, 99))


def test_one_cycle_rises_then_falls():
    lr = factor("one_cycle", total=100, warmup=0.25)
    assert lr(0) == pytest.approx(1 / 25)
    assert lr(25) == pytest.approx(1.0)
    assert lr(100) == pytest.approx(1e-4)


def test_constant_and_unknown():
    assert factor("constant", 10, 0.5)(9) == 1.0
    with pytest.raises(ValueError, match="one_cycle"):
        factor("triangle", 10, 0.1)
