"""Table 3 of the paper: which one-step trainings leak the label?

python sweeps/table_3.py                                     # digits, a minute or two
python sweeps/table_3.py --scale small --data-dir DIR        # CIFAR-10, cut down
"""

from sweeps.engine.cli.app import command
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.table_spec import Black, Clean, Table, White, at_most, more, row

FGSM, R_FGSM, LL, R_LL, MC, R_MC = map(row, ("FGSM", "R-FGSM", "LL", "R-LL", "MC", "R-MC"))
UNDEFENDED = row("Undefended")
CLEAN, ONE_STEP, CE7 = Clean(), White("fgsm"), White("ce", 7)
BLACK = Black(UNDEFENDED, "fgsm")

TABLE = Table(
    number=3,
    rows=(FGSM, R_FGSM, LL, R_LL, MC, R_MC, UNDEFENDED),
    columns={
        "clean": CLEAN,
        "FGSM": ONE_STEP,
        "FGSM RS": White("fgsm-rs"),
        "CE7": White("ce7-clean", 7),
        "CE7 RS": CE7,
        "black box": BLACK,
    },
    claims=(
        more(
            "FGSM training leaks labels: right more often under FGSM than when clean", (FGSM, ONE_STEP), (FGSM, CLEAN)
        ),
        at_most("FGSM training has almost no robustness under CE7: at most 5 %", (FGSM, CE7), 0.05),
        more("LL training leaks labels: right more often under FGSM than when clean", (LL, ONE_STEP), (LL, CLEAN)),
        at_most("LL training has almost no robustness under CE7: at most 5 %", (LL, CE7), 0.05),
        more("random start prevents it: R-FGSM above FGSM under CE7", (R_FGSM, CE7), (FGSM, CE7)),
        more("R-MC above R-FGSM under CE7", (R_MC, CE7), (R_FGSM, CE7)),
        more("R-MC above R-LL under CE7", (R_MC, CE7), (R_LL, CE7)),
        more(
            "a black box (FGSM on an undefended model) is weaker than FGSM on the model itself (R-MC)",
            (R_MC, BLACK),
            (R_MC, ONE_STEP),
        ),
    ),
    notes=("RS: from a random start. Black box: FGSM crafted on the undefended model of the same seed.",),
)


def main(options: TableOptions = TableOptions()) -> int:
    """Table 3: six one-step trainings (FGSM, LL, MC; R-: from a random start), and which of them leak the label.

    Black box: FGSM crafted on an undefended model. Collapsed training continues, as in the paper.
    """
    from sweeps.engine.paper.run import run_table

    return run_table(TABLE, options)


if __name__ == "__main__":
    command(main)
