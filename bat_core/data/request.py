"""What a user asks a data set's loader for, and where the files are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bat_core.errors import InputError

NO_DATA = {"__MACOSX", "@eaDir", "lost+found"}  # folders that archives and file systems leave behind


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's request to a loader: the folder `data_dir`, and whether to download into it.

    `image_size` (height and width) and `workers` (number of decoding processes) apply to images in files,
    `image_column` and `label_column` to Parquet files.
    """

    name: str
    data_dir: Path | None
    download: bool = False
    image_size: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    workers: int | None = None

    def require_dir(self, *, downloadable: bool = True) -> Path:
        """The folder, after checking that it exists and is not empty, or may be downloaded into.

        Raises:
            InputError: no folder was given, it is missing or empty, or the data set cannot be downloaded.
        """
        if self.data_dir is None:
            raise InputError(f"data set {self.name!r} is read from a folder: give it with --data-dir DIR")
        if self.download and not downloadable:
            raise InputError(f"data set {self.name!r} does not support --download: give a folder that contains it")
        if self.download:
            return self.data_dir
        remedy = ", or add --download" if downloadable else ""
        if not self.data_dir.is_dir():
            raise InputError(f"data folder {str(self.data_dir)!r} does not exist: give an existing one{remedy}")
        if not any(self.data_dir.iterdir()):
            raise InputError(f"data folder {str(self.data_dir)!r} is empty: give one that contains {self.name}{remedy}")
        return self.data_dir

    def refuse_columns(self) -> None:
        """Check that no columns were named, because the data are not in Parquet files.

        Raises:
            InputError: one was.
        """
        for option, column in (("--image-column", self.image_column), ("--label-column", self.label_column)):
            if column is not None:
                raise InputError(
                    f"{option}={column!r}: data set {self.name!r} is not read from Parquet files here: omit {option}"
                )


def is_hidden(name: str) -> bool:
    """Whether a folder of this name holds no data: hidden, or left behind by an archive or a file system."""
    return name.startswith(".") or name in NO_DATA


def locate(folder: Path, fits: Callable[[Path], bool], *, name: str = "") -> Path | None:
    """`folder` if it fits, else the one folder in it that does; None if there is none.

    Args:
        name: the data set; where several folders fit, the one of this name is taken.
    Raises:
        InputError: several fit.
    """
    if fits(folder):
        return folder
    if not folder.is_dir():
        return None
    found = sorted(child for child in folder.iterdir() if not is_hidden(child.name) and _is_folder(child, fits))
    named = [child for child in found if child.name == name]
    if len(chosen := named or found) > 1:
        raise InputError(
            f"{folder} has {chosen[0].name}/ and {chosen[1].name}/, and both fit: give one of them with --data-dir"
        )
    return chosen[0] if chosen else None


def _is_folder(path: Path, fits: Callable[[Path], bool]) -> bool:
    try:
        return path.is_dir() and fits(path)
    except PermissionError:
        return False
