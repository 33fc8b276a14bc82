"""Black-box attacks (the paper's Table 7): images crafted on each model, evaluated on every other.

python sweeps/transfer.py outputs/eps_budget-digits-...            # all models of a sweep
python sweeps/transfer.py MODEL MODEL MODEL --eps 8/255
"""

from sweeps.engine.cli.app import command
from sweeps.engine.evaluation.options import TransferOptions


def main(*models: str, options: TransferOptions = TransferOptions()) -> int:
    """Craft adversarial images on each model and evaluate them on all: the transfer matrix, and its red flags.

    MODEL is the folder of a model, checkpoint, trial or sweep (all of its trials), an MLflow URI
    (models:/..., runs:/...), or package.module:factory, a function that returns a torch module. The
    module takes images in [0, 1] and returns logits. Name at least two models.

    Attacks: FGSM without random start, and CE20, PGD with 20 steps from a random start. The diagonal is
    white-box. A black-box attack that beats the target's own white-box attack is a red flag of gradient
    masking. The numbers are not verified; use sweeps/evaluate.py for that.
    """
    from sweeps.engine.transfer.run import run_transfer

    return run_transfer(models, options)


if __name__ == "__main__":
    command(main)
