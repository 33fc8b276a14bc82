"""Table 1 of the paper: do more iterations in training help?

python sweeps/table_1.py                                     # digits, a minute or two
python sweeps/table_1.py --scale small --data-dir DIR        # CIFAR-10, cut down
"""

from sweeps.engine.cli.app import command
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.table_spec import Clean, Table, White, about, more, row

SEVEN, TWO = row("PGD7-2", "Madry"), row("PGD2-8")
CE7, CE20, CE100 = White("ce", 7), White("ce", 20), White("ce", 100)

TABLE = Table(
    number=1,
    rows=(SEVEN, TWO),
    columns={
        "clean": Clean(),
        "FGSM": White("fgsm"),
        "PGD2-8": White("pgd2-8", 2),
        "PGD7-2": CE7,
        "PGD20-2": CE20,
        "PGD100-2": CE100,
    },
    claims=(
        about(
            "two long steps in training are about as good as seven short ones: PGD100-2, within 3 points",
            (TWO, CE100),
            (SEVEN, CE100),
            within=0.03,
        ),
        more("accuracy falls from 7 steps to 20 (PGD7-2)", (SEVEN, CE7), (SEVEN, CE20)),
        about("and is flat from 20 to 100, within a point (PGD7-2)", (SEVEN, CE20), (SEVEN, CE100), within=0.01),
    ),
)


def main(options: TableOptions = TableOptions()) -> int:
    """Table 1: training by seven short steps (PGD7-2, Madry) against two long ones (PGD2-8)."""
    from sweeps.engine.paper.run import run_table

    return run_table(TABLE, options)


if __name__ == "__main__":
    command(main)
