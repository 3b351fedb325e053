"""The Lorenz ensemble by diffrax's Tsit5 under vmap and jit, one JSON line; run by ensemble.py in its own environment.

python benchmarks/ensemble_diffrax.py COUNT CHUNK ROUNDS TOLERANCE END      CHUNK trajectories at a time, 0: all in one
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import diffrax  # type: ignore[import-not-found]
import jax  # type: ignore[import-not-found]
import jax.numpy as jnp  # type: ignore[import-not-found]

jax.config.update("jax_enable_x64", True)


def main(count: int, chunk: int, rounds: int, tolerance: float, end: float) -> None:
    def lorenz(t, y, rho):
        x, v, z = y
        return jnp.stack([10.0 * (v - x), x * (rho - z) - v, x * v - 8 / 3 * z])

    def one(rho):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lorenz), diffrax.Tsit5(), 0.0, end, None, jnp.ones(3), args=rho, max_steps=100_000,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        )  # fmt: skip
        return solution.ys[-1], solution.stats["num_steps"]

    rhos = jnp.linspace(0.0, 28.0, count)
    if chunk:
        batch = jax.jit(lambda r: jax.tree.map(jnp.concatenate, jax.lax.map(jax.vmap(one), r.reshape(-1, chunk))))
    else:
        batch = jax.jit(jax.vmap(one))
    wall = time.perf_counter()
    program = batch.lower(rhos).compile()
    compiling = time.perf_counter() - wall
    times = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        ys, steps = jax.block_until_ready(program(rhos))
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    answer = {
        "wall": statistics.median(t[0] for t in times), "cpu": statistics.median(t[1] for t in times), "compile": compiling,
        "steps": int(steps.sum()), "ys": ys.tolist(), "versions": {"diffrax": diffrax.__version__, "jax": jax.__version__},
    }  # fmt: skip
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*(int(x) for x in sys.argv[1:4]), *(float(x) for x in sys.argv[4:6]))
