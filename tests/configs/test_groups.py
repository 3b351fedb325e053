"""Every option of every group composes and names a target that takes exactly those keys."""

from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from odenets.configs import schema
from odenets.configs.build import check_targets, instantiate, plain, resolve
from odenets.configs.catalog import ROOT, describe, groups

OPTIONS = [(group, option) for group, options in groups().items() for option in options]


@pytest.fixture(autouse=True)
def hydra_ready() -> Iterator[None]:
    schema.register()
    with initialize_config_module("odenets.configs", version_base="1.3"):
        yield


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_composes_and_agrees_with_its_target(group: str, option: str):
    base = [] if group == "experiment" else ["experiment=lynx_hare" if group == "task" else "experiment=digits"]
    cfg = compose("train", [*base, f"{group}={option}"])
    schema.refuse_extras(cfg)
    schema.check_values(cfg)
    check_targets(plain(cfg))


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g, o in OPTIONS if g in ("field", "solver", "gradient", "data")]
)
def test_option_builds(group: str, option: str):
    node = plain(compose("train", ["experiment=digits", f"{group}={option}"]))[group]
    built = instantiate(node, group)
    assert isinstance(built, resolve(node["_target_"], group))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_has_a_description_that_fits_the_list(group: str, option: str):
    text = describe(ROOT / group / f"{option}.yaml")
    assert 10 <= len(text) <= 56


@pytest.mark.parametrize("name", ["trainer", "run"])
def test_default_file_states_every_key_of_the_schema(name: str):
    stated = OmegaConf.load(ROOT / name / "default.yaml")
    assert set(stated) == set(OmegaConf.structured(schema.TYPED[name]))


def test_one_key_swaps_each_choice():
    cfg = compose("train", ["experiment=digits", "model=neural_ode", "solver=dopri5", "gradient=adjoint"])
    model = plain(cfg)["task"]["network"]["flow"]
    assert model["_target_"] == "odenets.models.NeuralODE"
    assert model["solver"]["method"] == "dopri5"
    assert model["gradient"]["_target_"] == "odenets.solvers.gradients.Adjoint"
    assert model["field"]["_target_"] == "odenets.fields.Conv"
