"""What a result depends on besides the configuration: code, packages, machine."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import odenets

PACKAGES = (
    "torch",
    "triton",
    "lightning-fabric",
    "numpy",
    "scipy",
    "torchdiffeq",
    "hydra-core",
    "omegaconf",
    "scikit-learn",
)


def snapshot(command: list[str]) -> dict[str, Any]:
    """Versions, git commit, machine, date and the command of this run."""
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "odenets": odenets.__version__,
        "git": git_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, `-dirty` if it has changes; None outside a checkout."""
    folder = Path(odenets.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def command_line() -> list[str]:
    """The command as it can be typed again."""
    return ["odenets", *sys.argv[1:]]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
