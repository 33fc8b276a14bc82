"""Images that stay in their files, and are decoded when they are asked for: ahead, by processes of their own."""

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

CHUNK = 16  # images that one process decodes at a time
PREFETCH = 256  # images that are decoded ahead of their use
MAX_WORKERS = 8  # that are started unless more are asked for
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what the decoders raise


@dataclass(frozen=True)
class Crops:
    """Names the random crops of one epoch of training. Those of an image follow from its file's name too."""

    seed: int
    epoch: int


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images uint8 (N, 3, size, size), indexed by positions as a tensor is; only what is indexed is decoded.

    `names` are paths below `root`, `class/file`, as bytes of equal length: a list of strings would be copied
    into every process that looks at it. `root` is absolute, as other processes stand elsewhere. `workers` processes
    decode (0: none but this one; None: as many as torch has threads, at most 8); results do not depend on their number.
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
        """The images at `positions`, in that order, not yet decoded."""
        return replace(self, names=self.names[positions if isinstance(positions, slice) else positions.numpy()])

    def canonical_order(self) -> Tensor:
        """Positions in the order of a hash of class and file name, (N,) int64.

        Hashing contents would read every file at each start; names are as good where they stay with their image.
        """
        keys = [hashlib.sha256(name).digest() for name in self.names.tolist()]
        return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__), dtype=torch.int64)

    def batches(self, parts: Sequence[Tensor], crops: Crops | None = None) -> Iterator[Tensor]:
        """The images at each of `parts`, (len(part), 3, size, size), one part after the other.

        Args:
            parts: positions, (B,) int64 each.
            crops: names random crops and flips, as in training; None: the middle of the image.
        Raises:
            InputError: a file is gone, empty or damaged.
        """
        chunks = (chunk.tolist() for part in parts for chunk in part.split(CHUNK))
        count = sum(len(part.split(CHUNK)) for part in parts)
        workers = 0 if count == 1 else min(default_workers() if self.workers is None else self.workers, count)
        loader = DataLoader(
            _Chunks(self, crops),
            batch_size=None,  # a chunk is a batch of its own
            sampler=chunks,
            num_workers=workers,
            prefetch_factor=max(PREFETCH // (CHUNK * workers), 2) if workers else None,
            generator=torch.Generator(),  # the loader would draw from torch's own
        )
        decoded = iter(loader)
        try:
            for part in parts:
                yield torch.cat([_unwrap(next(decoded)) for _ in part.split(CHUNK)])
        finally:
            del decoded  # ends its processes now, also where a traceback keeps this frame

    def decode(self, position: int, crops: Crops | None) -> Tensor:
        """One image, uint8 (3, size, size).

        Raises:
            InputError: its file is gone, empty or damaged.
        """
        name = os.fsdecode(self.names[position])
        try:
            with Image.open(self.root / name) as file:
                image = file.convert("RGB")
        except DECODE_ERRORS as error:
            reason = getattr(error, "strerror", None) or "it is empty, cut short or no image; replace or remove it"
            raise InputError(f"{self.root / name} cannot be decoded: {reason}") from error
        if crops is None:
            return _center_crop(self.size)(image)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(named_seed(crops.seed, "crop", crops.epoch, name))
            return _random_crop(self.size)(image)


class _Chunks(Dataset[Tensor | InputError]):
    """What a loader's processes do: decode some images."""

    def __init__(self, files: ImageFiles, crops: Crops | None) -> None:
        self.files, self.crops = files, crops

    def __getitem__(self, positions: list[int]) -> Tensor | InputError:
        images = torch.empty(len(positions), *self.files.shape[1:], dtype=self.files.dtype)
        try:
            for image, position in zip(images, positions, strict=True):
                image.copy_(self.files.decode(position, self.crops))
        except InputError as error:  # raised here it would come out with a traceback in its text
            return error
        return images


def _unwrap(chunk: Tensor | InputError) -> Tensor:
    if isinstance(chunk, InputError):
        raise chunk
    return chunk


def default_workers() -> int:
    """One process for each thread that torch was given here, at most 8."""
    return min(torch.get_num_threads(), MAX_WORKERS)


@functools.cache
def _center_crop(size: int) -> v2.Transform:
    """The middle 7/8 of the image, as 224 of 256 pixels."""
    return v2.Compose([v2.Resize(round(size * 8 / 7)), v2.CenterCrop(size), v2.PILToTensor()])


@functools.cache
def _random_crop(size: int) -> v2.Transform:
    """A crop of 8 % to 100 % of the image, mirrored with probability 1/2."""
    return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
