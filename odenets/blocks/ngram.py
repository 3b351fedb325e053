"""A table of n-gram embeddings, addressed by hashing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class NgramMemory(nn.Module):
    """For every position the embeddings of the n-grams that end there, from hashed tables (arXiv:2601.07372).

    Every order n and head k has a table of its own with a prime number of rows, all different; its row is the exclusive
    or of the tokens times odd multipliers, modulo that prime. Positions before the start count as one further token.

    Args:
        dim: size of the result: len(orders) * heads embeddings side by side.
        slots: rows per table at least.
        orders: the n of the n-grams.
        heads: hashes per order.
        std: standard deviation of the initial entries; 0 gives a memory that says nothing.
        seed: of the multipliers.

    Attributes:
        dim, orders: as given.

    Raises:
        ValueError: dim does not divide into the heads, or orders empty or below 1.
    """

    primes: Tensor
    offsets: Tensor
    multipliers: Tensor

    def __init__(
        self,
        dim: int = 64,
        slots: int = 4096,
        orders: Sequence[int] = (2, 3),
        heads: int = 4,
        std: float = 0.02,
        seed: int = 0,
    ):
        super().__init__()
        tables = len(orders) * heads
        if not orders or min(orders) < 1 or heads < 1 or slots < 2:
            raise ValueError(
                f"NgramMemory expects orders >= 1, heads >= 1 and slots >= 2, got {list(orders)}, {heads} and {slots}"
            )
        if dim % tables:
            raise ValueError(f"NgramMemory expects dim a multiple of len(orders) * heads = {tables}, got {dim}")
        self.dim = dim
        self.orders = tuple(orders)
        self.heads = heads
        primes = torch.tensor(_primes(slots, tables))
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(1, 2**40, (len(orders), max(orders), heads), generator=generator)
        self.register_buffer("primes", primes.reshape(len(orders), heads))
        self.register_buffer("offsets", (primes.cumsum(0) - primes).reshape(len(orders), heads))
        self.register_buffer("multipliers", 2 * drawn + 1)
        self.table = nn.Embedding(int(primes.sum()), dim // tables)
        nn.init.normal_(self.table.weight, std=std)

    def rows(self, ids: Tensor) -> Tensor:
        """The rows looked up: ids [.., L] integers -> [.., L, len(orders), heads]."""
        length = ids.shape[-1]
        tokens = nn.functional.pad(ids.long() + 1, (max(self.orders) - 1, 0))  # 0: before the start
        found = []
        for i, n in enumerate(self.orders):
            mixed = torch.zeros((), dtype=torch.long, device=ids.device)
            for back in range(n):
                start = max(self.orders) - 1 - back
                # int64 products wrap around, alike on every device
                mixed = mixed ^ (tokens[..., start : start + length, None] * self.multipliers[i, back])
            found.append(mixed % self.primes[i] + self.offsets[i])
        return torch.stack(found, dim=-2)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [.., L] integers. Returns [.., L, dim]."""
        return self.table(self.rows(ids)).flatten(-3)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, orders={self.orders}, heads={self.heads}"


def _primes(least: int, count: int) -> list[int]:
    """The first `count` primes >= least."""
    found: list[int] = []
    candidate = max(2, least)
    while len(found) < count:
        if all(candidate % d for d in range(2, int(candidate**0.5) + 1)):
            found.append(candidate)
        candidate += 1
    return found
