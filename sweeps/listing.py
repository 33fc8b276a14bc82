"""Lists what the options accept, one name and one line each.

python sweeps/listing.py recipes
python sweeps/listing.py spaces
"""

from typing import Annotated, Literal

from cyclopts import Parameter

from sweeps.engine.cli.app import command

Kind = Literal["recipes", "models", "datasets", "attacks", "suites", "spaces"]


def main(kind: Annotated[Kind, Parameter(help="What to list.")], /) -> int:
    """List the names that --recipe, --model, --dataset, --suite and --space accept, and all attacks.

    Your own recipes, models and data sets are given as package.module:name.
    """
    from sweeps.engine.cli.names import described_names

    rows = described_names(kind)
    width = max(len(name) for name, _ in rows)
    for name, said in rows:
        print(f"{name:<{width}}  {said}".rstrip())
    return 0


if __name__ == "__main__":
    command(main)
