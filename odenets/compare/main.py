"""`odenets compare`: plan, run, measure, report."""

import shutil

from odenets.compare import grid, plan, show, terms
from odenets.compare.costs import diagnose_rows, measure_runs
from odenets.compare.launch import launch
from odenets.compare.lock import Lock
from odenets.compare.options import Request, read_request
from odenets.configs.own import TRUST, packages_of, trusted
from odenets.errors import Interrupted, TrainingStopped, UserError
from odenets.report.comparison import write_report


def compare(arguments: list[str]) -> None:
    """Run the comparison typed as `arguments`, or go on with it.

    Raises UserError before any work, Interrupted (everything so far is kept), TrainingStopped if every run failed.
    """
    request = read_request(arguments)
    allow = trusted(request.words)
    with Lock(request.folder):
        planned = _plan(request, arguments)
        if request.options.retry:
            for run in filter(planned.failed, planned.runs):
                shutil.rmtree(planned.place(run).path)
                plan.attempts_file(planned.place(run)).unlink(missing_ok=True)
        missing = planned.missing()
        show.announce(planned, missing)
        try:
            if missing:
                launch(planned, missing, request.hydra, request.config_dir)
            if request.options.measure:
                with show.busy("measuring time, memory and gradients"):
                    measure_runs(planned, allow)
            if request.options.diagnose:
                with show.busy("looking at the trained flows"):
                    diagnose_rows(planned, allow)
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted("stopped and saved; type the same command again to go on") from None
        write_report(planned.folder)
        if not any(map(planned.finished, planned.runs)):
            raise TrainingStopped(f"every run failed; the causes are above and in {planned.folder}")


def _plan(request: Request, arguments: list[str]) -> plan.Plan:
    saved = plan.read_plan(request.folder)
    if saved is not None and saved.asked == plan.asked(request):
        for run in saved.runs:
            more = sorted(packages_of(run.words) - set(trusted(request.words)))
            if more:
                raise UserError(
                    f"{request.folder}: its runs name {', '.join(more)}; if you trust them, add {TRUST}=[{','.join(more)}]"
                )
        return saved
    configurations, seeds = grid.expand(request.words, request.config_dir)
    equal = terms.apply(request.options, configurations)
    planned = plan.make_plan(request, configurations, seeds, equal, ["odenets", "compare", *arguments])
    if saved is not None:
        plan.check_contains(saved, planned)
    planned.write()
    return planned
