"""The Hudson Bay counts."""

import torch

from odenets.data import LynxHare


def test_counts_are_the_published_ones():
    data = LynxHare().load()
    assert data.values.shape == (21, 2)
    assert data.names == ("hare", "lynx")
    hare, lynx = data.values.T
    # peaks and troughs of the published table, and its column sums
    assert int(hare.argmax()) + 1900 == 1903
    assert int(lynx.argmax()) + 1900 == 1904
    torch.testing.assert_close(hare.sum(), torch.tensor(715.7))
    torch.testing.assert_close(lynx.sum(), torch.tensor(423.5))
    assert torch.equal(data.times, torch.arange(21.0))
    assert data.origin == 1900
