"""Being the driver of a sweep that another one left."""

from sweeps.engine.cli.options import SweepOptions
from sweeps.engine.driver.session import SweepSession
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Resources, Sweep, Trial


def test_files_that_a_killed_driver_left_half_written_are_removed_and_those_of_trials_are_not(
    make_trial, digits, tmp_path
):
    trial, folder = Trial(id="a", config=make_trial()), SweepFolder(tmp_path / "sweep")
    sweep = Sweep(name="s", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=(trial,))
    folder.create(sweep)
    left = [folder.path / ".figure_1.png.0123456789abcdef.partial", folder.path / "queries" / ".a.csv.0123.partial"]
    written = folder.trial(trial) / ".record.jsonl.0123456789abcdef.partial"
    for path in (*left, written):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with SweepSession.new(sweep, folder, digits, SweepOptions()).driving():
        assert not any(path.exists() for path in left)
    assert written.exists()
