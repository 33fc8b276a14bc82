"""Attacks in the L-infinity ball. A new file here that registers a class is a new attack."""

from bat_core.attacks.base import ATTACKS, Attack, LogitsFn, Target
from bat_core.attacks.fgsm import FGSM, fgsm
from bat_core.attacks.pgd import PGD, Iterate, pgd

__all__ = ["ATTACKS", "FGSM", "PGD", "Attack", "Iterate", "LogitsFn", "Target", "fgsm", "pgd"]
