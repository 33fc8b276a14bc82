"""A network of a person's own, as tests of evaluations write it into the working folder, and how it is evaluated."""

NETS = '''
"""Digits by ridge regression: the same each time it is made."""

import torch
import torch.nn.functional as F
from torch import nn

from bat_core.data import load_dataset, to_unit


class Ridge(nn.Module):
    def __init__(self):
        super().__init__()
        train = load_dataset("digits").train
        x, y = to_unit(train.images).flatten(1).double(), F.one_hot(train.labels, 10).double()
        self.weight = nn.Parameter(torch.linalg.solve(x.T @ x + torch.eye(64), x.T @ y).float())

    def forward(self, x):
        return 10 * x.flatten(1) @ self.weight


def ridge():
    return Ridge().eval()
'''
SETTINGS = ("--dataset", "digits", "--suite", "paper", "--gpus-per-worker", "0")
