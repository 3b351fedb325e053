"""Ensembles: many trajectories of a small system, each with its own time, step size and parameters, in one program.

Read in this order: `scalars` (expressions), `derivative`, `aten` and `trace` (from a field in PyTorch to scalars),
`stages` and `fragments` (a solve's parts as scalars), `printer`, `cpp`, `build` and `run_cpu` (C++ on the CPU), and
`solve`, which puts them together.
"""

from .solve import solve_ensemble

__all__ = ["solve_ensemble"]
