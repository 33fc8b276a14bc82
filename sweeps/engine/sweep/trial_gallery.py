"""The gallery of a finished trial: a few of its images before and after its own attack, as one picture."""

from bat_core.config import TrialConfig
from bat_core.data import Dataset
from bat_core.evaluate import Evaluator
from bat_core.gallery import choose, contact_sheet, largest_change, specimens
from bat_core.paths import Rooted, below, write_atomically
from bat_core.suites import trajectories
from bat_core.verdicts import Verdicts
from sweeps.engine.sweep.trial_sync import GALLERY

IMAGES = 6  # at most half of which fall


def save_gallery(
    folder: Rooted, evaluator: Evaluator, config: TrialConfig, dataset: Dataset, verdicts: Verdicts
) -> None:
    """Write gallery.png: images that fall first and that stand longest, attacked again by the trial's own PGD.

    Args:
        folder: the trial's.  verdicts: of the trial's evaluation.
    Raises:
        OSError: writing failed.
    """
    part = dataset.part(config.attack.split)
    position = {row: at for at, row in enumerate(part.rows.tolist())}
    fallen, longest = choose(verdicts, IMAGES)
    chosen = [position[int(verdicts.rows[at])] for at in (*fallen, *longest)]
    found = specimens(trajectories(config.attack), evaluator, part, chosen, dataset.class_names)
    if found:
        scale = largest_change(found, config.attack.eps, config.attack.norm)
        write_atomically(below(folder, GALLERY), contact_sheet(found, scale))
