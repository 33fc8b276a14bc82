"""A sweep whose trials go wrong in several ways: what a person's own sweep file looks like."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bat_core.config import AttackConfig, RecipeConfig, TrialConfig
from bat_core.data import Dataset
from sweeps.engine.cli.app import command
from sweeps.engine.cli.options import SweepOptions
from sweeps.engine.driver import session
from sweeps.engine.driver.run import run_sweep
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Report, Sweep, Trial


@dataclass(frozen=True, kw_only=True)
class Options(SweepOptions):
    """As every sweep's."""


def main(options: Options = Options()) -> int:
    """Four trials: one is sound, the others fail."""
    session.check_trial = lambda *_: None  # what it would refuse beforehand is to fail in its own process here
    return run_sweep(options, name="faulty", make_trials=lambda dataset: trials(options, dataset), draw=draw)


def trials(options: Options, dataset: Dataset) -> Sequence[Trial]:
    pixel = dataset.pixel
    sound = TrialConfig(
        data=options.data_config(),
        model="small_cnn_8",
        recipe=RecipeConfig(name="Undefended"),
        train=options.train_config(),
        attack=AttackConfig(eps=8 * pixel, step_size=2 * pixel, steps=(1,), verify=0),
    )
    return [
        Trial(id="nan", config=replace(sound, train=replace(sound.train, lr=1e38))),
        Trial(id="memory", config=replace(sound, model="small_cnn_1000000")),
        Trial(id="exception", config=replace(sound, recipe=RecipeConfig(name="R-MC-LA", params={"alpha": 1.0}))),
        Trial(id="hang", config=replace(sound, train=replace(sound.train, epochs=100_000))),
        Trial(id="sound", config=sound),
    ]


def draw(sweep: Sweep, folder: SweepFolder) -> Report:
    return Report(files=(), sentence="Drawn.")


if __name__ == "__main__":
    command(main)
