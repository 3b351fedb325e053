"""Byte corpora: order, split, limits and what is refused."""

import sysconfig
from pathlib import Path

import pytest
import torch

from odenets.data import Bytes
from odenets.data.bytes import windows
from odenets.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of 40, 30, 20 and 10 bytes in the order of their paths, and one that is hidden."""
    for name, size in (("b/one.txt", 30), ("a.txt", 40), ("b/two.txt", 20), ("c.md", 10), (".hidden", 99)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(path.stem[0].encode() * size)
    return tmp_path


def test_the_standard_library_is_read_in_order_and_the_same_each_time():
    data, again = (Bytes(max_bytes=300_000).load() for _ in range(2))
    assert torch.equal(data.train, again.train)
    assert torch.equal(data.val, again.val)
    assert data.train.dtype == torch.uint8
    assert len(data.train) + len(data.val) == 300_000
    first = Path(sysconfig.get_path("stdlib"), "__future__.py").read_bytes()
    assert bytes(data.train[: len(first)].tolist()) == first


def test_whole_files_from_the_end_are_held_out(folder: Path):
    data = Bytes(str(folder), held_out=0.25).load()
    assert data.files == 4
    assert bytes(data.train.tolist()) == b"a" * 40 + b"o" * 30
    assert bytes(data.val.tolist()) == b"t" * 20 + b"c" * 10


def test_a_single_file_is_cut_by_bytes_and_the_size_is_capped(folder: Path):
    data = Bytes(str(folder / "a.txt"), held_out=0.25).load()
    assert (len(data.train), len(data.val)) == (30, 10)
    capped = Bytes(str(folder), held_out=0.25, max_bytes=60).load()
    assert (len(capped.train), len(capped.val), capped.files) == (40, 20, 2)


def test_windows_are_slices():
    data = torch.arange(20, dtype=torch.uint8)
    assert windows(data, torch.tensor([0, 7]), 3).tolist() == [[0, 1, 2], [7, 8, 9]]
    assert windows(data, torch.tensor([17]), 3).dtype == torch.int64


def test_what_cannot_be_read_is_refused_with_the_path(tmp_path: Path):
    with pytest.raises(UserError, match=r"nothing: no such file or folder"):
        Bytes(str(tmp_path / "nothing")).load()
    with pytest.raises(UserError, match="expected text, found 0 bytes in 0 files"):
        Bytes(str(tmp_path)).load()
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UserError, match="found 0 bytes"):
        Bytes(str(tmp_path / "empty")).load()


@pytest.mark.parametrize(("key", "value"), [("held_out", 0.0), ("held_out", 1.0), ("max_bytes", 1)])
def test_limits_are_checked(key: str, value: float):
    with pytest.raises(UserError, match=f"data.{key}"):
        Bytes(**{key: value})
