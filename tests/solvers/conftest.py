"""Shared by the tests of ensembles and of compiled solves, which have a compiler's cache of their own for the whole run."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo

from odenets.solvers import InputError
from odenets.solvers.compiled import capture, lanes
from odenets.solvers.ensemble import build
from odenets.solvers.implicit.newton import NewtonSolver


@pytest.fixture(scope="session")
def ensemble_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def compiled(ensemble_cache, monkeypatch):
    """Ensembles compile into the run's own cache; skips without a compiler."""
    try:
        build.compiler()
    except InputError:
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(ensemble_cache))


@pytest.fixture
def traced(monkeypatch):
    """Compiled solves as programs of tensors, run operator by operator: without minutes in the C++ compiler."""
    capture.clear()
    torch._dynamo.reset()  # it remembers which sizes have varied
    monkeypatch.setattr(capture, "BACKEND", "eager")
    monkeypatch.setattr(lanes, "LARGEST", 0)
    yield
    capture.clear()


@pytest.fixture
def fresh_jacobians(monkeypatch):
    """The eager iteration forms its Jacobian at every trial step too, not only where it converges slowly."""
    begin = NewtonSolver.begin

    def begin_afresh(self, t, y, h):
        self.jacobian = self.factored_h = None
        begin(self, t, y, h)

    monkeypatch.setattr(NewtonSolver, "begin", begin_afresh)
