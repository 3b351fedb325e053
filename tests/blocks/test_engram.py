"""The n-gram memory against dictionaries and loops, and its impulses in time."""

import pytest
import torch
from torch import Tensor, nn

from odenets.blocks import Engram, Momentum, NgramMemory, Residual
from odenets.fields import MLP
from odenets.models import FlowStack
from tests.blocks.cases import DIM, assert_same, made, memory

L = 7


def engram(times=None) -> Engram:
    return Engram(Residual(MLP(DIM, 12, depth=1, time="concat")), memory(), DIM, times=times)


def inputs() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2, L, DIM, dtype=torch.float64, generator=g).requires_grad_()
    return x, torch.randint(0, 9, (2, L), generator=g)


def test_a_row_is_a_function_of_the_last_n_tokens():
    table = NgramMemory(24, slots=4000, orders=(1, 2, 3), heads=2)
    ids = torch.randint(0, 4, (8, 40))
    rows = table.rows(ids)
    assert rows.shape == (8, 40, 3, 2)
    for i, n in enumerate((1, 2, 3)):
        for head in range(2):
            seen: dict[tuple[int, ...], int] = {}
            for b in range(8):
                for position in range(40):
                    back = range(position, position - n, -1)
                    gram = tuple(int(ids[b, j]) if j >= 0 else -1 for j in back)
                    row = int(rows[b, position, i, head])
                    assert seen.setdefault(gram, row) == row
            assert len(set(seen.values())) >= 0.9 * len(seen)  # few collisions in a table this large


def test_tables_do_not_overlap_and_have_prime_sizes():
    table = NgramMemory(8, slots=10, orders=(2, 3), heads=2)
    assert table.primes.flatten().tolist() == [11, 13, 17, 19]
    assert table.table.num_embeddings == 60
    rows = table.rows(torch.randint(0, 10**6, (5, 500)))
    for head, (first, size) in enumerate(zip([0, 11, 24, 41], [11, 13, 17, 19])):
        found = rows.flatten(2)[..., head].unique()
        assert found.tolist() == list(range(first, first + size))


def engram_by_hand(block: Engram, x: Tensor, ids: Tensor) -> Tensor:
    """u, one position at a time."""

    def normed(v: Tensor, weight: Tensor) -> Tensor:
        return v / (v.square().mean() + 1e-6).sqrt() * weight

    rows = block.memory.rows(ids)
    out = []
    for b in range(x.shape[0]):
        gated: list[Tensor] = []
        for i in range(x.shape[1]):
            e = torch.cat([block.memory.table.weight[row] for row in rows[b, i].flatten().tolist()])
            k = normed(block.key.weight @ e, block.norm_key.weight)
            alpha = torch.sigmoid((normed(x[b, i], block.norm_state.weight) * k).sum() / DIM**0.5)
            gated.append(alpha * (block.value.weight @ e))
        for i in range(x.shape[1]):
            z = torch.zeros(DIM, dtype=x.dtype)
            for tap in range(4):  # the last tap is the position itself; the longest n-gram has 3 tokens
                source = i - 3 * (3 - tap)
                if source >= 0:
                    z = z + block.conv.weight[:, 0, tap] * normed(gated[source], block.norm_value.weight)
            out.append(gated[i] + z * torch.sigmoid(z))
    return torch.stack(out).reshape(x.shape)


def test_an_impulse_is_the_papers_equation_and_does_not_depend_on_h():
    torch.manual_seed(0)
    block = made(engram)()
    x, ids = inputs()
    u = engram_by_hand(block, x, ids)
    for h in (1.0, 0.3):
        expected = x + u + h * block.block.branch(0.2, x + u)
        assert_same(block(0.2, x, h, ids), expected, [x, *block.parameters()])


def test_a_zero_table_leaves_the_inner_block():
    torch.manual_seed(0)
    block = engram().double()
    nn.init.zeros_(block.memory.table.weight)
    x, ids = inputs()
    assert_same(block(0.2, x, 0.5, ids), block.block(0.2, x, 0.5), [x, *block.block.parameters()])


@pytest.mark.parametrize(("n", "T"), [(1, 1.0), (3, 1.0), (4, 1.0), (10, 1.0), (11, 1.1), (50, 1.0)])
def test_each_impulse_fires_once_however_fine_the_steps(n: int, T: float):
    torch.manual_seed(0)
    times = (0.0, 0.3, 0.55)
    block = Engram(Residual(MLP(DIM, out_scale=0.0)), memory(), DIM, times=times).double()
    x, ids = inputs()
    stack = FlowStack(lambda: block, T=T, N=n, tied=True)
    expected = x
    with torch.no_grad():
        for _ in times:
            expected = expected + block.impulse(expected, ids)
        actual = stack(x, {"ids": ids})
    if n >= 4:  # each in a step of its own
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(stack.float()(x.float(), {"ids": ids}).double(), expected, rtol=1e-4, atol=1e-4)
    if n == 1:  # all at once, at the step's start
        torch.testing.assert_close(actual, x + 3 * block.impulse(x, ids), rtol=1e-12, atol=1e-12)


def test_impulse_times_survive_a_change_of_the_weights_precision():
    torch.manual_seed(0)
    block = engram(times=(0.3,)).bfloat16()
    x, ids = inputs()
    x = x.detach().bfloat16()
    for t, fires in ((torch.tensor(0.299), True), (torch.tensor(0.3005), False), (0.299, True), (0.3005, False)):
        kicked = not torch.equal(block(t, x, 0.01, ids), block.block(t, x, 0.01))
        assert kicked is fires


def test_impulses_fall_on_their_times():
    torch.manual_seed(0)
    block = engram(times=(0.5,)).double()
    x, ids = inputs()
    states = FlowStack(lambda: block, T=1.0, N=4, tied=True).trajectory(x, {"ids": ids})
    for n in range(4):
        before = states[n] + (block.impulse(states[n], ids) if n == 2 else 0)
        torch.testing.assert_close(states[n + 1], block.block(n / 4, before, 0.25), rtol=1e-12, atol=1e-12)


def test_a_shared_memory_is_counted_once():
    shared = memory()
    stack = FlowStack(lambda: Engram(Residual(MLP(DIM)), shared, DIM), N=3)
    assert sum(p is shared.table.weight for p in stack.parameters()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, ids: engram()(0.0, x, 1.0), r"context=\{'ids': ids\}"),
        (lambda x, ids: engram()(0.0, x, 1.0, ids[:, 1:]), r"expects ids \[2, 7\]"),
        (lambda x, ids: FlowStack(engram)(x), r"Engram needs \['ids'\]"),
        (lambda x, ids: FlowStack(engram)(x, {"id": ids}), r"Engram needs \['ids'\]"),
        (lambda x, ids: FlowStack(lambda: Engram(Momentum(MLP(DIM)), memory(), DIM))(x, {"ids": ids}), "is a tensor"),
        (lambda x, ids: NgramMemory(10, heads=4), "multiple of"),
        (lambda x, ids: NgramMemory(8, orders=()), "orders >= 1"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call(*inputs())
