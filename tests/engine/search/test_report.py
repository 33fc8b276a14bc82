"""What a search's report says: every number from the view, masks named, the rule and the images named."""

import re
from dataclasses import replace

import pytest

from search_spaces.narrowing import narrow
from sweeps.engine.cli.text import span
from sweeps.engine.search.report import report_md, sentence
from sweeps.engine.search.results import MASKED
from sweeps.engine.search.spec import Halving
from tests.engine.search.reports import rows, section, shown
from tests.engine.search.views import (
    HALVED,
    KILLED,
    PIXEL,
    finalist_of,
    score_of,
    search_of,
    status_of,
    trial_of,
    view_of,
)


def test_the_space_is_told_with_ranges_and_pixels(snapshot, report):
    table = {row[0]: row[1:] for row in rows(section(report, "Search space"), "parameter")}
    assert [name.strip("`") for name in table] == list(snapshot.search.space.names)
    assert table["`beta`"] == ["multiplier of the adversarial label", "2 to 128", "log", "9", "label = adversarial"]
    assert table["`eps`"][1:4] == ["5/255 (1 px) to 80/255 (16 px)", "", "40/255 (8 px)"]
    assert table["`warm_up`"][4] == "schedule = multi_step or cosine"
    assert table["`random_start`"][1] == "yes, no"


def test_a_fixed_parameter_is_called_fixed():
    search = search_of(space=narrow(search_of("bat").space, fixed=(f"eps={4 * PIXEL}",)))
    table = {row[0]: row[1:] for row in rows(report_md(view_of(search)), "parameter")}
    assert table["`eps`"][1] == "20/255 (4 px), fixed"
    one = score_of(search, 0, 0.9, 0.4)
    assert ", eps=" not in rows(report_md(view_of(search, [one])), "trial")[0][-1]


def test_aim_images_and_attack_are_named(report):
    said = section(report, "Search space")
    assert "Objective: high clean accuracy and high verified robust accuracy." in said
    assert (
        "Evaluated on validation images: clean n = 300; robust n = 200, the per-example worst case over PGD-20+quick"
        in said
    )
    assert "PGD runs 20 steps of 2 px on cross-entropy from one random start; APGD-CE, APGD-T" in said
    assert "Trials are drawn by TPE (seed 0). The search ends after 40 trials. No trial is stopped early." in said
    assert "One pixel is 5/255." in said


def test_other_aims_and_ends_are_put_into_words():
    search = search_of(
        "bat", objective="robust-at-clean>=0.9", sampler="random", max_hours=1.5, flat=7,
        halving=Halving(grace=4, factor=3),
    )  # fmt: skip
    said = report_md(view_of(search))
    assert "Objective: high verified robust accuracy, with clean accuracy of at least 90.0%." in said
    assert (
        "by random sampling (seed 0). The search ends after 40 trials, or 1.5 hours of work, or 7 finished trials in"
        in said
    )
    assert "from epoch 4 on, the best 1 in 3 continue" in said
    assert "high verified robust accuracy and low hours of training" in report_md(
        view_of(search_of("bat", objective="robust+hours"))
    )


def test_the_front_is_a_table_of_what_is_not_masked(snapshot, report):
    table = rows(section(report, "Results"), "trial")
    assert [row[0] for row in table] == [one.id for one in snapshot.front[::-1]]
    assert len(table) > 2
    for row, one in zip(table, snapshot.front[::-1], strict=True):
        expected = [f"{one.clean_acc:.1%}", shown(one), "200", "PGD-20+quick", one.masking_status, span(one.hours)]
        assert row[1:7] == expected
        pixels = one.point["eps"] / PIXEL
        assert f"eps={255 * one.point['eps']:.4g}/255 ({pixels:.3g} px)" in row[7]
        assert {part.partition("=")[0] for part in row[7].split(", ")} == set(one.point)
    assert "their numbers are slightly optimistic" in report


