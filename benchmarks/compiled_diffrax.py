"""van der Pol or Robertson by diffrax under jit: solves once for every line read. Run by compiled.py in its own environment.

python benchmarks/compiled_diffrax.py joint|per_sample|robertson STARTS.npy END INTERVALS TOLERANCE

STARTS holds initial states, of "robertson" the factors of its slow rate [batch].
"""

from __future__ import annotations

import json
import sys
import time

import diffrax  # type: ignore[import-not-found]
import jax  # type: ignore[import-not-found]
import jax.numpy as jnp  # type: ignore[import-not-found]
import numpy as np

jax.config.update("jax_enable_x64", True)


def van_der_pol(t, y, args):
    x, v = y[..., 0], y[..., 1]
    return jnp.stack([v, 10.0 * (1 - x * x) * v - x], axis=-1)


def robertson(t, y, rate):
    a, b, c = y
    first, second, third = 0.04 * rate * a, 1e4 * b * c, 3e7 * b**2
    return jnp.stack([second - first, first - second - third, third])


def solve_robertson(rate, end: float, tolerance: float):
    controller = diffrax.PIDController(rtol=tolerance, atol=1e-4 * tolerance)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(robertson), diffrax.Kvaerno5(), 0.0, end, None, jnp.array([1.0, 0, 0]), args=rate,
        stepsize_controller=controller, max_steps=100_000,
    ).ys[-1]  # fmt: skip


def main(clock: str, starts: str, end: float, intervals: int, tolerance: float) -> None:
    y0, ts = jnp.array(np.load(starts)), jnp.linspace(0, end, intervals + 1)

    def solve(y0):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(van_der_pol), diffrax.Dopri5(), 0.0, end, None, y0, saveat=diffrax.SaveAt(ts=ts),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance), max_steps=100_000,
        ).ys  # fmt: skip

    run = jax.jit(jax.vmap(solve, out_axes=1) if clock == "per_sample" else solve)
    if clock == "robertson":
        run = jax.jit(jax.vmap(lambda rate: solve_robertson(rate, end, tolerance)))
    started = time.perf_counter()
    ys = jax.block_until_ready(run(y0))
    compiled = time.perf_counter() - started
    np.save(starts + ".ys.npy", np.asarray(ys))
    versions = {"diffrax": diffrax.__version__, "jax": jax.__version__}
    print(json.dumps({"compile": compiled, "versions": versions}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        jax.block_until_ready(run(y0))
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
