"""The gallery shows the images that fall first and stand longest, as the evaluation's own attacks made them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bat_core.data import Split
from bat_core.evaluate import Evaluator
from bat_core.gallery import as_png, choose, difference, specimens
from bat_core.verdicts import SKIPPED, UNBROKEN, Outcome, Verdicts
from sweeps.engine.evaluation.gallery import gallery_section, save_gallery
from tests.engine.evaluation.evaluations import evaluation


def made(*attacks, clean=None):
    n = len(attacks[0])
    outcomes = {
        str(number): Outcome(broken_at=np.array(broken_at), final=np.zeros((n, 0), dtype=np.bool_))
        for number, broken_at in enumerate(attacks)
    }
    right = np.ones(n, dtype=np.bool_) if clean is None else np.array(clean)
    return Verdicts(rows=np.arange(n) * 2, labels=np.zeros(n, dtype=np.int64), clean_correct=right, outcomes=outcomes)


def test_those_that_fall_first_and_those_that_stand_longest():
    first = [7, UNBROKEN, 0, UNBROKEN, 3, 50]
    verdicts = made(first, [SKIPPED, UNBROKEN, 0, 9, SKIPPED, SKIPPED], clean=[1, 1, 0, 1, 1, 1])
    assert choose(verdicts, 4) == ([4, 0], [1, 5])
    assert choose(verdicts, 1) == ([4], [])
    fallen, longest = choose(verdicts, 100)
    assert fallen == [4, 0, 3, 5]
    assert longest == [1]
    assert choose(made([UNBROKEN, 2], clean=[0, 0]), 4) == ([], [])


@pytest.fixture(scope="module")
def shown(robust_digits):
    job = evaluation("robust", suite="quick", n=24)
    images = (robust_digits.images[:24] * 255).round().to(torch.uint8)
    part = Split(images, robust_digits.labels[:24], torch.arange(24) + 100)
    evaluator = Evaluator(robust_digits.model)
    verdicts = evaluator.extend(evaluator.clean(images, part.labels, part.rows), images, job.own_suite())
    fallen, longest = choose(verdicts, 8)
    assert fallen
    assert longest
    return (
        job,
        verdicts,
        [*fallen, *longest],
        specimens(job.attacks(), evaluator, part, [*fallen, *longest], list("abcdefghij")),
    )


def test_each_image_is_within_the_budget_and_answers_as_its_verdict_says(shown, robust_digits):
    job, verdicts, positions, found = shown
    for at, one in zip(positions, found, strict=True):
        assert one.row == 100 + at
        assert (one.adversarial - one.clean).abs().max() <= job.eps + 1e-6
        assert 0 <= difference(one, job.eps).min() <= difference(one, job.eps).max() <= 1
        assert one.before.name == one.label
        assert (one.after.name == one.label) == bool(verdicts.robust_correct[at])
        assert (one.step is None) == bool(verdicts.robust_correct[at])
        likely = robust_digits.model(one.adversarial[None]).softmax(1).max().item()
        assert one.after.confidence == pytest.approx(likely, abs=1e-4)


def test_it_is_a_section_of_the_page_and_a_file(shown, tmp_path):
    job, _, _, found = shown
    section = gallery_section("G", found, job.eps)
    assert [len(pictures) for _, pictures in section.rows] == [3] * len(found)
    assert "stands against every attack" in section.rows[-1][0]
    png = save_gallery(found, tmp_path, job.eps)
    assert png.name == "gallery.png"
    assert Image.open(png).size[0] > 100


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_is_the_images_pixels(channels):
    image = torch.linspace(0, 1, channels * 6).reshape(channels, 2, 3)
    read = np.asarray(Image.open(io.BytesIO(as_png(image))))
    expected = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert (read == (expected if channels == 3 else expected[:, :, 0])).all()
