"""Attacks in the L-infinity and L2 balls. A new file that registers a class here adds an attack."""

from bat_core.attacks.apgd import APGD
from bat_core.attacks.autoattack import AutoAttack
from bat_core.attacks.base import ATTACKS, Attack, Iterate, LogitsFn, Problem, Target
from bat_core.attacks.fgsm import FGSM, fgsm
from bat_core.attacks.gradient import GradientAttack
from bat_core.attacks.ladder import Ladder
from bat_core.attacks.noise import Noise
from bat_core.attacks.pgd import PGD, pgd
from bat_core.attacks.square import Square
from bat_core.attacks.transfer import Transfer

__all__ = [
    "APGD",
    "ATTACKS",
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "GradientAttack",
    "Iterate",
    "Ladder",
    "LogitsFn",
    "Noise",
    "Problem",
    "Square",
    "Target",
    "Transfer",
    "fgsm",
    "pgd",
]