def test_the_papers_point_is_compared_with_the_front(snapshot, report):
    first = snapshot.finished[0]
    beaten = f"The paper's point, trial-000: clean {first.clean_acc:.1%}, robust {shown(first)}, clear."
    assert beaten in section(report, "Results")
    better = re.search(r"(trial-\d+) beats it: clean ([\d.]+)%, robust ([\d.]+)%", report)
    assert better[1] in {one.id for one in snapshot.front}
    assert float(better[2]) >= round(100 * first.clean_acc, 1)
    assert float(better[3]) >= round(100 * first.robust_acc, 1)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([(0.95, 0.9)], "beats it: clean 95.0%, robust 90.0% (85.1-93.4)."),
        ([(0.95, 0.42)], "beats it: clean 95.0%, robust 42.0% (35.4-48.9); the two intervals overlap."),
        ([(0.95, 0.3)], "It is on the front."),
    ],
)
def test_a_difference_that_chance_can_make_is_called_so(others, expected):
    search = search_of("bat")
    point = dict(search.space.default_point()) | {"num_steps": 5}
    more = [score_of(search, 1, *other, trial=trial_of(search, 1, point)) for other in others]
    assert expected in report_md(view_of(search, [score_of(search, 0, 0.9, 0.4), *more]))


def test_the_papers_point_may_be_masked_or_missing():
    search = search_of("bat")
    masked = report_md(view_of(search, [score_of(search, 0, 0.9, 0.4, masking_status=MASKED)]))
    assert "The paper's point, trial-000: clean 90.0%, robust 40.0%" in masked
    assert "masked. Its robust accuracy is not reliable." in masked
    other = score_of(search, 1, 0.9, 0.4, trial=trial_of(search, 1, search.space.default_point() | {"num_steps": 2}))
    assert "The search did not try the paper's point." in report_md(view_of(search, [other]))
    failed = view_of(search, [other], [(trial_of(search, 0), status_of("failed", reason="x"))])
    assert "The paper's point is trial-000; it did not finish." in report_md(failed)


def test_masked_trials_are_shown_with_what_pgd_made_of_them(snapshot, report):
    said = section(report, "Masked gradients")
    masked = sorted((one for one in snapshot.finished if one.masked), key=lambda one: -one.pgd_acc)
    assert "the accuracy of a masked model under attack is not reliable." in said
    assert "3 trials of 32 finished are masked." in said
    assert rows(said, "masked") == [
        [one.id, f"{one.clean_acc:.1%}", f"{one.pgd_acc:.1%}", shown(one), one.suite, ", ".join(one.flags)]
        for one in masked
    ]
    assert (
        f"By PGD alone {masked[0].id} would be the most robust trial, with {masked[0].pgd_acc:.1%}. It is masked"
        in said
    )
    assert "PGD ran on 300 images, the suite on the first 200 of them." in said
    widest = max((one for one in snapshot.finished if not one.masked), key=lambda one: one.pgd_acc - one.robust_acc)
    assert f"{widest.id} the most: {widest.pgd_acc:.1%} under PGD, {widest.robust_acc:.1%} verified." in said


def test_trials_that_give_every_image_one_class_are_named():
    search = search_of("bat")
    constant = replace(score_of(search, 0, 0.9, 0.9, masking_status="suspect"), flags=("one_class",))
    other = score_of(search, 1, 0.5, 0.4, trial=trial_of(search, 1, search.space.default_point() | {"num_steps": 2}))
    said = report_md(view_of(search, [constant, other]))
    assert "1 trial (trial-000) predicts the same class for every image. The robust accuracy" in said
    assert "The paper's point, trial-000: clean 90.0%" in said
    assert "suspect. It predicts the same class for every image." in said
    assert "The front has 1 trial: clean 50.0%, robust 40.0% (trial-001)" in said


def test_what_pgd_alone_would_have_chosen_is_named_even_if_it_breaks():
    search = search_of("bat")
    lying = score_of(search, 1, 0.9, 0.3, pgd=0.8, masking_status=MASKED)
    said = report_md(view_of(search, [score_of(search, 0, 0.9, 0.5), lying]))
    assert "By PGD alone trial-001 would be the most robust trial, with 80.0%. It is masked" in said
    assert "it has 30.0% (24.1-36.7), which is not reliable either." in said


def test_no_mask_is_said_too():
    search = search_of("bat")
    said = section(report_md(view_of(search, [score_of(search, 0, 0.9, 0.4)])), "Masked gradients")
    assert "No trial of 1 finished is masked." in said
    assert "By PGD alone trial-000 would be the most robust trial, with 42.0%. It is clear" in said
    assert "reliable either" not in said


