"""Every call that makes, replaces, removes or opens a file is in `bat_core/paths.py`, or is listed here with a reason.

The functions there take a `Rooted` path, which mypy checks, and only `below` and `chosen` make one.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOM = "bat_core/paths.py"
CALLS = {
    *(
        "open",
        "fdopen",
        "write_text",
        "write_bytes",
        "mkdir",
        "makedirs",
        "touch",
        "rename",
        "unlink",
        "rmdir",
        "chmod",
    ),
    *("symlink_to", "hardlink_to", "link", "symlink", "rmtree", "copytree", "copyfile", "copy2", "copy_files", "move"),
    "chmod",
    *("truncate", "removedirs", "mkfifo", "read_bytes", "read_text", "open_input_file", "open_input_stream"),
    *(
        "open_output_stream",
        "open_append_stream",
        "create_dir",
        "delete_dir",
        "delete_file",
        "read_table",
        "write_table",
    ),
    *("ParquetFile", "ParquetWriter", "load_file", "save_file", "safe_open", "savefig", "to_csv", "write_html"),
    *("NamedTemporaryFile", "TemporaryDirectory", "mkdtemp", "mkstemp", "extractall", "urlretrieve"),
    *("download_and_extract_archive", "download_artifacts", "copyfileobj"),
}
STREAM = "a stream that another function opened; members are regular files, whose paths `below` makes"
MEMORY, READS = "into or from memory", "reads a regular file, and never a pickle"
PUBLISHED = "a published archive, whose digest is checked, into the --data-dir that the user named"
ALLOWED = {  # (file, call): why its path is safe
    ("bat_core/adapter/state_dicts.py", "path.open('rb')"): "reads the file that --weights names",
    ("bat_core/adapter/state_dicts.py", "load_file(path)"): "reads the file that --weights names",
    ("bat_core/checkpoint.py", "load_file(path)"): READS,
    ("bat_core/checkpoint.py", "save_file(tensors, path)"): "a Rooted path that `make_private` has just created",
    ("bat_core/data/decoding.py", "Image.open(source, formats=FORMATS)"): READS,
    ("bat_core/data/mnist.py", "gzip.open(path)"): "reads the user's --data-dir",
    ("bat_core/data/mnist.py", "tempfile.NamedTemporaryFile()"): "new and private: the images unpacked",
    (
        "bat_core/data/mnist.py",
        "download_and_extract_archive(f'{mirror}{name}', str(raw), filename=name, md5=md5)",
    ): PUBLISHED,
    (
        "bat_core/data/parquet.py",
        "pq.read_table(path, partitioning=None, columns=[columns.image, columns.label])",
    ): "reads a file that `check_regular` has just seen",
    (
        "bat_core/data/records.py",
        "download_and_extract_archive(self.url, str(folder), filename=self.archive, md5=md5)",
    ): PUBLISHED,
    ("bat_core/data/records.py", "path.read_bytes()"): "reads the user's --data-dir",
    ("bat_core/data/tiny_imagenet.py", "annotations.read_text(encoding='utf-8')"): "reads the user's --data-dir",
    (
        "bat_core/data/tiny_imagenet.py",
        "(folder / 'wnids.txt').read_text(encoding='utf-8')",
    ): "reads the user's --data-dir",
    ("bat_core/memory.py", "(CGROUP / name).read_text()"): "a file of the system",
    ("bat_core/memory.py", "MEMINFO.read_text()"): "a file of the system",
    ("bat_core/user_modules.py", "file.read_bytes()"): "reads the user's own modules, to compare them",
    ("bat_core/verdicts.py", "pq.read_table(check_regular(path), partitioning=None)"): READS,
    ("bat_core/verdicts.py", "pq.write_table(table, content)"): MEMORY,
    ("sweeps/engine/cli/app.py", "os.fdopen(number, mode, closefd=False)"): "a standard stream",
    ("sweeps/engine/cli/app.py", "os.open(os.devnull, os.O_RDWR)"): "a standard stream",
    ("sweeps/engine/ray_backend/start.py", "folder.rmdir()"): "a folder that it has just made",
    ("sweeps/engine/ray_backend/start.py", "tempfile.mkdtemp(prefix='ray-', dir=place)"): "new, private, named here",
    ("sweeps/engine/cli/plotting.py", "figure.savefig(content, format=suffix[1:], dpi=160, metadata=metadata)"): MEMORY,
    ("sweeps/engine/driver/model_queries.py", "pq.write_table(pa.table(dict(columns)), content)"): MEMORY,
    (
        "sweeps/engine/driver/model_queries.py",
        "pq.read_table(check_regular(self._path(name)), columns=list(columns), partitioning=None)",
    ): READS,
    ("sweeps/engine/evaluation/shard_files.py", "pq.ParquetFile(check_regular(path))"): READS,
    (
        "sweeps/engine/evaluation/shard_files.py",
        "pq.ParquetWriter(self._open.enter_context(atomic_file(self.path)), table.schema)",
    ): "a file that `atomic_file` opened",
    ("sweeps/engine/evaluation/shard_files.py", "self.writer.write_table(table)"): "a file that `atomic_file` opened",
    (
        "sweeps/engine/search/plots/static.py",
        "figure.savefig(content, format='png', dpi=160, metadata={'Software': None})",
    ): MEMORY,
    ("sweeps/engine/storage/marks.py", "new.unlink()"): "the new key, beside the user's key",
    ("sweeps/engine/storage/marks.py", "os.link(new, path)"): "the user's key, which must not replace another's",
    (
        "sweeps/engine/storage/object_store.py",
        "shutil.copyfileobj(file, out, CHUNK)",
    ): "a file that `atomic_file` opened",
    ("sweeps/engine/storage/object_store.py", "system.delete_dir(path)"): "a key in the user's bucket",
    ("sweeps/engine/storage/object_store.py", "system.delete_file(path)"): "a key in the user's bucket",
    ("sweeps/engine/storage/object_store.py", "system.open_input_stream(path)"): "a key in the user's bucket",
    ("sweeps/engine/storage/object_store.py", "system.open_output_stream(path)"): "a key in the user's bucket",
    (
        "sweeps/engine/sweep/packed.py",
        "tarfile.open(fileobj=out, mode='w|', bufsize=CHUNK, format=tarfile.GNU_FORMAT)",
    ): STREAM,
    ("sweeps/engine/sweep/packed.py", "tarfile.open(fileobj=io.BytesIO(content), mode='r|')"): STREAM,
    ("sweeps/engine/sweep/packed.py", "tarfile.open(fileobj=file, mode='r|', bufsize=CHUNK)"): STREAM,
    ("sweeps/engine/sweep/packed.py", "shutil.copyfileobj(content, out, CHUNK)"): "a file that `atomic_file` opened",
    ("sweeps/engine/sweep/records.py", "file.truncate(end)"): "a file that `append_to` opened",
    (
        "sweeps/engine/tracking/artifacts.py",
        "mlflow.artifacts.download_artifacts(artifact_uri=at, dst_path=str(own))",
    ): "into a Rooted folder, after `_check_names` has checked every name that the server lists",
    (
        "sweeps/engine/tracking/models.py",
        "tempfile.TemporaryDirectory()",
    ): "new and private: MLflow's form of a model",
    ("sweeps/engine/tracking/sync.py", "tempfile.TemporaryDirectory()"): "new and private: a table and a preview",
    ("sweeps/engine/tracking/trial_run.py", "tempfile.TemporaryDirectory()"): "new and private: a picture",
    ("sweeps/engine/tracking/pictures.py", "Image.open(io.BytesIO(figure))"): MEMORY,
    (
        "sweeps/engine/tracking/pictures.py",
        "figure.savefig(content, format='png', dpi=110, metadata={'Software': None})",
    ): MEMORY,
    ("sweeps/engine/transfer/craft.py", "pq.read_table(check_regular(path))"): READS,
    ("sweeps/engine/transfer/craft.py", "pq.write_table(pa.table(columns), content)"): MEMORY,
}
PARENTS = {  # files that take the folder of a path that is Rooted itself
    *("bat_core/checkpoint.py", "sweeps/engine/driver/model_queries.py", "sweeps/engine/storage/locks.py"),
    *("sweeps/engine/storage/object_store.py", "sweeps/engine/transfer/craft.py"),
    "sweeps/engine/tracking/location.py",
}
CHOSEN = {  # (file, path): why it does not come from a file
    ("sweeps/engine/evaluation/leaderboard.py", "path.absolute()"): "--csv or --html",
    ("sweeps/engine/evaluation/spec.py", "folder"): "--output",
    ("sweeps/engine/evaluation/threats.py", "path"): "--output",
    ("sweeps/engine/storage/undo.py", "path"): "an entry of a folder that this process has made",
    ("sweeps/engine/storage/marks.py", "key_file()"): "the user's own key",
    ("sweeps/engine/storage/marks.py", "path.parent"): "the user's own key",
    (
        "sweeps/engine/storage/object_store.py",
        "Path(root)",
    ): "--storage-path, or what the user's mark vouches for",
    ("sweeps/engine/sweep/folder.py", "self.path"): "--output, or the folder that --resume names",
    ("sweeps/engine/tracking/artifacts.py", "folder"): "beside --output",
    (
        "sweeps/engine/storage/files.py",
        "Path(tempfile.gettempdir()) / f'bat-sweeps-{os.getuid()}'",
    ): "this user's cache",
    ("sweeps/engine/storage/files.py", "folder"): "the cache",
    ("sweeps/engine/storage/undo.py", "folder"): "--output, which this process made",
    ("sweeps/engine/tracking/location.py", "Path(path).resolve()"): "MLFLOW_TRACKING_URI",
}


def sources() -> list[Path]:
    return sorted(path for folder in ("bat_core", "search_spaces", "sweeps") for path in (ROOT / folder).rglob("*.py"))


def calls(path: Path) -> Iterator[str]:
    """The calls by these names, and one-argument `replace`, which renames a file; text has two arguments there."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        renames = (
            name == "replace" and isinstance(node.func, ast.Attribute) and len(node.args) == 1 and not node.keywords
        )
        if name in CALLS or renames:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_opened_in_one_place(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name == ROOM:
        return
    unknown = [call for call in calls(path) if (name, call) not in ALLOWED]
    assert not unknown, f"use bat_core.paths, or say in ALLOWED why the path is safe: {unknown}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_rooted_path_is_made_in_one_place(path: Path) -> None:
    """Elsewhere it is `chosen` by the user, or the folder of another one."""
    name = str(path.relative_to(ROOT))
    if name == ROOM:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id == "Rooted":
            (argument,) = node.args
            assert isinstance(argument, ast.Attribute), ast.unparse(node)
            assert argument.attr == "parent", ast.unparse(node)
            assert name in PARENTS
        elif node.func.id == "chosen":
            assert (name, ast.unparse(node.args[0])) in CHOSEN


def test_the_lists_name_nothing_that_is_gone() -> None:
    known = {(str(path.relative_to(ROOT)), call) for path in sources() for call in calls(path)}
    assert known >= set(ALLOWED)


def test_the_search_finds_such_calls(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text(
        "a.replace(b)\nopen(x)\np.open('w')\nq.write_text('')\nfs.copy_files(a, b)\n'a'.replace('b', 'c')"
    )
    assert list(calls(source)) == ["a.replace(b)", "open(x)", "p.open('w')", "q.write_text('')", "fs.copy_files(a, b)"]
