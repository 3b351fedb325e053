"""The image classifier: shapes, errors, and that it learns real handwritten digits."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from odenets.blocks import Residual
from odenets.fields import Conv
from odenets.fields.conv import group_norm
from odenets.models import FlowStack, ImageClassifier


def residual_flow(channels: int, N: int) -> FlowStack:
    def block() -> Residual:
        return Residual(Conv(channels, activation="relu", norm="group", out_scale=0.1), group_norm(channels))

    return FlowStack(block, T=1.0, N=N)


def test_every_sample_is_classified_by_itself():
    torch.manual_seed(0)
    model = ImageClassifier(residual_flow(16, 2), in_channels=3, channels=16, classes=7, stride=2)
    images = torch.randn(4, 3, 12, 10)
    together = model(images)
    assert together.shape == (4, 7)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flow", "images", "message"),
    [
        (torch.nn.Identity(), torch.zeros(2, 8, 8), r"images \[B, 1, H, W\], got \[2, 8, 8\]"),
        (torch.nn.Conv2d(8, 4, 1), torch.zeros(2, 1, 8, 8), r"keeps the shape, got \[2, 8, 8, 8\] -> \[2, 4, 8, 8\]"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(flow, images, message):
    with pytest.raises(ValueError, match=message):
        ImageClassifier(flow, channels=8)(images)


def test_reaches_98_percent_on_held_out_handwritten_digits():
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=digits.target)
    model = ImageClassifier(residual_flow(32, 4), channels=32, pool=4)
    epochs, batch = 8, 64
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = epochs * -(-len(train) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        for chosen in torch.tensor(train)[torch.randperm(len(train))].split(batch):
            loss = torch.nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
    assert accuracy >= 0.98
