"""Search for robust recipes: clean against verified robust accuracy, with Ray Tune and Optuna.

python sweeps/search.py                                                            # digits, minutes on a laptop
python sweeps/search.py --space bat --space schedule --finalists 3                 # a champion of the best three
python sweeps/search.py --dataset cifar10 --data-dir DIR --set eps=8/255 --range beta=4:64
"""

from sweeps.engine.cli.app import command
from sweeps.engine.search.options import SearchOptions


def main(options: SearchOptions = SearchOptions()) -> int:
    """Find recipes with the best trade-off between clean and verified robust accuracy.

    Every trial is evaluated on validation images, split from train, by PGD and then by stronger attacks. A trial
    with masked gradients is reported but does not guide the search. --finalists retrains the best of the front,
    evaluates them once on test with AutoAttack, and registers the one that --rule chooses in MLflow.
    """
    from sweeps.engine.search.run import run_search

    return run_search(options)


if __name__ == "__main__":
    command(main)
