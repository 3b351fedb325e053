"""A batch of Robertson systems by diffrax's Kvaerno5 under vmap and jit, one JSON line; run by stiff.py in its own
environment.

python benchmarks/stiff_batch_diffrax.py SYSTEMS END RTOL ATOL ROUNDS
"""

from __future__ import annotations

import json
import sys
import time

import diffrax  # type: ignore[import-not-found]
import jax  # type: ignore[import-not-found]
import jax.numpy as jnp  # type: ignore[import-not-found]

jax.config.update("jax_enable_x64", True)


def main(systems: int, end: float, rtol: float, atol: float, rounds: int) -> None:
    def robertson(t, y, rate):
        a, b, c = y
        first, second, third = 0.04 * rate * a, 1e4 * b * c, 3e7 * b**2
        return jnp.stack([second - first, first - second - third, third])

    def one(rate):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(robertson), diffrax.Kvaerno5(), 0.0, end, None, jnp.array([1.0, 0, 0]), args=rate,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol), max_steps=100_000,
        )  # fmt: skip
        return solution.ys[-1], solution.stats["num_accepted_steps"], solution.stats["num_rejected_steps"]

    batch, rates = jax.jit(jax.vmap(one)), jnp.logspace(-1, 1, systems)
    times = []
    for _ in range(rounds + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        ys, accepted, rejected = jax.block_until_ready(batch(rates))
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    answer = {
        "compile_and_first": times[0], "times": times[1:], "accepted": accepted.tolist(), "rejected": rejected.tolist(),
        "ys": ys.tolist(), "versions": {"diffrax": diffrax.__version__, "jax": jax.__version__},
    }  # fmt: skip
    print(json.dumps(answer))


if __name__ == "__main__":
    main(int(sys.argv[1]), *(float(x) for x in sys.argv[2:5]), rounds=int(sys.argv[5]))
