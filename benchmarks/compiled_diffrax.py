"""van der Pol, Robertson or the gradient of a network's flow by diffrax under jit: solves once for every line read. Run by
compiled.py in its own environment.

python benchmarks/compiled_diffrax.py joint|per_sample|robertson|gradient STARTS.npy END INTERVALS TOLERANCE

STARTS holds initial states, of "robertson" the factors of its slow rate [batch], of "gradient" the weights of the network
8 -> 32 -> 8 and then its states [64, 8], one after the other.
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


def gradient_of_network(numbers, end: float, tolerance: float):
    """Of the mean square at the end, by diffrax's default, RecursiveCheckpointAdjoint; in single precision."""
    shapes = [(32, 8), (32,), (8, 32), (8,), (64, 8)]
    places = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    *weights, y0 = [x.reshape(shape) for x, shape in zip(jnp.split(numbers, places), shapes)]

    def network(t, y, weights):
        w1, b1, w2, b2 = weights
        return jnp.tanh(y @ w1.T + b1) @ w2.T + b2

    def loss(weights):
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(network), diffrax.Dopri5(), 0.0, end, None, y0, weights,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        )  # fmt: skip
        return jnp.mean(found.ys[-1] ** 2)

    return jnp.concatenate([g.reshape(-1) for g in jax.grad(loss)(weights)])


def main(clock: str, starts: str, end: float, intervals: int, tolerance: float) -> None:
    if clock == "gradient":
        jax.config.update("jax_enable_x64", False)
    y0, ts = jnp.array(np.load(starts)), jnp.linspace(0, end, intervals + 1)

    def solve(y0):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(van_der_pol), diffrax.Dopri5(), 0.0, end, None, y0, saveat=diffrax.SaveAt(ts=ts),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance), max_steps=100_000,
        ).ys  # fmt: skip

    run = jax.jit(jax.vmap(solve, out_axes=1) if clock == "per_sample" else solve)
    if clock == "robertson":
        run = jax.jit(jax.vmap(lambda rate: solve_robertson(rate, end, tolerance)))
    if clock == "gradient":
        run = jax.jit(lambda numbers: gradient_of_network(numbers, end, tolerance))
    started = time.perf_counter()
    ys = jax.block_until_ready(run(y0))
    compiled = time.perf_counter() - started
    np.save(starts + ".ys.npy", np.asarray(ys))
    versions = {"diffrax": diffrax.__version__, "jax": jax.__version__}
    print(json.dumps({"compile": compiled, "versions": versions}), flush=True)
    for _ in sys.stdin:  # a turn, as in compiled.py
        calls, started = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - started < 0.02:
            jax.block_until_ready(run(y0))
            calls += 1
        print(json.dumps({"seconds": (time.perf_counter() - started) / calls}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
