"""The command line: `odenets train | compare | report | evaluate | diagnose | list`.

Nothing heavy is imported here: torch and Fabric load inside the task, so that `list`, `--help` and a typo answer at
once. Bad input is one line on stderr and exit code 2.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from odenets.errors import Interrupted, TrainingStopped, UserError, did_you_mean

HELP = """\
odenets: a network block is one step of a numerical scheme on a flow.

  odenets list                                what there is to choose from
  odenets train experiment=digits             train; any key can follow as key=value
  odenets train experiment=digits model=neural_ode solver=dopri5 solver.rtol=1e-4
  odenets train run.dir=<folder> run.resume=true
                                              go on with a run that was stopped
  odenets train -m experiment=digits model.N=2,4,8
                                              one run per value
  odenets evaluate run=<folder>               measure a finished run again
  odenets diagnose run=<folder>               is its flow an ODE; spectra, gains, stability, gates

  odenets compare experiment=digits block=residual,delta seed=0,1
                                              every combination: table and report
  odenets compare compare=digits              a comparison from configs/compare
  odenets report <folder>                     a comparison's report again

Options of train and compare:
  --config-dir <folder>    your own configs: <folder>/<group>/<option>.yaml
  -m, --multirun           run every combination of comma-separated values (train)
  --cfg job [--resolve]    print the composed configuration and stop (train)
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 training stopped, 2 bad input, 130 interrupted and saved."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except UserError as error:
        _fail(f"odenets: {error}", 2)
    except TrainingStopped as error:
        _fail(f"odenets: {error}", 1)
    except (Interrupted, KeyboardInterrupt) as error:
        _fail(f"odenets: {str(error) or 'interrupted'}", 130)
    except BrokenPipeError:  # `odenets list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _dispatch(arguments: list[str]) -> None:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help", "help") or (command in COMMANDS and {"-h", "--help"} & set(rest)):
        print(HELP, end="")
    elif command == "--version":
        from odenets import __version__

        print(f"odenets {__version__}")
    elif command in COMMANDS:
        COMMANDS[command](rest)
    else:
        raise UserError(f"'{command}': no such command; {did_you_mean(command, COMMANDS)} (see odenets --help)")


def _train(overrides: list[str]) -> None:
    from odenets.configs.compose import run_hydra

    run_hydra(overrides)


def _evaluate(arguments: list[str]) -> None:
    run, allow = _finished_run("evaluate", arguments)
    from odenets.train.main import evaluate

    evaluate(run, allow)


def _compare(arguments: list[str]) -> None:
    from odenets.compare.main import compare

    compare(arguments)


def _report(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise UserError("report: expected the folder of a comparison, for example odenets report runs/compare/<name>")
    from odenets.report.comparison import write_report

    write_report(arguments[0])


def _diagnose(arguments: list[str]) -> None:
    run, allow = _finished_run("diagnose", arguments)
    from odenets.train.diagnosis import main

    main(run, allow=allow)


def _list(arguments: list[str]) -> None:
    config_dir = None
    if arguments[:1] == ["--config-dir"] and len(arguments) == 2:
        config_dir = arguments[1]
    elif arguments:
        raise UserError(f"list: expected nothing or --config-dir <folder>, got {' '.join(arguments)}")
    from odenets.configs.catalog import descriptions

    blocks = []
    for group, options in descriptions(config_dir).items():
        width = max(len(name) for name, _ in options)
        lines = [f"  {name:<{width}}  {text}".rstrip() for name, text in options]
        blocks.append("\n".join([f"{group}=", *lines]))
    print("\n\n".join([*blocks, _kernels()]))


def _kernels() -> str:
    """Which backend the operators take; torch is not asked, it would take a second to load."""
    from importlib import metadata

    try:
        version = f"Triton {metadata.version('triton')}"
    except metadata.PackageNotFoundError:
        return "kernels: plain torch everywhere (Triton is not installed)"
    return f"kernels: {version} on a GPU, plain torch on the CPU (result.json: what ran)"


def _finished_run(command: str, arguments: list[str]) -> tuple[str, list[str]]:
    """The folder of `run=<folder>`, and the packages of `run.allow_targets=[...]`."""
    from odenets.configs.own import TRUST, trusted

    runs = [word.partition("=")[2] for word in arguments if word.startswith("run=")]
    for word in arguments:
        if not word.startswith(("run=", f"{TRUST}=")):
            raise UserError(f"'{word}': expected run=<folder>, and {TRUST}=[my_module] for classes of your own")
    if not runs or not runs[-1]:
        raise UserError(f"{command}: expected run=<folder>, for example odenets {command} run=runs/digits/<timestamp>")
    return runs[-1], trusted(arguments)


def _fail(line: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(line, file=sys.stderr)
    sys.exit(code)


COMMANDS = {
    "train": _train,
    "compare": _compare,
    "report": _report,
    "evaluate": _evaluate,
    "diagnose": _diagnose,
    "list": _list,
}

if __name__ == "__main__":
    main()
