"""Square Attack's proposals in L2: bumps at random windows, paid for with the change in another window.

Source: Andriushchenko et al. 2020, arXiv:1912.00049, algorithm 3 and section 3.4.
"""

import functools

import torch
from torch import Tensor

from bat_core.threat import LpBall

TILES = 5  # the start has this many bumps along the shorter side
SMALLEST = 3  # side of a window
TINY = 1e-12  # keeps a division by the length of no change finite


def start_numbers(channels: int, height: int, width: int) -> int:
    """How many random numbers `start` takes per image: a transposition and signs for each tile."""
    _, down, across = _tiling(height, width)
    return down * across * (1 + channels)


def step_numbers(channels: int) -> int:
    """How many random numbers `propose` takes per image: two positions, a transposition and signs."""
    return 5 + channels


def start(ball: LpBall, numbers: Tensor) -> Tensor:
    """Images at the edge of the ball: a tiling of bumps with random signs. `numbers` (M, .) are in [0, 1)."""
    count, channels, height, width = ball.x.shape
    side, down, across = _tiling(height, width)
    tiles = numbers.view(count, down, across, 1 + channels)
    bump = _turned(side, tiles[..., 0], ball.x)
    signs = torch.where(tiles[..., 1:] < 0.5, -1.0, 1.0).to(ball.x.dtype)
    whole = (bump[..., None, :, :] * signs[..., None, None]).permute(0, 3, 1, 4, 2, 5)
    delta = torch.zeros_like(ball.x)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta[:, :, top : top + down * side, left : left + across * side] = whole.reshape(
        count, channels, down * side, across * side
    )
    return _at_edge(ball, delta)


def propose(ball: LpBall, x: Tensor, numbers: Tensor, side: int) -> Tensor:
    """x (M, C, H, W) with one window's change replaced by a bump, and the change in another window undone for it."""
    channels, height, width = x.shape[1:]
    side = odd_side(side, height, width)
    delta = x - ball.x
    here, rows, columns = _window(numbers[:, 0], numbers[:, 1], side, x)
    there, _, _ = _window(numbers[:, 2], numbers[:, 3], side, x)
    bump = _turned(side, numbers[:, 4], x)
    place = bump[torch.arange(len(x), device=x.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    signs = torch.where(numbers[:, 5:] < 0.5, -1.0, 1.0).to(x.dtype)[:, :, None, None]
    old = delta * here
    new = place[:, None] * here * signs + old / (_length(old, (2, 3)) + TINY)
    unused = (ball.eps**2 - _length(delta, (1, 2, 3)).square()).clamp(min=0) / channels
    worth = (unused + _length(delta * (here | there), (2, 3)).square()).sqrt()
    new = new / (_length(new, (2, 3)) + TINY) * worth
    return _at_edge(ball, torch.where(here, new, torch.where(there, 0.0, delta)))


def odd_side(side: int, height: int, width: int) -> int:
    """The side of a window: odd, and from 3 pixels on, where the image has as many."""
    side = max(side, SMALLEST) | 1
    most = min(height, width)
    return side if side <= most else most - (most % 2 == 0)


def bump_of(side: int) -> Tensor:
    """(side, side) float64 of length 1: a bump above a negative one, each of rings that fall off from its centre."""
    half = side // 2
    whole = torch.cat([_rings(half, side), -_rings(side - half, side)])
    return whole / torch.linalg.vector_norm(whole).clamp(min=TINY)


@functools.lru_cache(maxsize=64)
def _bump(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return bump_of(side).to(device, dtype)


def _rings(height: int, width: int) -> Tensor:
    """(height, width): nested rectangles around the centre, the n-th of weight 1 / n^2, of length 1 together."""
    rings = torch.zeros(height, width, dtype=torch.float64)
    row, column = height // 2, width // 2
    for ring in range(max(row, column) + 1):
        rows, columns = slice(max(row - ring, 0), row + ring + 1), slice(max(column - ring, 0), column + ring + 1)
        rings[rows, columns] += 1 / (ring + 1) ** 2
    return rings / torch.linalg.vector_norm(rings).clamp(min=TINY)


def _tiling(height: int, width: int) -> tuple[int, int, int]:
    """Side of a tile, and how many there are down and across."""
    side = max(min(height, width) // TILES, 1)
    return side, height // side, width // side


def _turned(side: int, numbers: Tensor, like: Tensor) -> Tensor:
    """Bumps (..., side, side), transposed where the random number is below a half."""
    bump = _bump(side, like.dtype, like.device)
    return torch.where((numbers < 0.5)[..., None, None], bump.T, bump)


def _window(top: Tensor, left: Tensor, side: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A mask (M, 1, H, W) of windows at random places, and the rows (M, H) and columns (M, W) within them."""
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device) - (top * (height - side + 1)).long()[:, None]
    columns = torch.arange(width, device=x.device) - (left * (width - side + 1)).long()[:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    return inside[:, None], rows.clamp(0, side - 1), columns.clamp(0, side - 1)


def _length(delta: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(delta, dim=dims, keepdim=True)


def _at_edge(ball: LpBall, delta: Tensor) -> Tensor:
    return ball.step(ball.x, delta, ball.eps)
