"""Table 7 of the paper: black-box attacks, crafted on an undefended model and on another one like it.

python sweeps/table_7.py                                     # digits, a minute or two
python sweeps/table_7.py --scale small --data-dir DIR        # CIFAR-10, cut down
"""

from sweeps.engine.cli.app import command
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.table_spec import Black, Clean, Table, White, more, row

SHORT, LONG, UNDEFENDED = row("R-MC-LA"), row("R-MC-LA+"), row("Undefended")
FROM_UNDEFENDED, FROM_ANOTHER = Black(UNDEFENDED, "ce20"), Black(SHORT, "ce20", another=True)
CE20 = White("ce", 20)

TABLE = Table(
    number=7,
    rows=(SHORT, LONG, UNDEFENDED),
    columns={
        "clean": Clean(),
        "undefended FGSM": Black(UNDEFENDED, "fgsm"),
        "undefended CE20": FROM_UNDEFENDED,
        "another FGSM": Black(SHORT, "fgsm", another=True),
        "another CE20": FROM_ANOTHER,
        "white CE20": CE20,
    },
    claims=(
        more(
            "a black box is weaker than a white box: CE20 from another R-MC-LA against CE20 on itself",
            (SHORT, FROM_ANOTHER),
            (SHORT, CE20),
        ),
        more("and so is CE20 from an undefended model", (SHORT, FROM_UNDEFENDED), (SHORT, CE20)),
        more(
            "another R-MC-LA is the stronger source: undefended CE20 above another CE20",
            (SHORT, FROM_UNDEFENDED),
            (SHORT, FROM_ANOTHER),
        ),
    ),
    notes=(
        "Another: the R-MC-LA of the next seed, for both rows (of one seed alone there is none); undefended: of the"
        " same seed. White CE20 is not in the paper's table.",
    ),
)


def main(options: TableOptions = TableOptions()) -> int:
    """Table 7: images crafted on an undefended model and on another R-MC-LA, evaluated on R-MC-LA."""
    from sweeps.engine.paper.run import run_table

    return run_table(TABLE, options)


if __name__ == "__main__":
    command(main)
