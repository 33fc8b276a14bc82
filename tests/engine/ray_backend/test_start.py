"""Ray's folder, and Ray that does not start. No test here starts Ray."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bat_core.errors import InputError
from sweeps.engine.ray_backend import cluster, start
from sweeps.engine.storage.undo import NothingStartedError, undone_if_not_started


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def socket_in(folder: Path) -> int:
    """The length of the longest socket's path that Ray makes in a temporary folder."""
    name = f"ray/session_2026-12-31_23-59-59_999999_{os.getpid()}/sockets/plasma_store"
    return len(os.fsencode(folder / name))


def test_a_short_temporary_folder_is_kept(variables, capsys) -> None:
    assert start.temporary_folder() == Path("/tmp")
    variables.setenv("TMPDIR", "/var/tmp")
    assert start.temporary_folder() == Path("/var/tmp")
    variables.setenv("RAY_TMPDIR", "/tmp/mine")
    assert start.temporary_folder() == Path("/tmp/mine")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_long_temporary_folder_is_replaced_by_a_shorter_one_and_both_are_named(variables, capsys, name) -> None:
    long = "/tmp/" + "ü" * 40
    variables.setenv(name, long)
    chosen = start.temporary_folder()
    said = capsys.readouterr().err
    chosen.rmdir()
    assert socket_in(chosen) <= 107
    assert said == (
        f"warning: {name} {long!r} is too long for Ray, whose sockets' paths may have 107 bytes: Ray uses"
        f" {str(chosen)!r}\n"
    )


def test_the_limit_is_met_to_the_byte(variables) -> None:
    longest = Path("/" + "x" * (107 - socket_in(Path("/x")) + 1))
    assert socket_in(longest) == 107
    variables.setenv("RAY_TMPDIR", str(longest))
    assert start.temporary_folder() == longest
    variables.setenv("RAY_TMPDIR", f"{longest}x")
    shorter = start.temporary_folder()
    shorter.rmdir()
    assert shorter != Path(f"{longest}x")


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        start.allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(hard, start.DESCRIPTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ray_starts_its_workers_as_it_was_started_under_uv_run_too() -> None:
    """Ray would start them by a `uv run` of its own, which does not find a uv that is named by a relative path."""
    script = "import sweeps.engine.ray_backend.cluster; from ray._private.ray_constants import *; "
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ran = subprocess.run(
        [sys.executable, "-c", script + "print(RAY_ENABLE_UV_RUN_RUNTIME_ENV)"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout == "False\n"


@pytest.mark.parametrize(
    "error",
    [Exception("The current node timed out during startup.\n Twice."), OSError(28, "No space left"), ValueError()],
)
def test_whatever_ray_raises_when_it_starts_is_one_sentence_with_the_place_of_its_logs(
    variables, tmp_path, error
) -> None:
    def fail(**_):
        (tmp_path / "ray" / f"session_2026_{os.getpid()}" / "logs").mkdir(parents=True)
        raise error

    variables.setenv("RAY_TMPDIR", str(tmp_path))
    variables.setattr(start, "SOCKET_LIMIT", 500)
    variables.setattr("ray.init", fail)
    with pytest.raises(NothingStartedError) as caught, cluster.cluster(address=None):
        pass
    said = str(caught.value)
    assert said.startswith(f"Ray did not start ({type(error).__name__}: ")
    assert said.endswith(f"; its logs are in '{tmp_path}/ray/session_2026_{os.getpid()}/logs'")
    assert "\n" not in said


@pytest.mark.parametrize("error", [RuntimeError("Version mismatch"), TimeoutError("no answer")])
def test_whatever_ray_raises_when_it_joins_a_cluster_is_one_sentence(variables, error) -> None:
    def fail(**_):
        raise error

    variables.setattr("ray.init", fail)
    said = rf"^the Ray cluster at x:1 cannot be joined \({type(error).__name__}: "
    with pytest.raises(InputError, match=said), cluster.cluster(address="x:1"):
        pass


@pytest.mark.parametrize("name", ["sweeps", "bat_core"])
def test_a_package_in_the_working_folder_that_rays_processes_would_take_for_ours_is_refused(
    variables, tmp_path, name
) -> None:
    variables.chdir(tmp_path)
    (tmp_path / name).mkdir()
    cluster.refuse_namesakes()  # a folder without __init__.py comes after every package
    (tmp_path / name / "__init__.py").touch()
    with pytest.raises(InputError, match=rf"the working folder has a module '{name}' .* run the command in another"):
        cluster.refuse_namesakes()


def failing(folder: Path, *, new: bool = True, started: bool = False) -> str:
    undone = undone_if_not_started(folder, new=new, started=lambda: started, undo=lambda: None)
    with pytest.raises(NothingStartedError) as caught, undone:
        raise NothingStartedError("Ray did not start")
    return str(caught.value)


def test_new_work_of_which_nothing_has_begun_is_removed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "out put", tmp_path / "kept"
    (folder / "trials" / "a").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").touch()
    (folder / "link").symlink_to(outside)
    (folder / "sweep.json").touch()
    said = failing(folder)
    assert said == "Ray did not start; nothing was kept: type the same command again"
    assert not folder.exists()
    assert (outside / "file").exists()


@pytest.mark.parametrize(
    ("how", "remedy"),
    [({"new": False}, "type the same command again"), ({"started": True}, "resume with --resume '{folder}'")],
)
def test_work_that_has_begun_is_kept(tmp_path: Path, how, remedy) -> None:
    folder = tmp_path / "out put"
    folder.mkdir()
    (folder / "sweep.json").touch()
    assert failing(folder, **how) == f"Ray did not start; then {remedy.format(folder=folder)}"
    assert (folder / "sweep.json").exists()
