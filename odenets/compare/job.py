"""One run of a comparison: started, resumed or left alone; whatever goes wrong becomes its recorded cause."""

import json
import shutil
import traceback
from collections.abc import Callable

from omegaconf import DictConfig

from odenets.compare.grid import compose_run
from odenets.compare.plan import Plan, PlannedRun, attempts_file, failure_file
from odenets.configs.compose import TrainTask
from odenets.errors import Interrupted, TrainingStopped, UserError, one_line
from odenets.train.metrics import read_rows

ATTEMPTS = 3


class CompareTask(TrainTask):
    """What Hydra calls with each run of a plan, in this process or in another."""

    __module__ = "odenets.configs.compose"  # Hydra finds the config folder through it

    def __init__(
        self,
        command: list[str],
        words: list[str],
        config_dir: str | None,
        *,
        plan: Plan,
        tell: Callable[[Plan, PlannedRun], None],
    ) -> None:
        super().__init__([command[0], "train"], words, config_dir)
        self.plan = plan
        self.tell = tell

    def run(self, cfg: DictConfig) -> float:
        """Bring the run in the folder that Hydra gives to its end: a result or a failure, each written once."""
        run = next(run for run in self.plan.runs if str(self.plan.place(run).path) == cfg.run.dir)
        place = self.plan.place(run)
        if self.plan.finished(run) or self.plan.failed(run):
            return float("nan")
        refused = self.plan.configurations[run.configuration]["refused"]
        try:
            if refused:
                raise UserError(refused)
            cfg = compose_run(run.words, self.config_dir)
            self._prepare(cfg, run)
            number = self.plan.runs.index(run) + 1
            self.start(cfg, run.words, [f"run.dir={place.path}"], f"{number}/{len(self.plan.runs)} {run.name}")
        except (Interrupted, KeyboardInterrupt):
            raise
        except (UserError, TrainingStopped) as error:
            self._fail(run, one_line(error), "")
        except Exception as error:  # a bug, or a machine that is too small: the other runs go on
            self._fail(run, f"{type(error).__name__}: {one_line(error)}", traceback.format_exc())
        self.tell(self.plan, run)
        return float("nan")

    def _prepare(self, cfg: DictConfig, run: PlannedRun) -> None:
        """Resume where there is a checkpoint, else start afresh; give up on a run that always kills its process."""
        place = self.plan.place(run)
        cfg.run.dir = str(place.path)
        place.path.parent.mkdir(parents=True, exist_ok=True)
        marker = attempts_file(place)
        done = len(read_rows(place.metrics))
        earlier = json.loads(marker.read_text()) if marker.is_file() else {"rows": -1, "attempts": 0}
        attempts = earlier["attempts"] if earlier["rows"] == done else 0
        if attempts == ATTEMPTS:
            raise TrainingStopped(f"its process was ended {ATTEMPTS} times without one more epoch done; out of memory?")
        place.write_json(marker, {"rows": done, "attempts": attempts + 1})
        if place.checkpoint.is_file():
            cfg.run.resume = True
        else:
            shutil.rmtree(place.path, ignore_errors=True)

    def _fail(self, run: PlannedRun, cause: str, trace: str) -> None:
        place = self.plan.place(run)
        place.path.mkdir(parents=True, exist_ok=True)
        place.write_json(
            failure_file(place), {"cause": cause, "epochs": len(read_rows(place.metrics)), "traceback": trace}
        )
