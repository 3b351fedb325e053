"""Memory of training a deep stack by each gradient method, over the number of layers: `experiment=deep_lm`.

    python benchmarks/stack_memory.py [--quick] [--write]

Most bytes alive at once in forward and backward beside weights and their gradients, counted per storage: the same on
every machine. The gate: at N = 16 every method's gradient is within 1e-3 of autograd's, in float32.
--write puts the table into docs/gradients.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_module
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.marked import DOCS, about, markdown, rewrite
from benchmarks.measure import describe_run
from benchmarks.memory import PeakMemory
from odenets.configs import schema
from odenets.configs.build import instantiate, plain

DELTA = ("block=delta", "block.value_channels=4")
# row: (overrides, the largest N measured: delta by autograd keeps 1.6 GiB at 256)
ROWS: dict[str, tuple[tuple[str, ...], int]] = {
    "leapfrog, `autograd`": (("gradient=autograd",), 256),
    "leapfrog, `checkpoint`": (("gradient=checkpoint",), 256),
    "leapfrog, `recursive`": (("gradient=recursive",), 256),
    "leapfrog, `reversible`": (("gradient=reversible",), 256),
    "delta with 4 value channels, `autograd`": ((*DELTA, "gradient=autograd"), 64),
    "delta with 4 value channels, `downdate`": ((*DELTA, "gradient=downdate"), 256),
}
DEPTHS = (16, 64, 256)


def build(depth: int, *overrides: str) -> nn.Module:
    schema.register()
    torch.manual_seed(0)
    with initialize_config_module("odenets.configs", version_base="1.3"):
        config = plain(compose("train", ["experiment=deep_lm", f"model.N={depth}", *overrides]))
    return instantiate(config["task"], "task").network  # type: ignore[no-any-return]


def windows() -> Tensor:
    """8 windows of 64 bytes and the one after them."""
    return torch.randint(256, (8, 65), generator=torch.Generator().manual_seed(0))


def gradient(model: nn.Module, tokens: Tensor) -> Tensor:
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def mebibytes(depth: int, *overrides: str) -> float:
    model, tokens = build(depth, *overrides), windows()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with PeakMemory() as memory:
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return memory.peak / 2**20


def gate(depth: int = 16) -> float:
    """Largest relative difference of a method's gradient from autograd's of the same stack."""
    worst = 0.0
    for overrides, _ in ROWS.values():
        exact = gradient(build(depth, *overrides, "gradient=autograd"), windows())
        found = gradient(build(depth, *overrides), windows())
        worst = max(worst, float((found - exact).norm() / exact.norm()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="depths 4 and 16 only")
    parser.add_argument("--write", action="store_true", help="put the table into docs/gradients.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    depths = (4, 16) if arguments.quick else DEPTHS
    difference = gate(depths[0])
    if not difference < 1e-3:
        sys.exit(f"the gradients differ from autograd's by {difference:.1e}: nothing measured")
    rows = [
        [name, *(f"{mebibytes(n, *overrides):.3g} MiB" if n <= most else "not measured" for n in depths)]
        for name, (overrides, most) in ROWS.items()
    ]
    text = markdown(["block, `gradient=`", *(f"N = {n}" for n in depths)], rows)
    text = f"{text}\n\n{about(describe_run(['torch']))}"
    print(text)
    if arguments.write:
        rewrite(DOCS / "gradients.md", "stack_memory", text)


if __name__ == "__main__":
    main()
