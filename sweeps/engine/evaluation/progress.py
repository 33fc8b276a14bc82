"""How far an evaluation has come, by the files that are there, and how long its attacks took."""

import itertools
from collections.abc import Iterator, Sequence

from bat_core.suites import Entry
from sweeps.engine.evaluation.attack import Evaluation, EvaluationFolder
from sweeps.engine.evaluation.sampling import DRAWN, draw_size
from sweeps.engine.evaluation.shard_files import CLEAN, SHARDS, outcome_file


def finished_attacks(
    evaluation: Evaluation, folder: EvaluationFolder, place: str = SHARDS
) -> Iterator[tuple[str, str]]:
    """(model, attack) for each result on disk: of all images, or of those in another place."""
    for model in evaluation.models:
        for path in (folder.model(model) / place).glob("*/[0-9]*-*.parquet"):
            yield model.source.name, path.stem.partition("-")[2]


def total_cost(evaluation: Evaluation) -> float:
    """The work of an evaluation that nothing ends early, in gradients per image times images."""
    every = _cost(evaluation.entries()) * len(evaluation.shards()) * evaluation.shard_size
    if evaluation.sampled:
        most, size = min(evaluation.survivors or evaluation.n, evaluation.n), draw_size(evaluation)
        every += _cost(evaluation.attacks().entries) * -(-most // size) * size
    return len(evaluation.models) * every


def finished_cost(evaluation: Evaluation, folder: EvaluationFolder) -> float:
    """The part of `total_cost` whose results are on disk."""
    costs = {entry.name: entry.cost for entry in (*evaluation.entries(), *evaluation.attacks().entries)}
    done = evaluation.shard_size * sum(costs.get(attack, 0.0) for _, attack in finished_attacks(evaluation, folder))
    if evaluation.sampled:
        drawn = finished_attacks(evaluation, folder, DRAWN)
        done += draw_size(evaluation) * sum(costs.get(attack, 0.0) for _, attack in drawn)
    return done


def _cost(entries: Sequence[Entry]) -> float:
    return sum(entry.cost for entry in entries)


def first_batch_seconds(
    evaluation: Evaluation, folder: EvaluationFolder, *, since: float, together: int = 1
) -> dict[str, float] | None:
    """Seconds that each attack took on a first batch that met them all after `since` (Unix time).

    By the times at which their results were written. None until there is such a batch. Attacks that pool their images
    attacked `together` batches at once.
    """
    entries = evaluation.entries()
    names = [f"{CLEAN}.parquet", *(outcome_file(number, entry) for number, entry in enumerate(entries))]
    pooled = [True, *(entry.attack.pools for entry in entries)]
    for model in evaluation.models:
        for group in evaluation.shard_groups(together):
            places = [folder.model(model) / SHARDS / f"{shard.start:06d}" for shard in group]
            files = [
                [place / name for place in (places if pools else places[:1])]
                for name, pools in zip(names, pooled, strict=True)
            ]
            if not all(file.exists() for several in files for file in several):
                continue
            written = [max(file.stat().st_mtime for file in several) for several in files]
            if written[0] < since:
                continue
            spent = zip(itertools.pairwise(written), files[1:], strict=True)
            seconds = [(end - begin) / len(several) for (begin, end), several in spent]
            return {entry.name.upper(): each for entry, each in zip(entries, seconds, strict=True)}
    return None
