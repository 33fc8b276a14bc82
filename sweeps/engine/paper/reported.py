"""The numbers that the paper's tables report: accuracies in percent, as printed, by table, row and column.

Source: Wang and Zhang 2019, arXiv:1811.10716v2. Figure 1 has no numbers in print.
"""

from collections.abc import Mapping
from dataclasses import dataclass

ReportedValue = float | None  # None: not reported


@dataclass(frozen=True)
class PaperTable:
    """One table: its columns, and the cells of each row by the row's name in the paper."""

    description: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[ReportedValue, ...]]

    def cell(self, row: str, column: str) -> ReportedValue:
        """The number in this cell."""
        return self.rows[row][self.columns.index(column)]


_COLLECTIONS = ("all", "correct", "wrong")

PAPER = {
    1: PaperTable(
        "do more iterations in training help? CIFAR-10, WRN-28-10, 8 pixels",
        ("clean", "FGSM", "PGD2-8", "PGD7-2", "PGD20-2", "PGD100-2"),
        {
            "PGD7-2": (88.0, 57.0, 53.0, 51.2, 47.6, 47.2),
            "PGD2-8": (88.2, 56.9, 53.2, 50.5, 46.7, 46.2),
        },
    ),
    2: PaperTable(
        "squared L2 norm of the input gradient of test images in [-1, 1]: undefended, adversarially trained (PGD7-2)",
        (*(f"undefended {one}" for one in _COLLECTIONS), *(f"trained {one}" for one in _COLLECTIONS)),
        {
            "min": (3.0e-32, 3.0e-32, 264.1, 2.6e-26, 2.6e-26, 0.2),
            "mean": (395.0, 23.6, 7.4e3, 3.8, 0.4, 28.9),
            "max": (4.5e4, 7.0e3, 4.5e4, 236.2, 85.9, 236.2),
        },
    ),
    3: PaperTable(
        "label leaking: one-step training with (R-) and without random start; black: FGSM on an undefended model",
        ("clean", "FGSM", "FGSM RS", "CE7", "CE7 RS", "black box"),
        {
            "FGSM": (55.2, 99.1, 68.6, 0.0, 0.0, 56.2),
            "R-FGSM": (89.8, 55.8, 63.6, 46.4, 48.0, 88.0),
            "LL": (92.6, 97.9, 86.2, 0.0, 0.0, 80.9),
            "R-LL": (91.4, 46.6, 56.6, 34.1, 36.0, 88.2),
            "MC": (86.4, 70.7, 73.0, 37.6, 40.3, 84.3),
            "R-MC": (89.9, 62.6, 70.2, 46.8, 48.4, 87.1),
        },
    ),
    4: PaperTable(
        "how strong one step is: untargeted, towards the most confusing, towards the least likely class",
        ("FGSM", "FGSM RS", "MC", "MC RS", "LL", "LL RS"),
        {
            "R-FGSM": (55.8, 63.6, 55.4, 63.6, 75.5, 79.8),
            "R-LL": (46.6, 56.6, 44.0, 55.6, 70.7, 76.4),
            "R-MC": (62.6, 70.2, 63.9, 71.3, 80.1, 83.8),
        },
    ),
    5: PaperTable(
        "what each part does, CIFAR-10 (eps_y = 0.5, beta = 9); Madry*: trained by the authors",
        ("clean", "FGSM", "CE7", "CE20"),
        {
            "R-FGSM": (89.8, 55.8, 48.0, 42.9),
            "R-FGSM-LS": (89.1, 62.0, 54.6, 49.0),
            "R-MC": (89.9, 62.6, 48.4, 43.4),
            "R-MC-LS": (91.1, 70.6, 59.2, 53.3),
            "R-MC-LS+": (91.8, 71.4, 62.7, 55.9),
            "R-MC-LA": (90.7, 69.6, 59.9, 55.3),
            "R-MC-LA+": (91.2, 70.7, 63.0, 57.8),
            "Madry": (87.3, 56.1, 50.0, 45.8),
            "Madry*": (88.0, 57.0, 51.2, 47.6),
            "Madry-LA": (86.8, 63.4, 57.8, 53.2),
            "Madry-LA+": (87.5, 65.9, 61.3, 57.5),
        },
    ),
    6: PaperTable(
        "white box, CIFAR-10, means of three models (beta = 9)",
        ("clean", "CE20", "CW20", "CE100", "CW100", "CW200"),
        {
            "R-MC-LA (eps_x = 8)": (90.8, 54.6, 53.7, 52.9, 51.9, 51.7),
            "R-MC-LA+ (eps_x = 8)": (91.0, 57.5, 56.2, 55.2, 53.8, 53.6),
            "R-MC-LA (eps_x = 4)": (93.0, 63.1, 61.5, 60.1, 58.0, 57.6),
            "R-MC-LA+ (eps_x = 4)": (92.9, 66.9, 64.2, 63.7, 60.7, 60.3),
            "Madry*": (88.0, 47.6, 48.6, 47.2, 48.1, 48.1),
        },
    ),
    7: PaperTable(
        "black box, CIFAR-10: crafted on an undefended model, and on another R-MC-LA (beta = 9)",
        ("clean", "undefended FGSM", "undefended CE20", "another FGSM", "another CE20"),
        {
            "R-MC-LA": (90.7, 87.8, 88.8, 74.4, 71.0),
            "R-MC-LA+": (91.2, 88.5, 89.9, 74.6, 74.4),
        },
    ),
    8: PaperTable(
        "white box, SVHN (beta = 9)",
        ("clean", "FGSM", "CE20", "CE100", "CW100"),
        {
            "R-MC-LA (eps_x = 8)": (94.1, 66.9, 46.7, 42.0, 40.9),
            "R-MC-LA+ (eps_x = 8)": (94.1, 69.8, 53.9, 50.3, 48.9),
            "R-MC-LA (eps_x = 4)": (95.7, 72.6, 54.4, 47.2, 45.7),
            "R-MC-LA+ (eps_x = 4)": (95.5, 74.2, 63.0, 59.1, 58.5),
            "Madry*": (91.8, 61.0, 43.2, 42.1, 43.4),
        },
    ),
    9: PaperTable(
        "ImageNet, 16 pixels, ResNet-50/101/152 (beta = 100); nt: untargeted, rd: random target; others' by citation",
        ("clean", "CE10-nt", "CE100-nt", "CE10-rd", "CE100-rd"),
        {
            "R-MC-LA-R50": (58.9, 14.9, 4.0, 45.8, 24.5),
            "R-MC-LA-R101": (61.9, 18.0, 6.3, 45.8, 26.0),
            "R-MC-LA-R152": (63.9, 19.8, 7.4, 46.5, 26.6),
            "[26]-IncepV3": (72.0, None, None, 27.9, None),
            "[55]-R152": (62.3, 17.1, 7.3, 52.5, 41.7),
        },
    ),
}