def test_only_a_search_that_asks_for_masks_is_steered_by_them():
    search = search_of("bat")
    assert "never on the front, and the sampler treats them as infeasible." in report_md(view_of(search))
    assert "steers nothing" not in report_md(view_of(search_of("bat", objective="clean+pgd")))


def test_what_did_not_finish_is_told_with_its_reasons():
    search = search_of("bat")
    others = [
        (trial_of(search, 1), status_of("stopped", 1, epochs=3, reason=HALVED.format(at=3))),
        (trial_of(search, 2), status_of("stopped", 2, epochs=3, reason=HALVED.format(at=3).replace("0.113", "0.2"))),
        (trial_of(search, 3), status_of("failed", 3, epochs=1, reason="RuntimeError: no room\nTraceback `x`")),
        (trial_of(search, 4), status_of("failed", 4, epochs=1, reason=KILLED)),
        (trial_of(search, 5), replace(status_of("training", 5, epochs=1), ended=None)),
    ]
    one = score_of(search, 0, 0.9, 0.4)
    snapshot = view_of(search, [one], others)
    rows_ = [(trial, replace(status, collapsed=9) if trial.id == one.id else status) for trial, status in snapshot.rows]
    said = section(report_md(replace(snapshot, rows=tuple(rows_))), "Unfinished trials")
    assert "2 trials stopped early:\n\n- successive halving at epoch 3: trial-001, trial-002\n" in said
    assert f"2 trials failed:\n\n- `RuntimeError: no room`: trial-003\n- `{KILLED}`: trial-004\n" in said
    assert "Not ended yet: trial-005." in said
    assert "collapsed (catastrophic overfitting) in trial-000." in said
    assert "Every trial finished." in report_md(view_of(search, [one]))


def test_cost_counts_every_trial_and_every_process():
    search = search_of("bat")
    one = score_of(search, 9, 0.9, 0.4, hours=2.0)
    snapshot = view_of(search, [one], [(trial_of(search, 1), status_of("stopped", 1, hours=0.5, reason="x"))])
    workers = replace(snapshot.sweep, resources=replace(snapshot.sweep.resources, num_workers=3))
    said = section(report_md(replace(snapshot, sweep=workers)), "Cost")
    assert "2 trials drawn by TPE: 1 finished, 1 stopped early." in said
    assert "ran for 30.0 min of wall time; training took 7.5 h summed over all processes." in said
    final = replace(snapshot, finalists=(finalist_of(search, one),), champion=None)
    assert (
        "training took 8.5 h summed over all processes (2.5 h for the search, 6.0 h for the finalists)."
        in report_md(final)
    )


def test_pictures_are_named_where_they_are_drawn(snapshot, report):
    for name in ("pareto", "importances", "parallel", "progress"):
        assert report.count(f"]({name}.png)") == 1
    few = report_md(view_of(snapshot.search, snapshot.finished[:2]))
    assert "importances.png" not in few
    assert "omitted: they need 4 trials that finished unmasked, and the search has 2." in few


def test_the_sentence_names_both_ends_of_the_front_and_the_champion(snapshot):
    tough, clean = snapshot.front[-1], snapshot.front[0]
    tested = next(one for one in snapshot.finalists[1].tested if one.trial == snapshot.champion)
    said = sentence(snapshot)
    assert said.startswith("32 trials finished, 3 of them masked. The front has ")
    assert f"from clean {tough.clean_acc:.1%}, robust {tough.robust_acc:.1%} ({tough.id}) to clean" in said
    assert f"{clean.clean_acc:.1%}, robust {clean.robust_acc:.1%} ({clean.id}), on validation images." in said
    assert (
        f"Champion: {snapshot.champion}, of {snapshot.finalists[1].origin.id}: on test clean {tested.clean_acc:.1%}"
        in said
    )
    assert said.endswith("under standard, n = 360, clear.")
    assert "\n" not in said


def test_a_champion_that_is_masked_on_test_is_not_praised(snapshot):
    chosen = snapshot.finalists[1]
    tested = tuple(replace(one, masking_status=MASKED) for one in chosen.tested)
    said = sentence(replace(snapshot, finalists=(replace(chosen, tested=tested),)))
    assert said.endswith("masked. Its robust accuracy is not reliable.")


