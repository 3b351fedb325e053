"""The Lorenz ensemble by a loop that numba compiles, one JSON line; run by ensemble.py in its own environment.

The method and the control of the steps are those of `solve`, written out by hand for this one system.

python benchmarks/ensemble_numba.py COUNT ROUNDS TOLERANCE END < tableau.json      {"a": .., "c": .., "e": ..}
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time

import numba  # type: ignore[import-not-found]
import numpy as np


@numba.njit
def lorenz(x, v, z, rho, k, s):
    k[s, 0] = 10.0 * (v - x)
    k[s, 1] = x * (rho - z) - v
    k[s, 2] = x * v - 8 / 3 * z


@numba.njit
def one(rho, end, tolerance, a, e, out):
    """From (1, 1, 1) at 0 to `end`; returns the trial steps."""
    k, y = np.empty((7, 3)), np.ones(3)
    new = np.empty(3)
    t, size, previous, trials = 0.0, 1e-3, 1.0, 0
    lorenz(y[0], y[1], y[2], rho, k, 0)
    while t < end:
        arrives = size >= end - t
        h = end - t if arrives else size
        for s in range(1, 7):
            for i in range(3):
                total = 0.0
                for j in range(s):
                    total += a[s, j] * k[j, i]
                new[i] = y[i] + h * total
            lorenz(new[0], new[1], new[2], rho, k, s)
        square = 0.0
        for i in range(3):
            error = 0.0
            for s in range(7):
                error += e[s] * k[s, i]
            error *= h / (tolerance + tolerance * max(abs(y[i]), abs(new[i])))
            square += error * error
        ratio = math.sqrt(square / 3)
        trials += 1
        floor = max(ratio, 1e-10)
        if ratio <= 1:
            factor = 0.9 * floor ** (-0.14) * previous**0.08
            previous = floor
            t = end if arrives else t + h
            for i in range(3):
                y[i] = new[i]
                k[0, i] = k[6, i]
        else:
            factor = 0.9 * floor ** (-0.2)
        size = h * min(max(factor, 0.2), 10.0)
    out[:] = y
    return trials


@numba.njit
def many(rhos, end, tolerance, a, e, out):
    trials = 0
    for n in range(len(rhos)):
        trials += one(rhos[n], end, tolerance, a, e, out[n])
    return trials


def main(count: int, rounds: int, tolerance: float, end: float) -> None:
    tableau = json.load(sys.stdin)
    a, e = np.zeros((7, 7)), np.array(tableau["e"])
    for s, row in enumerate(tableau["a"]):
        a[s, : len(row)] = row
    rhos, out = np.linspace(0.0, 28.0, count), np.empty((count, 3))
    wall = time.perf_counter()
    many(rhos[:1], end, tolerance, a, e, out)
    compiling, times = time.perf_counter() - wall, []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        trials = many(rhos, end, tolerance, a, e, out)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    answer = {
        "wall": statistics.median(t[0] for t in times), "cpu": statistics.median(t[1] for t in times), "compile": compiling,
        "steps": trials, "ys": out.tolist(), "versions": {"numba": numba.__version__},
    }  # fmt: skip
    print(json.dumps(answer))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *(float(x) for x in sys.argv[3:5]))
