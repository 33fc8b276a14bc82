"""Measures how robust any classifier is under attack, and whether the number can be trusted.

python sweeps/evaluate.py outputs/eps_budget-digits-.../trials/eps8-seed0             # one model
python sweeps/evaluate.py outputs/eps_budget-digits-... --suite standard              # a whole sweep, AutoAttack
python sweeps/evaluate.py MODEL --threat linf:8/255 l2:0.5                             # both, and their union
python sweeps/evaluate.py my_package.nets:robust_net --weights net.safetensors --dataset cifar10 --data-dir DIR
"""

from sweeps.engine.cli.app import command
from sweeps.engine.evaluation.options import EvaluateOptions


def main(*models: str, options: EvaluateOptions = EvaluateOptions()) -> int:
    """Attack models and report the per-example worst case with its interval, and check for gradient masking.

    MODEL is the folder of a model, checkpoint, trial or sweep (all of its trials), an MLflow URI
    (models:/..., runs:/...), or package.module:factory, a function that returns a torch module. The
    module takes images in [0, 1] and returns logits.

    Suites: paper (FGSM, CE7, CE20, CE100, CW20, CW100, CW200), curve (both losses to 1000 steps), fast (a ladder of
    short searches), quick (APGD-CE and APGD-T, on 1,000 images), standard (AutoAttack, on all); join several with +.
    Several models: --find-best. An interval for standard at a fraction of its cost: --survivors.
    """
    from sweeps.engine.evaluation.run import run_evaluation

    if options.threat:
        from sweeps.engine.evaluation.threats import run_threats

        return run_threats(models, options)
    return run_evaluation(models, options)


if __name__ == "__main__":
    command(main)
