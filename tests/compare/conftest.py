"""A comparison that takes seconds."""

import pytest

TINY_GRID = (
    "experiment=digits", "task.network.channels=8", "model.N=1", "trainer.epochs=2", "trainer.batch_size=256",
    "trainer.threads=1", "run.plots=false", "run.tensorboard=false",
)  # fmt: skip


@pytest.fixture
def tiny_grid() -> tuple[str, ...]:
    return TINY_GRID
