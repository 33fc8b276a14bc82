"""Makes `robust_digits.safetensors`: a network that stands on about half of 100 test digits at 40/255.

python tests/stored/robust_digits.py

What comes out differs from processor to processor by more than tests can allow for, so tests read the file.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from bat_core.data import load_dataset, to_unit
from bat_core.models import build_model

FILE = Path(__file__).with_suffix(".safetensors")
EPS = 40 / 255


def crafted(model: nn.Module, x: Tensor, y: Tensor, *, steps: int) -> Tensor:
    """PGD, written out in torch."""
    x_adv = (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        offset = (x_adv.detach() + 2 * EPS / steps * gradient.sign() - x).clamp(-EPS, EPS)
        x_adv = (x + offset).clamp(0, 1)
    return x_adv


def train(*, seed: int = 0, epochs: int = 10, batch_size: int = 50, steps: int = 2) -> nn.Module:
    train = load_dataset("digits", train_size=1000, val_size=32, test_size=100).train
    x, y = to_unit(train.images), train.labels
    torch.manual_seed(seed)
    model = build_model("small_cnn_8", num_classes=10, image_shape=(1, 8, 8))
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=epochs * len(x) // batch_size)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch_size):
            loss = F.cross_entropy(model(crafted(model, x[rows], y[rows], steps=steps)), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


if __name__ == "__main__":
    save_file({name: tensor.contiguous() for name, tensor in train().state_dict().items()}, FILE)
