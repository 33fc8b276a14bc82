"""The picture of a trial's curves, whose margins and ticks are fixed."""

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bat_core.curves import Curve, Curves
from sweeps.engine.tracking.pictures import draw_curves


def curves(outcomes):
    """Curves that fall from 90 % with the number of steps, for attacks named with their steps."""
    falling = {name: tuple(0.9 - 0.8 * at / len(steps) for at in range(len(steps))) for name, steps in outcomes.items()}
    made = {
        name: Curve(steps=steps, accuracies={"final": falling[name], "worst": falling[name]})
        for name, steps in outcomes.items()
    }
    return Curves(n=1000, clean_acc=0.9, robust_acc=0.4, one_class=False, outcomes=made)


READ = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SHORT = {"ce": (0, 1)}
PAPER = {"ce": READ, "cw": READ}
ONE_READING = ("pgd-100", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square", "transfer")
MANY = PAPER | dict.fromkeys(ONE_READING, (0, 100))


@pytest.mark.parametrize("outcomes", [SHORT, PAPER, MANY], ids=["short", "paper", "many"])
def test_no_words_are_cut_off_or_written_over_each_other(outcomes):
    title = "eps8-r_mc_la-beta9-seed0: 1000 validation images"
    figure = draw_curves(curves(outcomes), robust=0.4, verified=False, title=title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,), (legend,) = figure.axes, figure.legends
    ticks = [label for label in axes.get_xticklabels() if label.get_text()]
    percents = [label for label in axes.get_yticklabels() if 0 <= label.get_position()[1] <= 1]
    texts = [axes.xaxis.label, axes.yaxis.label, *percents, *ticks, *legend.get_texts()]
    texts += [text for text in (axes._left_title, axes.title) if text.get_text()]
    extents = [text.get_window_extent() for text in texts]
    assert all(min(box.x0, box.y0) >= 0 for box in extents)
    assert all(box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in extents)
    assert [label.get_text() for label in ticks] == [f"{step}" for step in READ if 0 < step <= max(outcomes["ce"])]
    boxes = [label.get_window_extent() for label in ticks]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
