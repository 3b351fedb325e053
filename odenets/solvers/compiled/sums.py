"""Products of matrices apart from the sums that they end up in.

Inductor makes one operation, addmm, of a product and what is added to it. On the CPU ATen's addmm copies the summand first:
for the small layers of a vector field, that takes as long as the product. Apart, the sum fuses with what comes after it, and
the sums of a gradient over a step's stages with each other.
"""

from __future__ import annotations

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass


class SumsApart(CustomGraphPass):
    """addmm on the CPU as mm and add, after all of Inductor's own passes."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        aten = torch.ops.aten
        for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
            if node.kwargs or "val" not in node.meta or node.meta["val"].device.type != "cpu":
                continue
            summand, a, b = node.args
            with graph.inserting_before(node):
                product = graph.call_function(aten.mm.default, (a, b))
                total = graph.call_function(aten.add.Tensor, (product, summand))
            product.meta.update(node.meta)
            total.meta.update(node.meta)
            node.replace_all_uses_with(total)
            graph.erase_node(node)

    def uuid(self) -> str:
        """What stands for this pass where compiled programs are kept: another one if it changes."""
        return "odenets sums apart 1"
