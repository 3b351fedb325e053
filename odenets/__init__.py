"""odenets: a network block is one step of a numerical scheme on a flow, and depth is integration time."""

__version__ = "0.1.0"
