"""The package as it is built, installed and imported."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKS = {"solvers": "odenets/solvers", "kernels": "odenets/kernels", "configs": "odenets/configs"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist), built from a copy of what git tracks, the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def package_files(names) -> set[str]:
    return {name for name in names if name.startswith("odenets/") and not name.endswith("/")}


@pytest.mark.parametrize("name", LINKS)
def test_top_level_folders_are_relative_links_into_the_package(name):
    assert (ROOT / name).is_symlink()
    assert (ROOT / name).readlink() == Path(LINKS[name])


@pytest.mark.parametrize("name", LINKS)
def test_importing_a_link_names_the_right_module(name):
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert last.startswith("ImportError")
    assert f"odenets.{name}" in last


def test_wheel_and_sdist_hold_the_same_package_and_nothing_beside_it(built):
    wheel, sdist = built
    in_wheel = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        in_sdist = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    assert package_files(in_wheel) == package_files(in_sdist)
    assert {name.split("/")[0] for name in in_wheel} <= {"odenets"} | {
        n.split("/")[0] for n in in_wheel if "dist-info" in n
    }
    assert not {name.split("/")[0] for name in in_sdist} & set(LINKS)
    for file in ("solvers/solve.py", "kernels/__init__.py", "kernels/delta/README.md", "configs/train.yaml"):
        assert f"odenets/{file}" in in_wheel
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "odenets").rglob("*.py")}
    assert sources <= package_files(in_wheel)


def test_installed_wheel_imports_and_composes_a_config(built, tmp_path):
    """In a venv that holds the wheel alone (its dependencies come from the running environment)."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv/bin/python"
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    import torch

    dependencies = Path(torch.__file__).parent.parent
    zipfile.ZipFile(built[0]).extractall(site)
    # after the wheel's own folder, so that an editable install of this checkout is not what gets imported
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    script = (
        "import odenets, torch\n"
        f"assert odenets.__file__.startswith({str(site)!r}), odenets.__file__\n"
        "ys = odenets.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]))\n"
        "assert abs(float(ys[-1]) - 0.36788) < 1e-4\n"
    )
    subprocess.run([str(python), "-I", "-c", script], check=True, cwd=tmp_path, capture_output=True, text=True)
    listed = subprocess.run([str(python), "-I", "-m", "odenets", "list"], cwd=tmp_path, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert "digits" in listed.stdout
    wrong = subprocess.run(
        [str(python), "-I", "-m", "odenets", "train", "experiment=digitz"], cwd=tmp_path, capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert "digits" in wrong.stderr
