"""Black-box attacks (the paper's Table 7): images crafted on each model, judged on every other.

python sweeps/transfer.py outputs/eps_budget-digits-...            # all models of a sweep
python sweeps/transfer.py MODEL MODEL MODEL --eps 8/255
"""

from sweeps.engine.cli.app import command
from sweeps.engine.transfer.run import TransferOptions, run_transfer


def main(*models: str, options: TransferOptions = TransferOptions()) -> int:
    """Craft adversarial images on each model and judge them on all: the transfer matrix, and whether to worry.

    MODEL is a model, checkpoint or trial folder, a sweep's folder (all of its trials), an MLflow URI
    (models:/..., runs:/.../model) or package.module:factory, a function that returns a torch module
    which takes images in [0, 1] and returns logits. Name at least two models.

    Attacks: FGSM without random start, and CE20, PGD of 20 steps from a random start. The diagonal is
    white-box. A black box that beats a target's own white-box is a red flag of gradient masking. The
    numbers are not verified: sweeps/evaluate.py does that.
    """
    return run_transfer(models, options)


if __name__ == "__main__":
    command(main)
