"""Measures accuracy under common corruptions: CIFAR-10-C, CIFAR-100-C, ImageNet-C, or made on the fly.

python sweeps/corruptions.py MODEL... --corrupted DIR/CIFAR-10-C --data-dir DIR      # the published images
python sweeps/corruptions.py MODEL... --dataset cifar10 --data-dir DIR               # made by a library
"""

from sweeps.engine.cli.app import command
from sweeps.engine.evaluation.corruption_options import CorruptionOptions


def main(*models: str, options: CorruptionOptions = CorruptionOptions()) -> int:
    """Report accuracy by corruption and severity, their mean, and the mean corruption error on ImageNet-C.

    MODEL is named as for evaluate. The clean images of the data set are needed too, because models are inspected
    on them and compared with them. This is no attack: a model can hold corruptions and fall to every attack.
    """
    from sweeps.engine.evaluation.corruption_job import run_corruptions

    return run_corruptions(models, options)


if __name__ == "__main__":
    command(main)
