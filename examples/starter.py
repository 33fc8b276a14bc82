"""A network, images and a recipe of your own in one file. Train and judge them, in this file's folder:

python -m sweeps.eps_budget --model starter:net --recipe starter:recipe --eps-x 40/255 --reference none --seeds 0
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bat_core.attacks import PGD
from bat_core.recipes import Adversarial, Recipe


class Net(nn.Module):
    """Takes images (B, C, H, W) in [0, 1], normalises them itself, and returns logits (B, num_classes)."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(4, 32)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        x = F.relu(self.conv1((x - 0.5) / 0.25))
        x = F.relu(self.norm(self.conv2(x)))
        return self.head(x.mean((2, 3)))


def net(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """A new network with random weights. The trial's seed decides them."""
    return Net(num_classes, image_shape[0])


def recipe(*, eps: float = 8 / 255, num_steps: int = 2, beta: float = 9.0) -> Recipe:
    """PGD with a few steps towards the most confusing class, and the adversarial label."""
    attack = PGD(eps=eps, step_size=eps / num_steps, num_steps=num_steps, target="mc")
    return Recipe(attack=attack, label=Adversarial(beta))
