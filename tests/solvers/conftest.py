"""Shared by the tests of ensembles and of compiled solves: a compiler and a cache of their own, one for the whole run."""

from __future__ import annotations

import pytest

from odenets.solvers import InputError
from odenets.solvers.compiled import capture, lanes
from odenets.solvers.ensemble import build


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
    monkeypatch.setattr(capture, "BACKEND", "eager")
    monkeypatch.setattr(lanes, "LARGEST", 0)
    yield
    capture.clear()
