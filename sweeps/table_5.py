"""Table 5 of the paper: what does each part of bilateral training do?

python sweeps/table_5.py                                     # digits, a minute or two
python sweeps/table_5.py --scale small --data-dir DIR        # CIFAR-10, cut down
"""

from sweeps.engine.cli.app import command
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.table_spec import Clean, Table, White, cited, more, row

R_MC, R_MC_LS, R_MC_LA, R_MC_LA_LONG = map(row, ("R-MC", "R-MC-LS", "R-MC-LA", "R-MC-LA+"))
MADRY = row("Madry*", "Madry")
CE20 = White("ce", 20)

TABLE = Table(
    number=5,
    rows=(
        row("R-FGSM"),
        row("R-FGSM-LS"),
        R_MC,
        R_MC_LS,
        row("R-MC-LS+"),
        R_MC_LA,
        R_MC_LA_LONG,
        cited("Madry"),
        MADRY,
        row("Madry-LA"),
        row("Madry-LA+"),
        row("R-RAND-LA"),  # beyond the paper from here on: the authors' release, ours, and common alternatives
        row("R-MOSA-LA"),
        row("R-MC-LA-5F"),
        row("TRADES"),
        row("Fast-AT"),
        row("N-FGSM"),
    ),
    columns={"clean": Clean(), "FGSM": White("fgsm"), "CE7": White("ce", 7), "CE20": CE20},
    claims=(
        more("label smoothing raises CE20 accuracy: R-MC-LS above R-MC", (R_MC_LS, CE20), (R_MC, CE20)),
        more(
            "the adversarial label is no worse than smoothing under CE20: R-MC-LA against R-MC-LS",
            (R_MC_LA, CE20),
            (R_MC_LS, CE20),
        ),
        more("the adversarial label raises CE20 accuracy: R-MC-LA above R-MC", (R_MC_LA, CE20), (R_MC, CE20)),
        more("R-MC-LA above Madry* under CE20", (R_MC_LA, CE20), (MADRY, CE20)),
        more("longer training helps: R-MC-LA+ above R-MC-LA under CE20", (R_MC_LA_LONG, CE20), (R_MC_LA, CE20)),
    ),
    notes=(
        "Rows after Madry-LA+ are beyond the paper: other targets from the authors' release, R-MC-LA in five passes a"
        " step, and what one would pick instead. Madry is cited by the paper, Madry* was trained by its authors, and"
        " by us.",
    ),
)


def main(options: TableOptions = TableOptions()) -> int:
    """Table 5: label smoothing (LS), the adversarial label (LA), long schedules (+), and multi-step training.

    Beyond the paper: R-RAND-LA and R-MOSA-LA of the authors' release, R-MC-LA-5F, TRADES, Fast-AT and N-FGSM.
    """
    from sweeps.engine.paper.run import run_table

    return run_table(TABLE, options)


if __name__ == "__main__":
    command(main)
