"""Search for the recipe that stands: clean against verified robust accuracy, by Ray Tune and Optuna.

python sweeps/search.py                                                            # digits, minutes on a laptop
python sweeps/search.py --space bat --space schedule --finalists 3                 # and a champion of the best three
python sweeps/search.py --dataset cifar10 --data-dir DIR --set eps=8/255 --range beta=4:64
"""

from sweeps.engine.cli.app import command
from sweeps.engine.search.options import SearchOptions
from sweeps.engine.search.run import run_search


def main(options: SearchOptions = SearchOptions()) -> int:
    """Find recipes with the best trade of clean against verified robust accuracy.

    Every trial is judged on validation images, split from train, by PGD and then APGD-CE and APGD-T; a trial
    whose gradients are masked is kept and shown, and steers nothing. --finalists trains the best of the front
    anew, evaluates them on test once under AutoAttack, and registers the one that --rule chooses in MLflow.
    """
    return run_search(options)


if __name__ == "__main__":
    command(main)
