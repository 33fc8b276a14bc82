"""Table 4 of the paper: how strong are one-step attacks, untargeted, towards the nearest and the farthest class?

python sweeps/table_4.py                                     # digits, a minute or two
python sweeps/table_4.py --scale small --data-dir DIR        # CIFAR-10, cut down
"""

from sweeps.engine.cli.app import command
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.table_spec import Table, White, about, more, row

ROWS = R_FGSM, R_LL, R_MC = tuple(map(row, ("R-FGSM", "R-LL", "R-MC")))
FGSM, MC, LL = White("fgsm"), White("mc"), White("ll")

TABLE = Table(
    number=4,
    rows=ROWS,
    columns={
        "FGSM": FGSM,
        "FGSM RS": White("fgsm-rs"),
        "MC": MC,
        "MC RS": White("mc-rs"),
        "LL": LL,
        "LL RS": White("ll-rs"),
    },
    claims=(
        about("MC is about as strong as FGSM, within 3 points (on R-MC)", (R_MC, MC), (R_MC, FGSM), within=0.03),
        more("FGSM is far stronger than LL: by 5 points or more (on R-MC)", (R_MC, LL), (R_MC, FGSM), by=0.05),
        more("MC is far stronger than LL: by 5 points or more (on R-MC)", (R_MC, LL), (R_MC, MC), by=0.05),
        more("random start weakens one-step attacks: FGSM (on R-MC)", (R_MC, White("fgsm-rs")), (R_MC, FGSM)),
    ),
    notes=("RS: from a random start. MC, LL: towards the most confusing and the least likely class.",),
)


def main(options: TableOptions = TableOptions()) -> int:
    """Table 4: accuracy under one step, untargeted (FGSM) or to the most confusing (MC) or least likely (LL) class."""
    from sweeps.engine.paper.run import run_table

    return run_table(TABLE, options)


if __name__ == "__main__":
    command(main)
