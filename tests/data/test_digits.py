"""The digits: split, scaling and shifts."""

import pytest
import torch

from odenets.data import Digits
from odenets.data.digits import random_shift
from odenets.errors import UserError


def test_split_is_stratified_seeded_and_disjoint():
    data = Digits(held_out=0.2, seed=0).load()
    assert data.train_x.shape == (1437, 1, 8, 8)
    assert data.test_x.shape == (360, 1, 8, 8)
    counts = torch.bincount(data.test_y, minlength=10)
    assert counts.min() >= 35
    assert counts.max() <= 37
    again, other = Digits(seed=0).load(), Digits(seed=1).load()
    assert torch.equal(data.test_x, again.test_x)
    assert not torch.equal(data.test_y, other.test_y)
    train = {tuple(image.flatten().tolist()) for image in data.train_x}
    assert all(tuple(image.flatten().tolist()) not in train for image in data.test_x)


def test_scaling_uses_the_training_images_only():
    data = Digits().load()
    torch.testing.assert_close(data.train_x.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train_x.std(), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert abs(float(data.test_x.mean())) > 1e-6


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_the_held_out_part_is_a_fraction(fraction: float):
    with pytest.raises(UserError, match="held_out"):
        Digits(held_out=fraction)


def test_a_shift_moves_whole_images_and_fills_with_the_background():
    torch.manual_seed(0)
    images = torch.zeros(200, 2, 8, 8)
    images[:, 0, 3, 4] = 1.0
    images[:, 1, 3, 4] = 2.0
    moved = random_shift(images, 1)
    assert moved.shape == images.shape
    rows, columns = moved[:, 0].nonzero()[:, 1], moved[:, 0].nonzero()[:, 2]
    assert rows.unique().tolist() == [2, 3, 4]
    assert columns.unique().tolist() == [3, 4, 5]
    assert torch.equal(moved[:, 1], 2 * moved[:, 0])  # all channels of an image move alike
    assert float(moved.sum()) == 600.0
    assert random_shift(images, 0) is images
