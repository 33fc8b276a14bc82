"""The options of the commands that make the paper's tables."""

from dataclasses import dataclass, fields
from typing import Annotated

from cyclopts import Parameter

from sweeps.engine.cli.options import Several, SweepOptions
from sweeps.engine.paper.scales import Setting


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TableOptions(SweepOptions):
    """The scale, and options that override its settings. None means the scale's setting."""

    scale: str = "smoke"
    """smoke (digits, a minute or two), small (parts of the real data, within an hour on 2 cores), fast (one GPU) or
    paper (the paper's networks and schedules). sweeps/engine/paper/scales.py defines their settings."""
    rows: Annotated[tuple[str, ...], Several] = ()
    """Rows to train. Default: all."""
    train_anew: bool = False
    """Train all trials. Default: reuse finished trials of sweeps in the same folder as --output."""
    dataset: str = ""
    """Images, as in every sweep: digits, cifar10, parquet, package.module:factory ... Default: the scale's."""
    model: str | None = None
    """Network: small_cnn, preact_resnet18 ..., timm:NAME, torchvision:NAME, or your own as package.module:factory.
    Default: the scale's."""
    networks: Annotated[tuple[str, ...], Several] = ()
    """Networks of a table that compares several (table 9: three), in its order, each as in --model. Default: the
    scale's."""
    precision: str = ""
    """Precision: float32, bfloat16, or auto (bfloat16 on GPUs that have it). Verdicts always use float32. Default: the
    scale's."""
    on_collapse: str = "go_on"
    """If one-step training collapses (catastrophic overfitting): go_on, as in the paper, or stop and keep the epoch
    before."""
    seeds: Annotated[tuple[int, ...], Several] = ()
    """Random seeds; one model per row and seed. Default: the scale's."""

    def at(self, setting: Setting) -> "TableOptions":
        """These options, with the scale's settings for all options that were not given."""
        default = {option.name: option.default for option in fields(self)}
        taken = {
            option.name: getattr(setting, option.name)
            for option in fields(setting)
            if option.name in default and getattr(self, option.name) == default[option.name]
        }
        return self.with_defaults(**taken)