def test_a_champion_that_is_not_tested_yet_says_so(snapshot):
    chosen = replace(snapshot.finalists[1], tested=())
    waiting = replace(snapshot, finalists=(chosen,))
    assert "mean over seeds on validation images; not tested yet." in sentence(waiting)
    assert "have not been evaluated on test images yet" in report_md(waiting)
    assert "used once" not in report_md(waiting)


def test_sentences_where_there_is_little_to_say():
    search = search_of("bat")
    assert sentence(view_of(search)) == "No trial has started."
    failed = view_of(search, others=[(trial_of(search, 0), status_of("failed", reason=KILLED))])
    assert sentence(failed) == "No trial has finished: 1 trial drawn by TPE: 0 finished, 1 failed."
    one = score_of(search, 0, 0.9, 0.4)
    expected = "1 trial finished. The front has 1 trial: clean 90.0%, robust 40.0% (trial-000), on validation images."
    assert sentence(view_of(search, [one])) == expected
    masked = [replace(one, masking_status=MASKED)]
    assert sentence(view_of(search, masked)).startswith("The one finished trial is masked. No robust accuracy here is")
    masked.append(score_of(search, 1, 0.9, 0.5, masking_status=MASKED))
    assert sentence(view_of(search, masked)).startswith("All 2 finished trials are masked. No robust accuracy here is")
    constant = replace(score_of(search, 2, 0.2, 0.2, masking_status="suspect"), flags=("one_class",))
    expected = "3 finished: 2 masked, 1 that predict one class for every image. No robust accuracy here is"
    assert sentence(view_of(search, [*masked, constant])).startswith(expected)
    for snapshot in (view_of(search), failed, view_of(search, [one]), view_of(search, masked)):
        assert report_md(snapshot).startswith("# Search on digits, small_cnn, L-inf budget 8 px\n")


def test_of_masked_trials_there_is_no_front_to_read(snapshot):
    search = search_of("bat")
    said = section(report_md(view_of(search, [score_of(search, 0, 0.9, 0.4, masking_status=MASKED)])), "Results")
    assert "The one finished trial is masked." in said
    assert "| trial |" not in said


def test_a_search_whose_constraint_no_trial_met_says_so_first():
    search = search_of("bat", objective="robust-at-clean>=0.95")
    view = view_of(search, [score_of(search, 0, 0.9, 0.4), score_of(search, 1, 0.8, 0.5)])
    said = (
        "No trial has the clean accuracy of at least 95.0% that the objective requires: the cleanest has 90.0% and is"
    )
    assert f"{said} 40.0% robust (trial-000)." in sentence(view)
    assert "The front of trials below that accuracy has 2 trials" in sentence(view)
    assert said in "\n".join(report_md(view).splitlines()[:4])
    assert said in section(report_md(view), "Results")


def test_masked_trials_do_not_meet_the_constraint():
    search = search_of("bat", objective="robust-at-clean>=0.95")
    masked = score_of(search, 0, 0.99, 0.9, masking_status="masked")
    assert "No unmasked trial has the clean accuracy" in sentence(
        view_of(search, [masked, score_of(search, 1, 0.8, 0.5)])
    )


def test_a_constraint_that_one_trial_met_or_that_nobody_asked_for_is_not_mentioned():
    for objective in ("robust-at-clean>=0.85", "clean+robust"):
        search = search_of("bat", objective=objective)
        view = view_of(search, [score_of(search, 0, 0.9, 0.4), score_of(search, 1, 0.8, 0.5)])
        assert "requires" not in sentence(view)
        assert "The front has 2 trials" in sentence(view)


@pytest.mark.parametrize(
    ("suite", "attacks"),
    [
        ("PGD-20+quick", "APGD-CE, APGD-T"),
        ("PGD-20+quick for 2 classes", "APGD-CE, APGD on the margin"),
        ("PGD-20+quick for 3 classes, not verified: masked", "APGD-CE, APGD-DLR, APGD-T on the margin"),
    ],
)
def test_the_attacks_that_ran_are_named(suite, attacks):
    search = search_of("bat")
    said = section(report_md(view_of(search, [score_of(search, 0, 0.9, 0.4, suite=suite)])), "Search space")
    assert f"({attacks})" in said
    assert f"; {attacks} with AutoAttack's settings" in said
