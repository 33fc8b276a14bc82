"""Table 8 of the paper: SVHN.

python sweeps/table_8.py                                     # digits, a minute or two
python sweeps/table_8.py --scale small --data-dir DIR        # SVHN, cut down
"""

from sweeps.engine.cli.app import command
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.table_spec import Clean, Table, White, more, row

EIGHT, FOUR = row("R-MC-LA (eps_x = 8)", "R-MC-LA"), row("R-MC-LA (eps_x = 4)", "R-MC-LA", eps=4)
EIGHT_LONG, FOUR_LONG = row("R-MC-LA+ (eps_x = 8)", "R-MC-LA+"), row("R-MC-LA+ (eps_x = 4)", "R-MC-LA+", eps=4)
MADRY = row("Madry*", "Madry")
CE100, CW100 = White("ce", 100), White("cw", 100)

TABLE = Table(
    number=8,
    images="svhn",
    rows=(EIGHT, EIGHT_LONG, FOUR, FOUR_LONG, MADRY),
    columns={"clean": Clean(), "FGSM": White("fgsm"), "CE20": White("ce", 20), "CE100": CE100, "CW100": CW100},
    claims=(
        more("training at 4 pixels beats training at 8 under CE100", (FOUR, CE100), (EIGHT, CE100)),
        more("R-MC-LA+ at 4 pixels above Madry* under CW100", (FOUR_LONG, CW100), (MADRY, CW100)),
    ),
)


def main(options: TableOptions = TableOptions()) -> int:
    """Table 8: R-MC-LA at 8 and 4 pixels, short and long (+), on house numbers."""
    from sweeps.engine.paper.run import run_table

    return run_table(TABLE, options)


if __name__ == "__main__":
    command(main)
