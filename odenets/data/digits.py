"""Handwritten digits, 8x8 pixels, bundled with scikit-learn.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(its test part: 1797 images, 43 writers in the whole set). The split is stratified and seeded; it does not separate
writers, which the bundled file does not name.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odenets.errors import UserError


@dataclass(frozen=True)
class LabelledImages:
    """Train and held-out images [n, 1, 8, 8] (float32, zero mean and unit variance over the training set) and labels
    [n] (int64, 0 to 9)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def to(self, device: torch.device) -> "LabelledImages":
        """The same images on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Digits:
    """The digits with a fraction `held_out` (0 < held_out < 1) kept for the test, the same for the same `seed`."""

    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"data.held_out: expected a fraction between 0 and 1, got {self.held_out}")

    def load(self) -> LabelledImages:
        """Read, split and scale; nothing is downloaded."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(images, labels, test_size=self.held_out, random_state=self.seed, stratify=labels)
        train_x, test_x = (torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) for part in parts[:2])
        train_y, test_y = (torch.tensor(part, dtype=torch.int64) for part in parts[2:])
        mean, scale = train_x.mean(), train_x.std()
        return LabelledImages((train_x - mean) / scale, train_y, (test_x - mean) / scale, test_y)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image [n, c, h, w] by up to `pixels` in each direction, filling with its own darkest value.

    Draws from torch's global random state on the CPU, so that a resumed run repeats the same shifts.
    """
    if pixels == 0:
        return images
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pixels,) * 4, value=float(images.min()))
    offset = torch.randint(0, 2 * pixels + 1, (2, n)).to(images.device)
    rows = offset[0, :, None] + torch.arange(height, device=images.device)  # [n, h]
    columns = offset[1, :, None] + torch.arange(width, device=images.device)  # [n, w]
    sample = torch.arange(n, device=images.device)[:, None, None]
    # advanced indices around a slice put the sliced axis last: [n, h, w, c]
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
