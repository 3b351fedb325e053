"""Which tile sizes are taken: by an injected clock, without a GPU."""

import json
from pathlib import Path

import pytest
import torch

from odenets.kernels import tuning
from odenets.kernels.tuning import Tuner, run, tuned

CANDIDATES = [{"BLOCK": 64}, {"BLOCK": 128}, {"BLOCK": 256}]


class Clock:
    """Says how long a launch takes by its block size, and counts."""

    def __init__(self, milliseconds: dict[int, float]) -> None:
        self.milliseconds, self.calls = milliseconds, 0
        self.launched: list[int] = []

    def launch(self, tiles: dict[str, int]) -> None:
        if self.milliseconds[tiles["BLOCK"]] < 0:
            raise RuntimeError("out of resources: shared memory")
        self.launched.append(tiles["BLOCK"])

    def __call__(self, call) -> float:
        self.calls += 1
        call()
        return self.milliseconds[self.launched[-1]]


def test_the_fastest_is_taken_timed_once_per_key():
    clock = Clock({64: 3.0, 128: 1.0, 256: 2.0})
    tuner = Tuner("gpu", None, clock)
    assert [tuner.select("expand 4 2560", CANDIDATES, clock.launch)["BLOCK"] for _ in range(3)] == [128] * 3
    assert clock.calls == 3
    clock.milliseconds[256] = 0.5
    assert tuner.select("expand 4 7168", CANDIDATES, clock.launch) == {"BLOCK": 256}
    assert tuner.select("expand 4 2560", CANDIDATES, clock.launch) == {"BLOCK": 128}


def test_candidates_that_do_not_run_are_left_out_and_none_running_is_the_first():
    clock = Clock({64: 3.0, 128: -1.0, 256: 2.0})
    assert Tuner("gpu", None, clock).select("a", CANDIDATES, clock.launch) == {"BLOCK": 256}
    broken = Clock({64: -1.0, 128: -1.0, 256: -1.0})
    assert Tuner("gpu", None, broken).select("a", CANDIDATES, broken.launch) == {"BLOCK": 64}


def test_choices_are_read_from_the_file_by_another_process_and_kept_apart_by_gpu(tmp_path: Path):
    path = tmp_path / "cache" / "tuning.json"
    clock = Clock({64: 3.0, 128: 1.0, 256: 2.0})
    Tuner("H200, triton 3.7.0", path, clock).select("a", CANDIDATES, clock.launch)
    Tuner("H200, triton 3.7.0", path, clock).select("b", CANDIDATES, clock.launch)
    assert json.loads(path.read_text()) == {"H200, triton 3.7.0": {"a": {"BLOCK": 128}, "b": {"BLOCK": 128}}}
    again = Clock({64: 0.1, 128: 1.0, 256: 2.0})
    assert Tuner("H200, triton 3.7.0", path, again).select("a", CANDIDATES, again.launch) == {"BLOCK": 128}
    assert again.calls == 0
    assert Tuner("H200, triton 3.8.0", path, again).select("a", CANDIDATES, again.launch) == {"BLOCK": 64}
    assert [entry.name for entry in path.parent.iterdir()] == ["tuning.json"]


def test_a_choice_that_is_no_candidate_any_more_is_made_again(tmp_path: Path):
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps({"gpu": {"a": {"BLOCK": 512}}}))
    clock = Clock({64: 3.0, 128: 1.0, 256: 2.0})
    assert Tuner("gpu", path, clock).select("a", CANDIDATES, clock.launch) == {"BLOCK": 128}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"gpu": 3}', "\0"])
def test_a_file_that_is_no_table_is_tuned_over(content: str, tmp_path: Path):
    path = tmp_path / "tuning.json"
    path.write_text(content)
    clock = Clock({64: 3.0, 128: 1.0, 256: 2.0})
    assert Tuner("gpu", path, clock).select("a", CANDIDATES, clock.launch) == {"BLOCK": 128}
    assert json.loads(path.read_text()) == {"gpu": {"a": {"BLOCK": 128}}}


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("")
    clock = Clock({64: 3.0, 128: 1.0, 256: 2.0})
    assert Tuner("gpu", tmp_path / "file" / "tuning.json", clock).select("a", CANDIDATES, clock.launch) == {
        "BLOCK": 128
    }
    assert "could not be written" in caplog.text


def test_without_a_gpu_or_switched_off_the_first_is_launched_and_nothing_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuning, "_milliseconds", lambda call: pytest.fail("timed"))
    for on in (True, False):
        with tuned(on):
            assert run("a", torch.ones(2), (2,), CANDIDATES, lambda tiles: tiles["BLOCK"]) == 64


def test_tiles_found_by_the_clock_are_launched(monkeypatch: pytest.MonkeyPatch):
    """On a GPU that is none: a tensor that says it lies on one."""
    clock = Clock({64: 3.0, 128: 1.0, 256: 2.0})

    class Elsewhere:
        is_cuda, device, dtype = True, torch.device("cuda", 0), torch.bfloat16

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tuning, "_tuners", {Elsewhere.device: Tuner("gpu", None, clock)})
    with tuned():
        run("expand", Elsewhere, (4, 2560), CANDIDATES, clock.launch)
    assert clock.launched == [64, 128, 256, 128]
    assert tuning._tuners[Elsewhere.device].choices == {"expand 4 2560 bfloat16": {"BLOCK": 128}}
    run("expand", Elsewhere, (4, 2560), CANDIDATES, clock.launch)
    assert clock.launched[-1] == 64  # switched off again


def test_the_file_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("ODENETS_CACHE", raising=False)
    assert tuning._cache_file() == tmp_path / "xdg" / "odenets" / "tuning.json"
    monkeypatch.setenv("ODENETS_CACHE", str(tmp_path / "own"))
    assert tuning._cache_file() == tmp_path / "own" / "tuning.json"
