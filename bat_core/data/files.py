"""Images that stay in files and are decoded on demand, ahead of use, by worker processes."""

import functools
import hashlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bat_core.data.decoding import UnsupportedImage, decode_image, to_array
from bat_core.errors import InputError
from bat_core.rng import named_seed

if TYPE_CHECKING:
    from PIL.Image import Image
    from torchvision.transforms.v2 import Transform

CHUNK = 16  # images that a process decodes at a time
PREFETCH = 256  # images that are decoded ahead of use
NAMES_AT_ONCE = 10_000  # names that are Python objects at the same time: there may be a million
MAX_WORKERS = 8  # upper limit of the default number of processes


@dataclass(frozen=True)
class Crops:
    """Determines the random crops of one training epoch. An image's crop also depends on its file name."""

    seed: int
    epoch: int


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images uint8 (N, C, H, W), indexed by position like a tensor; only indexed images are decoded.

    `size` is the height and width of the crops; a pair (H, W) is the size that all files have, and they are not
    cropped. `channels` is 3, or 1 if all files are grey. `names` are paths relative to `root`, `class/file`, as a
    fixed-width bytes array: a list of strings would be copied into every process that reads it. `root` is absolute,
    because other processes have other working directories. `workers` processes decode (0: this process; None: one
    per torch thread, at most 8). Results do not depend on their number.
    """

    root: Path
    names: npt.NDArray[np.bytes_]
    size: int | tuple[int, int]
    workers: int | None = None
    channels: int = 3

    dtype = torch.uint8

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return len(self), self.channels, height, width

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
        digests = bytearray()
        for start in range(0, len(self), NAMES_AT_ONCE):
            for name in self.names[start : start + NAMES_AT_ONCE].tolist():
                digests += hashlib.sha256(name).digest()
        words = np.frombuffer(digests, dtype=">u8").reshape(len(self), 4)
        return torch.from_numpy(np.lexsort(words.T[::-1]))

    def batches(self, parts: Sequence[Tensor], crops: Crops | None = None) -> Iterator[Tensor]:
        """The images at each of `parts`, (len(part), C, H, W), one part after another.

        Args:
            parts: positions, (B,) int64 each.
            crops: random crops and flips for training; None: centre crops.
        Raises:
            InputError: a file is missing, empty, damaged or of an unsupported kind.
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
            worker_init_fn=_end_with_parent,
        )
        decoded = iter(loader)
        try:
            for part in parts:
                yield torch.cat([_unwrap(next(decoded)) for _ in part.split(CHUNK)])
        finally:
            del decoded  # ends the worker processes now, even if a traceback keeps this frame alive

    def decode(self, position: int, crops: Crops | None) -> Tensor:
        """One image, uint8 (C, H, W).

        Raises:
            InputError: the file is missing, empty, damaged or of an unsupported kind.
        """
        name = os.fsdecode(self.names[position])
        image = self._open(name)
        if not isinstance(self.size, int):
            if image.size != self.size[::-1]:
                sizes = f"is {image.height}x{image.width} and the others are {self.size[0]}x{self.size[1]}"
                raise InputError(f"{self.root / name} {sizes}: give --image-size")
            return torch.from_numpy(to_array(image))
        if crops is None:
            return cast(Tensor, center_crop(self.size)(image))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(named_seed(crops.seed, "crop", crops.epoch, name))
            return cast(Tensor, _random_crop(self.size)(image))

    def _open(self, name: str) -> "Image":
        path = self.root / name
        try:
            image = decode_image(path)
        except MemoryError:
            raise
        except UnsupportedImage as error:
            raise InputError(f"cannot decode {path}: {error}") from error
        except Exception as error:  # decoders raise many different exceptions on damaged files
            reason = getattr(error, "strerror", None) or "it is empty, truncated or not an image; replace or remove it"
            raise InputError(f"cannot decode {path}: {reason}") from error
        if self.channels == 1 and image.mode != "L":
            raise InputError(f"{path} is in colour and the other images are grey: convert it or remove it")
        return image.convert("RGB") if self.channels == 3 else image


def _end_with_parent(worker: int) -> None:  # noqa: ARG001
    """End this worker process of a loader as soon as the process that started it is gone.

    torch's own check compares with the parent that it finds when the loop begins: if that process was killed before,
    the worker would stay for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


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
def center_crop(size: int) -> "Transform":
    """The central 7/8 of the image, such as 224 of 256 pixels."""
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(round(size * 8 / 7)), v2.CenterCrop(size), v2.PILToTensor()])


@functools.cache
def _random_crop(size: int) -> "Transform":
    """A random crop of 8 % to 100 % of the image, mirrored with probability 1/2."""
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
