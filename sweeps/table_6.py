"""Table 6 of the paper: the best models under long attacks on two losses.

python sweeps/table_6.py                                     # digits, a minute or two
python sweeps/table_6.py --scale small --data-dir DIR        # CIFAR-10, cut down
"""

from sweeps.engine.cli.app import command
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.table_spec import Clean, Table, White, about, more, row

EIGHT, FOUR = row("R-MC-LA (eps_x = 8)", "R-MC-LA"), row("R-MC-LA (eps_x = 4)", "R-MC-LA", eps=4)
EIGHT_LONG, FOUR_LONG = row("R-MC-LA+ (eps_x = 8)", "R-MC-LA+"), row("R-MC-LA+ (eps_x = 4)", "R-MC-LA+", eps=4)
MADRY = row("Madry*", "Madry")
CE20, CE100, CW100, CW200 = White("ce", 20), White("ce", 100), White("cw", 100), White("cw", 200)

TABLE = Table(
    number=6,
    rows=(EIGHT, EIGHT_LONG, FOUR, FOUR_LONG, MADRY),
    columns={
        "clean": Clean(),
        "CE20": CE20,
        "CW20": White("cw", 20),
        "CE100": CE100,
        "CW100": CW100,
        "CE200": White("ce", 200),
        "CW200": CW200,
    },
    claims=(
        more("training at 4 pixels beats training at 8 under CE100", (FOUR, CE100), (EIGHT, CE100)),
        more("CW is the stronger attack on R-MC-LA: CE100 above CW100", (EIGHT, CE100), (EIGHT, CW100)),
        more("accuracy falls from 20 steps to 100 (R-MC-LA at 8 pixels, CE)", (EIGHT, CE20), (EIGHT, CE100)),
        about("and is flat from 100 to 200, within a point (CW)", (EIGHT, CW100), (EIGHT, CW200), within=0.01),
        more("R-MC-LA above Madry* under CW100", (EIGHT, CW100), (MADRY, CW100)),
    ),
    notes=("CE200 is not in the paper's table.",),
)


def main(options: TableOptions = TableOptions()) -> int:
    """Table 6: R-MC-LA at 8 and 4 pixels, short and long (+), under 20, 100 and 200 steps on CE and on CW."""
    from sweeps.engine.paper.run import run_table

    return run_table(TABLE, options)


if __name__ == "__main__":
    command(main)
