"""A trial's status is kept in this process: asked again it costs a `stat`, and of a longer record the new lines."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bat_core.errors import InputError
from sweeps.engine.sweep import folder as folder_module
from sweeps.engine.sweep import records
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD, Record, TrialStatus, read_status
from sweeps.engine.sweep.spec import Resources, Sweep, Trial


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines that were parsed."""
    lines: list[bytes] = []
    event = records._event
    monkeypatch.setattr(records, "_event", lambda line: (lines.append(line), event(line))[1])
    return lines


def afresh(home: Path) -> TrialStatus:
    """The status as a process reads it that has never read it before."""
    records._known.clear()
    return read_status(home)


def test_a_record_that_is_as_it_was_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Record(tmp_path).append("start")
    first = read_status(tmp_path)
    monkeypatch.setattr(records, "open_regular", lambda _: pytest.fail("it was opened"))
    assert read_status(tmp_path) is first


def test_of_a_longer_record_the_new_lines_are_parsed(tmp_path: Path, parsed: list[bytes]) -> None:
    record = Record(tmp_path)
    for epoch in range(1, 51):
        record.append("epoch", epoch=epoch)
        assert len(read_status(tmp_path).epochs) == epoch
    assert len(parsed) == 50


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    Record(tmp_path).append("epoch", epoch=1)
    line = json.dumps({"event": "epoch", "time": 1.0, "epoch": 2}).encode() + b"\n"
    with (tmp_path / RECORD).open("ab") as file:
        file.write(line[:10])
    assert len(read_status(tmp_path).epochs) == 1
    with (tmp_path / RECORD).open("ab") as file:
        file.write(line[10:])
    assert len(read_status(tmp_path).epochs) == 2


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def _replace(path: Path, content: bytes) -> None:
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


CHANGES: dict[str, Callable[[Path, bytes], object]] = {
    "appended": _append,
    "replaced by another file": _replace,
    "written anew": Path.write_bytes,
    "gone": lambda path, _: path.unlink(missing_ok=True),
}
events = st.one_of(
    st.builds(lambda epoch, collapsed: {"event": "epoch", "epoch": epoch, "collapsed": collapsed},
              st.integers(1, 5), st.booleans()),
    st.sampled_from([
        {"event": "start"}, {"event": "start", "passed_over": {"epoch_0001": "damaged"}},
        {"event": "attack", "done": 1, "of": 2}, {"event": "paused", "epoch": 1, "batch": 2}, {"event": "finished"},
        {"event": "failed", "reason": "why"}, {"event": "reused", "sweep": "a", "trial": "b"}, {"event": "new"},
    ]),
)  # fmt: skip
lines = st.one_of(events.map(lambda event: json.dumps({"time": 1.0, **event}).encode() + b"\n"), st.just(b"\0\n"))
contents = st.builds(lambda whole, torn: b"".join(whole) + torn, st.lists(lines), st.sampled_from([b"", b'{"ev']))


@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), contents), min_size=1, max_size=6))
def test_whatever_became_of_a_record_its_status_is_the_one_read_afresh(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bytes]]
) -> None:
    home = tmp_path_factory.mktemp("home")
    for at, (how, content) in enumerate(steps):
        CHANGES[how](home / RECORD, content)
        if (home / RECORD).exists():
            os.utime(home / RECORD, ns=(at, at))  # two changes within one tick of the clock are two changes
        seen = read_status(home)
        assert seen == afresh(home)


def test_a_link_that_leads_out_is_refused_each_time(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "home" / RECORD).symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(InputError, match="leads out"):
            read_status(tmp_path / "home")


def test_a_proposed_trial_is_read_once(make_trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(name="s", command="", data_dir=None, pixel=1 / 255, resources=Resources(), trials=(), open=True)
    folder = SweepFolder(tmp_path / "sweep")
    folder.create(sweep)
    trials = tuple(Trial(id=f"trial-{at}", config=make_trial(seed=at), role="search") for at in range(11))
    for trial in trials:
        folder.propose(trial)
    assert folder.trials(sweep) == trials
    monkeypatch.setattr(folder_module, "_read_trial", lambda path: pytest.fail(f"{path} was read again"))
    assert folder.trials(sweep) == trials
    assert folder.find(sweep, "trial-10") == trials[10]
