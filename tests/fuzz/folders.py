"""Valid folders, and one change in a copy: what a stranger may have packed in place of a sweep or an evaluation."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fuzz.mutations import spoilt_bytes, spoilt_value

HUGE = 1 << 40  # bytes of a file that takes no room on the disk


def copy_of(folder: Path, target: Path) -> Path:
    """A copy that belongs to nobody's marks: as if it had been unpacked."""
    shutil.copytree(folder, target)
    return target


def change(folder: Path, outside: Path, draw: random.Random) -> str:
    """Change one thing in a folder. `outside` has files and folders that must stay as they are. Returns what it was."""
    name = draw.choice([*CHANGES])
    return f"{name}: {CHANGES[name](folder, outside, draw)}"


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file() and not path.name.startswith("."))


def _any(folder: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(path for path in folder.rglob("*") if not path.name.startswith(".")))


def _paths(outside: Path) -> list[str]:
    """Names that lead out of a folder."""
    up = f"../{outside.name}"
    return [
        *(
            "../escaped",
            "../../escaped",
            "../../../escaped",
            "..",
            ".",
            "/",
            "a/../../../escaped",
            "a\\..\\..\\escaped",
        ),
        *(str(outside / "file.txt"), str(outside / "new"), f"{up}/file.txt", f"../{up}/file.txt", "C:\\escaped", "NUL"),
        *((outside / "store").as_uri(), "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http", "file:///proc/x"),
    ]


def _value(folder: Path, outside: Path, draw: random.Random) -> str:
    path = draw.choice([*_files(folder, "*.json"), *_files(folder, "*.jsonl")])
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = draw.randrange(len(lines))
    content = json.loads(lines[number])
    if draw.randrange(2):
        content = spoilt_value(content, draw)
    else:
        holders = [holder for holder in _holders(content) if holder]
        holder = draw.choice(holders)
        key = draw.choice([*holder] if isinstance(holder, dict) else range(len(holder)))
        holder[key] = draw.choice(_paths(outside))
    try:
        lines[number] = json.dumps(content)
    except (ValueError, RecursionError):  # a value that JSON cannot hold
        lines[number] = "[" * 100_000
    path.write_text("\n".join(lines) + "\n", errors="surrogatepass")
    return f"{path.relative_to(folder)} line {number}"


def _holders(content: object) -> Iterator[dict | list]:
    if isinstance(content, dict | list):
        yield content
        for item in content.values() if isinstance(content, dict) else content:
            yield from _holders(item)


def _bytes(folder: Path, outside: Path, draw: random.Random) -> str:
    path = draw.choice(_files(folder))
    path.write_bytes(spoilt_bytes(path.read_bytes(), draw))
    return str(path.relative_to(folder))


def _link(folder: Path, outside: Path, draw: random.Random) -> str:
    path = _any(folder, draw)
    is_folder = path.is_dir()
    _remove(path)
    targets = [outside / ("folder" if is_folder else "file.txt"), outside / "missing", path, Path("/dev/zero")]
    target = draw.choice([targets[0], *targets])
    path.symlink_to(target)
    return f"{path.relative_to(folder)} -> {target}"


def _partial_link(folder: Path, outside: Path, draw: random.Random) -> str:
    """A link where a temporary file or a lock would be made."""
    path = _any(folder, draw)
    forms = (f".{path.name}.partial", ".lock", f".{path.name}.lock", ".marks.json", f"{path.name}.tmp", "record.jsonl")
    names = (path.with_name(name) for name in (*forms, "table.md", "table.csv", "figure_1.csv", "report.md", "probes"))
    link = draw.choice(list(names))
    _remove(link)
    link.symlink_to(outside / draw.choice(("file.txt", "folder", "missing")))
    return str(link.relative_to(folder))


def _hard_link(folder: Path, outside: Path, draw: random.Random) -> str:
    path = draw.choice([*_files(folder), folder / ".lock"])
    _remove(path)
    os.link(outside / "file.txt", path)
    return str(path.relative_to(folder))


def _fifo(folder: Path, outside: Path, draw: random.Random) -> str:
    path = draw.choice([*_files(folder), folder / ".lock", folder / ".marks.json"])
    _remove(path)
    os.mkfifo(path)
    return str(path.relative_to(folder))


def _huge(folder: Path, outside: Path, draw: random.Random) -> str:
    path = draw.choice(_files(folder))
    if draw.randrange(2):
        path.write_bytes(b"")
    os.truncate(path, HUGE)
    return str(path.relative_to(folder))


def _deep(folder: Path, outside: Path, draw: random.Random) -> str:
    path = draw.choice([*_files(folder, "*.json"), *_files(folder, "*.jsonl")])
    path.write_text(draw.choice(("[", '{"a":')) * 200_000)
    return str(path.relative_to(folder))


def _not_utf8(folder: Path, outside: Path, draw: random.Random) -> str:
    path = draw.choice(_files(folder, "*.json*"))
    content = path.read_bytes()
    place = draw.randrange(len(content))
    path.write_bytes(content[:place] + draw.choice((b"\xff\xfe", b"\xed\xa0\x80", b"\0")) + content[place:])
    return str(path.relative_to(folder))


def _rename(folder: Path, outside: Path, draw: random.Random) -> str:
    path = _any(folder, draw)
    new = path.with_name(draw.choice(("x", "a b", "NUL", "-rf", "ü", "a\\b", "x" * 200, "a\nb", f"{path.name}.json")))
    if not new.exists():
        path.rename(new)
    return f"{path.relative_to(folder)} to {new.name[:20]!r}"


def _gone(folder: Path, outside: Path, draw: random.Random) -> str:
    path = _any(folder, draw)
    _remove(path)
    return str(path.relative_to(folder))


def _other_kind(folder: Path, outside: Path, draw: random.Random) -> str:
    path = _any(folder, draw)
    was_folder = path.is_dir()
    _remove(path)
    if was_folder:
        path.write_text("not a folder")
    else:
        path.mkdir()
        (path / "x").write_text("")
    return str(path.relative_to(folder))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


CHANGES: dict[str, Callable[[Path, Path, random.Random], str]] = {
    "a value": _value,
    "another value": _value,
    "a value again": _value,
    "bytes": _bytes,
    "a link": _link,
    "a link in a temporary place": _partial_link,
    "a hard link": _hard_link,
    "a FIFO": _fifo,
    "a huge file": _huge,
    "deep nesting": _deep,
    "bad UTF-8": _not_utf8,
    "a name": _rename,
    "nothing": _gone,
    "another kind": _other_kind,
}


def state(folder: Path) -> dict[str, object]:
    """All that is in a folder, with the content and permissions of files, without following links."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (status.st_mode, content)
    return found
