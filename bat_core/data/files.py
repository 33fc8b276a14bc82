"""Images that stay in files and are decoded on demand, ahead of use, by worker processes."""

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from bat_core.errors import InputError
from bat_core.rng import named_seed

CHUNK = 16  # images that a process decodes at a time
PREFETCH = 256  # images that are decoded ahead of use
MAX_WORKERS = 8  # upper limit of the default number of processes
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # exceptions of Pillow's decoders


@dataclass(frozen=True)
class Crops:
    """Determines the random crops of one training epoch. An image's crop also depends on its file name."""

    seed: int
    epoch: int


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images uint8 (N, 3, size, size), indexed by position like a tensor; only indexed images are decoded.

    `names` are paths relative to `root`, `class/file`, as a fixed-width bytes array: a list of strings would be
    copied into every process that reads it. `root` is absolute, because other processes have other working
    directories. `workers` processes decode (0: this process; None: one per torch thread, at most 8). Results do not
    depend on their number.
    """

    root: Path
    names: npt.NDArray[np.bytes_]
    size: int
    workers: int | None = None

    dtype = torch.uint8

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, size, size)."""
        return len(self), 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, positions: Tensor | slice) -> Tensor:
        (images,) = self.batches([torch.arange(len(self))[positions]])
        return images

    def take(self, positions: Tensor | slice) -> "ImageFiles":
        """The images at `positions`, in that order, not decoded."""
        return replace(self, names=self.names[positions if isinstance(positions, slice) else positions.numpy()])

    def canonical_order(self) -> Tensor:
        """Positions sorted by a hash of class and file name, (N,) int64.

        Hashing contents would read every file at each start. Names serve as well if files are not renamed.
        """
        keys = [hashlib.sha256(name).digest() for name in self.names.tolist()]
        return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__), dtype=torch.int64)

    def batches(self, parts: Sequence[Tensor], crops: Crops | None = None) -> Iterator[Tensor]:
        """The images at each of `parts`, (len(part), 3, size, size), one part after another.

        Args:
            parts: positions, (B,) int64 each.
            crops: random crops and flips for training; None: centre crops.
        Raises:
            InputError: a file is missing, empty or damaged.
        """
        chunks = (chunk.tolist() for part in parts for chunk in part.split(CHUNK))
        count = sum(len(part.split(CHUNK)) for part in parts)
        workers = 0 if count == 1 else min(default_workers() if self.workers is None else self.workers, count)
        loader = DataLoader(
            _Chunks(self, crops),
            batch_size=None,  # each item is already a chunk
            sampler=chunks,
            num_workers=workers,
            prefetch_factor=max(PREFETCH // (CHUNK * workers), 2) if workers else None,
            generator=torch.Generator(),  # keeps the loader from advancing torch's global generator
        )
        decoded = iter(loader)
        try:
            for part in parts:
                yield torch.cat([_unwrap(next(decoded)) for _ in part.split(CHUNK)])
        finally:
            del decoded  # ends the worker processes now, even if a traceback keeps this frame alive

    def decode(self, position: int, crops: Crops | None) -> Tensor:
        """One image, uint8 (3, size, size).

        Raises:
            InputError: the file is missing, empty or damaged.
        """
        name = os.fsdecode(self.names[position])
        try:
            with Image.open(self.root / name) as file:
                image = file.convert("RGB")
        except DECODE_ERRORS as error:
            reason = getattr(error, "strerror", None) or "it is empty, truncated or not an image; replace or remove it"
            raise InputError(f"cannot decode {self.root / name}: {reason}") from error
        if crops is None:
            return _center_crop(self.size)(image)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(named_seed(crops.seed, "crop", crops.epoch, name))
            return _random_crop(self.size)(image)


class _Chunks(Dataset[Tensor | InputError]):
    """The data set that the loader's processes see: an item is a chunk of decoded images."""

    def __init__(self, files: ImageFiles, crops: Crops | None) -> None:
        self.files, self.crops = files, crops

    def __getitem__(self, positions: list[int]) -> Tensor | InputError:
        images = torch.empty(len(positions), *self.files.shape[1:], dtype=self.files.dtype)
        try:
            for image, position in zip(images, positions, strict=True):
                image.copy_(self.files.decode(position, self.crops))
        except InputError as error:  # returned, because the loader would add a traceback to a raised error's text
            return error
        return images


def _unwrap(chunk: Tensor | InputError) -> Tensor:
    if isinstance(chunk, InputError):
        raise chunk
    return chunk


def default_workers() -> int:
    """One process per torch thread, at most 8."""
    return min(torch.get_num_threads(), MAX_WORKERS)


@functools.cache
def _center_crop(size: int) -> v2.Transform:
    """The central 7/8 of the image, such as 224 of 256 pixels."""
    return v2.Compose([v2.Resize(round(size * 8 / 7)), v2.CenterCrop(size), v2.PILToTensor()])


@functools.cache
def _random_crop(size: int) -> v2.Transform:
    """A random crop of 8 % to 100 % of the image, mirrored with probability 1/2."""
    return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
