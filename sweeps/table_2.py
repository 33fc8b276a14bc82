"""Table 2 of the paper: how large is the loss's gradient in the image?

python sweeps/table_2.py                                     # digits, a minute or two
python sweeps/table_2.py --scale small --data-dir DIR        # CIFAR-10, cut down
"""

from sweeps.engine.cli.app import command
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.table_spec import Gradient, Table, row, times

MODELS = {"undefended": row("undefended", "Undefended"), "trained": row("trained", "Madry")}
COLUMNS = {f"{model} {which}": Gradient(which, "mean") for model in MODELS for which in ("all", "correct", "wrong")}
MEAN = Gradient("all", "mean")

TABLE = Table(
    number=2,
    rows=tuple(MODELS.values()),
    columns=COLUMNS,
    lines={
        (statistic, f"{model} {which}"): (MODELS[model], Gradient(which, statistic))
        for statistic in ("min", "mean", "max")
        for model in MODELS
        for which in ("all", "correct", "wrong")
    },
    unit="",
    claims=(
        times(
            "undefended models have far larger gradients than trained ones: at least 10 times, by their means",
            (MODELS["undefended"], MEAN),
            (MODELS["trained"], MEAN),
            at_least=10,
        ),
        *(
            times(
                f"gradients are smaller where the {model} model is right: wrong against correct images, by means",
                (MODELS[model], Gradient("wrong", "mean")),
                (MODELS[model], Gradient("correct", "mean")),
                at_least=1,
            )
            for model in MODELS
        ),
    ),
    notes=("Squared L2 norm of the cross-entropy's gradient in the image, for images in [-1, 1] as in the paper.",),
)


def main(options: TableOptions = TableOptions()) -> int:
    """Table 2: the squared gradient norm of test images, of undefended and adversarially trained models.

    The trained ones are Madry's (PGD7-2). Norms are for images in [-1, 1], as the paper's.
    """
    from sweeps.engine.paper.run import run_table

    return run_table(TABLE, options)


if __name__ == "__main__":
    command(main)
