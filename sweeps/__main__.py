"""The command `bat-sweeps`: every script of this folder under one name."""

import sys
from importlib import import_module

import bat_core

COMMANDS = {  # the name that is typed, its script, what it does
    "figure-1": ("eps_budget", "Figure 1: accuracy under attack against training budget"),
    "search": ("search", "search for robust recipes with Ray Tune and Optuna"),
    "evaluate": ("evaluate", "attack models, and check whether their robustness can be trusted"),
    "transfer": ("transfer", "craft images on each model and evaluate them on every other"),
    "corruptions": ("corruptions", "accuracy under common corruptions: CIFAR-10-C, ImageNet-C, or made on the fly"),
    "table": ("table_{}", "one of the paper's tables: bat-sweeps table 5"),
    "leaderboard": ("leaderboard", "all finished models of many sweeps and evaluations in one table"),
    "mirror": ("mirror", "sync a sweep's records to MLflow again"),
    "list": ("listing", "recipes, models, datasets, attacks, suites or spaces, one a line"),
}
TABLES = range(1, 10)
USAGE = "Usage: bat-sweeps COMMAND [OPTIONS]"


def run() -> None:
    """Run the command that the first argument names, and exit with its code."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in {"--help", "-h"}:
        print(overview())
        sys.exit(0)
    if name == "--version":
        print(f"bat-sweeps {bat_core.__version__}")
        sys.exit(0)
    if name == "table":
        number, *rest = rest or [""]
        if number not in map(str, TABLES):
            _refuse(f"table needs a number from {TABLES[0]} to {TABLES[-1]}: bat-sweeps table 5")
        name, script = f"table {number}", f"table_{number}"
    elif name in COMMANDS:
        script = COMMANDS[name][0]
    else:
        from bat_core.errors import unknown_name

        _refuse(str(unknown_name("command", name, COMMANDS)))
    main = import_module(f"sweeps.{script}").main
    from sweeps.engine.cli.app import PROGRAM, command

    command(main, rest, name=f"{PROGRAM} {name}")


def overview() -> str:
    """What bat-sweeps --help prints."""
    lines = [f"  {'table N' if name == 'table' else name:<12}{said}" for name, (_, said) in COMMANDS.items()]
    return "\n".join(
        [
            USAGE,
            "",
            "Train, attack, search and compare adversarially robust image classifiers.",
            "",
            "Commands:",
            *lines,
            "",
            "bat-sweeps COMMAND --help shows a command's options, bat-sweeps --version the version.",
        ]
    )


def _refuse(said: str) -> None:
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    run()
