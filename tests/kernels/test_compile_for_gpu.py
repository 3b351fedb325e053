"""Every kernel compiles for a GPU, on a machine without one, and keeps its tiles in registers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# A byte or two spilled costs nothing; an accumulator in memory costs the kernel its bandwidth.
MOST_SPILLED = 16


@pytest.mark.slow  # half a minute of compiling, when nothing is cached
def test_every_kernel_compiles_and_spills_no_tile():
    command = [sys.executable, str(Path(__file__).with_name("compile_for_gpu.py"))]
    # compiled kernels and interpreted ones cannot live in one process
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^(\w+\.\w+_kernel) .*?(\d+) +(\d+) +(\d+) +(\d+)$", done.stdout, re.MULTILINE)
    assert len(rows) >= 50
    spilled = {name: int(stack) for name, _, _, stack, _ in rows if int(stack) > MOST_SPILLED}
    assert not spilled
