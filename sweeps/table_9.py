"""Table 9 of the paper: ImageNet, 16 pixels, ResNets of three depths.

python sweeps/table_9.py                                     # digits, a minute or two
python sweeps/table_9.py --scale small --data-dir DIR        # a folder of JPEGs: DIR/{train,val}/<class>/*.JPEG
"""

from sweeps.engine.cli.app import command
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.table_spec import Clean, Table, White, cited, more, row

ROWS = tuple(
    row(f"R-MC-LA-R{depth}", "R-MC-LA-2step", eps=16, network=network) for network, depth in enumerate((50, 101, 152))
)
UNTARGETED, TARGETED = White("ce", 100), White("ce100-rd", 100)

TABLE = Table(
    number=9,
    images="imagenet",
    rows=(*ROWS, cited("[26]-IncepV3"), cited("[55]-R152")),
    columns={
        "clean": Clean(),
        "CE10-nt": White("ce10-nt", 10),
        "CE100-nt": UNTARGETED,
        "CE10-rd": White("ce10-rd", 10),
        "CE100-rd": TARGETED,
    },
    also="imagenet",
    eps=16,
    step=1,
    steps=(100,),
    losses=("ce",),
    claims=(
        more(
            "the untargeted attack is the stronger: CE100 towards a random class above untargeted (first network)",
            (ROWS[0], TARGETED),
            (ROWS[0], UNTARGETED),
        ),
        more(
            "deeper networks do better under CE100-nt: the third against the first",
            (ROWS[2], UNTARGETED),
            (ROWS[0], UNTARGETED),
        ),
    ),
    notes=(
        "nt: untargeted; rd: towards a random class. Ten steps are of 1.6 pixels, a hundred of 1. At the scales smoke"
        " and small three smaller networks stand in for ResNet-50, 101 and 152.",
    ),
)


def main(options: TableOptions = TableOptions()) -> int:
    """Table 9: two-step R-MC-LA (beta 100) at 16 pixels, networks of three depths, untargeted and random targets."""
    from sweeps.engine.paper.run import run_table

    return run_table(TABLE, options)


if __name__ == "__main__":
    command(main)
