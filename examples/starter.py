"""A network, images and a recipe of your own in one file. Copy it, change it, and train and judge all three:

PYTHONPATH=examples uv run sweeps/eps_budget.py --model starter:net --dataset starter:images --recipe starter:recipe \\
    --eps-x 8/255 --eps 8/255 --steps 1 5 20 --seeds 0 --epochs 4 --batch-size 32 --verify 50 --output outputs/starter
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


def net(num_classes: int = 10, image_shape: tuple[int, int, int] = (1, 8, 8)) -> nn.Module:
    """A new network with random weights, which the trial's seed decides."""
    return Net(num_classes, image_shape[0])


def images() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Train and test, each uint8 (N, C, H, W) and labels int64 (N,): one to five bars, lying or upright."""
    return _bars(600, seed=0), _bars(200, seed=1)


def recipe(*, eps: float = 8 / 255, num_steps: int = 2, beta: float = 9.0) -> Recipe:
    """A few steps of PGD towards the most confusing class, and the adversarial label."""
    attack = PGD(eps=eps, step_size=eps / num_steps, num_steps=int(num_steps), target="mc")
    return Recipe(attack=attack, label=Adversarial(beta))


def _bars(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 100, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 10
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        places = torch.randperm(8, generator=generator)[: label // 2 + 1]
        if label % 2:
            picture[0, places] = 255
        else:
            picture[0, :, places] = 255
    return pictures, labels
