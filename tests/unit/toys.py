"""Models and images simple enough that the right answer is known."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Logits are `weight` (K, D) times the flattened image: its strongest L-inf attack is a corner of the ball."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Altered(nn.Module):
    """A sound model, with something done to its images or its logits."""

    def __init__(self, model, before=lambda x: x, after=lambda logits: logits):
        super().__init__()
        self.inner, self.before, self.after = model, before, after

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def classes(count: int, num_classes: int, seed: int = 0) -> Tensor:
    return torch.randint(num_classes, (count,), generator=torch.Generator().manual_seed(seed))


def small_net(num_classes: int = 5, *, seed: int = 0) -> nn.Module:
    """A smooth convolutional network in float64, so that no rounding can flip a gradient's sign."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(6, 8, 3, stride=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(8 * 9, num_classes),
        )
    return net.double().eval()
