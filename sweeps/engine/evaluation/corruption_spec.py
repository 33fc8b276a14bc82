"""The description of an evaluation under corruptions, and its folder."""

from dataclasses import dataclass
from pathlib import Path

from bat_core.paths import Rooted, below
from sweeps.engine.evaluation.spec import EvaluationSpec, ModelRecord, read_spec, write_spec

NOUN, SPEC = "corruption evaluation", "corruptions.json"


@dataclass(frozen=True, kw_only=True)
class CorruptionSpec(EvaluationSpec):
    """The description of an evaluation under corruptions.

    `corrupted` is the folder of published images, None if they are made. `of` says in words where they are from.
    """

    corrupted: str | None
    corruptions: tuple[str, ...]
    of: str


@dataclass(frozen=True)
class CorruptionFolder:
    """The folder of an evaluation under corruptions."""

    path: Path

    def model(self, model: ModelRecord) -> Rooted:
        """The folder of one model's results."""
        return below(self.path, model.source.name)

    def create(self, spec: CorruptionSpec) -> None:
        """Write the description into a new folder. Raises InputError if it cannot be written or is not empty."""
        write_spec(self.path, SPEC, f"a {NOUN}", spec)

    def load(self) -> CorruptionSpec:
        """Read the description. Raises InputError if there is none."""
        return read_spec(CorruptionSpec, self.path, SPEC, NOUN)
