"""Files of a run folder."""

import json
import math
from pathlib import Path

from odenets.train.runfolder import RunFolder


def test_json_holds_no_number_that_json_does_not_know(tmp_path: Path):
    path = tmp_path / "result.json"
    RunFolder(tmp_path).write_json(path, {"a": [math.nan, -math.inf, 1.5], "b": {"c": math.inf, "d": 3}})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"a": [None, None, 1.5], "b": {"c": None, "d": 3}}
