"""A comparison's folder made of files alone, with numbers that a test knows."""

import json
from pathlib import Path

import pytest

ROWS = [
    {"name": "residual", "choice": {"block": "residual", "scheme": ""}, "refused": "",
     "equal": [{"block": "residual", "scheme": "exponential"}], "changed": {}},
    {"name": "delta euler", "choice": {"block": "delta", "scheme": "euler"}, "refused": "", "equal": [],
     "changed": {"branch.hidden": 27}},
    {"name": "delta exponential", "choice": {"block": "delta", "scheme": "exponential"}, "refused": "", "equal": [],
     "changed": {}},
]  # fmt: skip
ACCURACY = {
    "residual": [0.910, 0.912, 0.0],
    "delta euler": [0.970, 0.975, 0.980],
    "delta exponential": [0.974, 0.978, 0.979],
}
LOSS = {"residual": [0.3, 0.31, 0.29], "delta euler": [0.1, 0.12, 0.11], "delta exponential": [0.09, 0.13, 0.1]}


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """Three configurations, three seeds; one run failed, with a cause that must be escaped in HTML."""
    folder = tmp_path / "compared"
    runs = []
    for number, row in enumerate(ROWS):
        for seed in range(3):
            name = f"{row['name'].replace(' ', '-')}-seed-{seed}"
            runs.append({"name": name, "configuration": number, "seed": seed, "words": []})
            _write_run(folder / "runs" / name, row["name"], seed)
    plan = {"format": 1, "title": "digits", "command": ["odenets", "compare", "experiment=digits"], "asked": {},
            "terms": {"kind": "steps", "text": "equal optimizer steps"}, "target": None,
            "configurations": ROWS, "runs": runs}  # fmt: skip
    (folder / "comparison.json").write_text(json.dumps(plan))
    return folder


@pytest.fixture
def diagnosed(compared: Path) -> Path:
    """The same with diagnostics of the first seeds, and trajectories."""
    for name, scheme in (
        ("residual", "forward_euler"),
        ("delta-euler", "forward_euler"),
        ("delta-exponential", "exponential"),
    ):
        steps = [{"kind": "trained", "h": 0.25}, {"kind": "step", "h": 0.125}, {"kind": "step", "h": 0.5}]
        rows = [
            s | {"measures": {"test_accuracy": 0.9}, "distance": 0.3 * i, "error": "", "name": ""}
            for i, s in enumerate(steps)
        ]
        rows.append({"kind": "step", "h": 0.0625, "measures": {}, "distance": "nan", "error": "no", "name": ""})
        linear = None if name == "residual" else [[[-0.5, 0.0]]]
        results = {
            "eigenvalues": [{"scheme": scheme, "z": [[[-0.5, 1.5], [0.25, -1.5]]], "linear": linear}] * 2,
            "gains": {"signal": [1.0, 2.0, 3.0], "gradient": [3.0, 2.0, 1.0]},
            "stream_gains": {"total_row": [1.0, 1.0], "total_column": [1.0, 1.5]},
            "step_study": {"rows": rows, "trained_h": 0.25, "measure": "test_accuracy", "critical_step": 0.125,
                           "verdict": "no", "reason": "accuracy falls"},
        }  # fmt: skip
        folder = compared / "runs" / f"{name}-seed-0"
        (folder / "diagnostics.json").write_text(json.dumps({"results": results, "skipped": {}}))
        portrait = {"names": ["hare", "lynx"], "unit": "thousands", "time_unit": "year", "times": [0.0, 1.0, 2.0],
                    "states": [[1.0, 2.0], [2.0, 3.0], [3.0, 2.0]], "measured_times": [0.0, 2.0],
                    "measured": [[1.0, 2.0], [3.0, 2.0]]}  # fmt: skip
        (folder / "portrait.json").write_text(json.dumps(portrait))
    return compared


def _write_run(folder: Path, name: str, seed: int) -> None:
    folder.mkdir(parents=True)
    if (name, seed) == ("residual", 2):
        (folder / "failure.json").write_text(json.dumps({"cause": "the loss <became> nan at step 7", "epochs": 0}))
        return
    accuracy, loss = ACCURACY[name][seed], LOSS[name][seed]
    measures = {"test_accuracy": accuracy, "test_loss": loss}
    result = {"name": "digits", "measures": measures, "facts": {}, "parameters": 1000 + len(name),
              "steps": 40, "epochs": 4, "seconds": 12.5 + seed, "spikes": seed}  # fmt: skip
    costs = {"forward_seconds": 0.01 * (1 + seed), "backward_seconds": 0.02, "peak_bytes": 7_000_000, "nfe": 4,
             "gradient_error": 2.5e-7, "notes": []}  # fmt: skip
    versions = {"command": ["odenets", "train", f"seed={seed}", "run.dir=x"], "date": "2026-11-22T01:02:03+00:00",
                "git": "0123456789abcdef", "packages": {"torch": "2.13.0"},
                "machine": {"processor": "Test CPU", "cores": 2, "gpus": []}}  # fmt: skip
    for file, content in (("result", result), ("costs", costs), ("versions", versions)):
        (folder / f"{file}.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(f"name: digits\nseed: {seed}\n")
    losses = [2.0, 1.0, 0.5, loss]
    lines = [f"{i + 1},{10 * (i + 1)},{i},0.1,{x + 0.1},{accuracy - 0.1 * (3 - i)},{x}" for i, x in enumerate(losses)]
    (folder / "metrics.csv").write_text("epoch,step,seconds,lr,train_loss,test_accuracy,test_loss\n" + "\n".join(lines))
