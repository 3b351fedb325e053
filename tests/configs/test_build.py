"""Configuration into objects: factories that share nothing, and targets that are refused."""

import pytest
import torch
from torch import nn

from odenets.configs.build import check_targets, instantiate, resolve
from odenets.errors import UserError

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}


def test_children_are_built_first():
    built = instantiate({"_target_": "torch.nn.ReLU"}, "x")
    assert isinstance(built, nn.ReLU)
    branch = {"_target_": "odenets.fields.MLP", "dim": 2}
    block = instantiate({"_target_": "odenets.blocks.Residual", "branch": branch}, "block")
    assert block.branch.dim == 2


def test_a_partial_node_builds_afresh_on_every_call():
    node = {
        "_target_": "odenets.blocks.Residual",
        "_partial_": True,
        "branch": {"_target_": "odenets.fields.MLP", "dim": 2},
    }
    factory = instantiate(node, "block")
    first, second = factory(), factory()
    assert first.branch is not second.branch
    assert not torch.equal(first.branch.out.weight, second.branch.out.weight)


def test_extra_arguments_reach_a_partial_node():
    parameters = [nn.Parameter(torch.ones(2))]
    factory = instantiate({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}, "optimizer")
    assert factory(params=parameters).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "odenets.cli.os.system", "odenets.data.digits.replace", "odenetsx.y", 3]
)
def test_foreign_targets_are_refused_even_through_our_modules(target: object):
    with pytest.raises(UserError, match="_target_"):
        resolve(target, "data")


def test_a_foreign_package_can_be_allowed():
    assert resolve("fractions.Fraction", "data", ["fractions"]).__name__ == "Fraction"
    with pytest.raises(UserError, match="cannot load 'odenets.nothing.Here'"):
        resolve("odenets.nothing.Here", "data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out_featurez": 3}, "x.out_featurez: no such key of torch.nn.Linear; did you mean 'out_features'"),
        ({"in_features": "two"}, "x.in_features: expected int, got 'two'"),
        ({"in_features": True}, "x.in_features: expected int, got True"),
        ({"bias": 1}, "x.bias: expected bool, got 1"),
    ],
)
def test_arguments_are_checked_against_the_signature(change: dict[str, object], message: str):
    check_targets({"x": LINEAR})
    with pytest.raises(UserError) as error:
        check_targets({"x": LINEAR | change})
    assert message in str(error.value)


def test_missing_arguments_are_named():
    with pytest.raises(UserError, match="x: torch.nn.Linear needs out_features"):
        check_targets({"x": {"_target_": "torch.nn.Linear", "in_features": 2}})


def test_a_refusal_by_the_target_names_the_place():
    with pytest.raises(UserError, match="field: odenets.fields.MLP refused .*depth"):
        instantiate({"_target_": "odenets.fields.MLP", "dim": 2, "depth": -1}, "field")
