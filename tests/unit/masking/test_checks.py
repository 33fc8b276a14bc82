import json

import pytest
import torch
from torch import nn

from bat_core.attacks import Square, fgsm
from bat_core.masking.checks import attacks, examine
from bat_core.masking.flags import CHECKS, LOWEST_SHARE, Evidence, Findings, conclude, get_check

from ..toys import Linear, normal, uniform

EPS = 40 / 255


def evidence(**changes):
    """That of an honest network, but for `changes`."""
    by_steps = {1: 0.8, 5: 0.5, 10: 0.4, 20: 0.4}
    measured = {
        "n": 200, "clean_acc": 0.9, "zero_gradient": 0.0, "pass_difference": 0.0, "loss_fell": 0.0, "noise_acc": 0.89,
        "fgsm_acc": 0.5, "half_fgsm_acc": 0.7, "ce": by_steps, "cw": by_steps, "ce_worst": 0.4, "restarts_acc": 0.4,
        "large_eps_acc": 0.0, "black_box_only": 0.0, "verified_acc": 0.4, "largest_class_share": 0.3,
    }  # fmt: skip
    return Evidence(**{**measured, **changes})


def ending_at(acc):
    return {1: 1.0, 20: acc}


CASES = {  # what raises each check to a value, in every way there is
    "zero_gradient": [lambda v: {"zero_gradient": v}],
    "random_output": [lambda v: {"pass_difference": v}],
    "random_gradient": [lambda v: {"ce": ending_at(v), "eot_acc": 0.0}],
    "more_steps_help": [lambda v: {"ce": {1: 1.0, 5: 0.0, 10: v, 20: 0.0}}, lambda v: {"ce": {1: 0.0, 20: v}}],
    "one_step_beats_many": [lambda v: {"ce": ending_at(v), "fgsm_acc": 0.0}],
    "label_leaking": [
        lambda v: {"clean_acc": 0.0, "fgsm_acc": v, "half_fgsm_acc": 1.0},
        lambda v: {"clean_acc": 1.0, "fgsm_acc": v, "half_fgsm_acc": 0.0},
    ],
    "black_box_beats_white_box": [lambda v: {"black_box_only": v}],
    "large_budget_survived": [lambda v: {"large_eps_acc": v}],
    "restarts_matter": [lambda v: {"ce": ending_at(v), "restarts_acc": 0.0}],
    "ce_far_above_margin": [lambda v: {"ce": ending_at(v), "cw": ending_at(0.0)}],
    "pgd_far_above_verified": [
        lambda v: {"ce": ending_at(v), "cw": ending_at(1.0), "verified_acc": 0.0},
        lambda v: {"ce": ending_at(1.0), "cw": ending_at(v), "verified_acc": 0.0},
    ],
    "loss_does_not_rise": [lambda v: {"loss_fell": v}],
    "noise_as_strong": [lambda v: {"clean_acc": 1.0, "noise_acc": 1 - v, "ce_worst": 0.0}],
    "one_class": [lambda v: {"largest_class_share": v}],
}
every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)


def flag(check, changes):
    return {flag.name: flag for flag in conclude(evidence(**changes), "full").flags}.get(check.name)


def test_an_honest_network_raises_no_flag():
    findings = conclude(evidence(), "full")
    assert (findings.masking_status, findings.flags) == ("clear", ())


@every_check
def test_a_check_is_raised_at_its_limits_and_not_below(check):
    for case in CASES[check.name]:
        assert flag(check, case(check.suspect - 1e-6)) is None
        for limit, masking_status in (
            (check.suspect, "suspect"),
            (check.masked - 1e-6, "suspect"),
            (check.masked, "masked"),
        ):
            raised = flag(check, case(limit))
            assert raised.masking_status == masking_status
            assert raised.value == pytest.approx(limit, abs=1e-12)
            assert raised.limit == (check.masked if masking_status == "masked" else check.suspect)


def test_no_limit_on_a_share_of_the_images_is_below_the_one_that_is_named():
    assert min(check.suspect for check in CHECKS if check.name != "random_output") == LOWEST_SHARE  # of the logits


@pytest.mark.parametrize("n", [20, 100, 120, 200])
def test_a_difference_of_shares_that_equals_a_limit_reaches_it(n):
    """Whatever the two accuracies are: floating-point rounding does not decide."""
    check = get_check("restarts_matter")
    count = round(check.suspect * n)
    assert count / n == check.suspect
    for rest in range(n - count + 1):
        changes = {"ce": ending_at((rest + count) / n), "restarts_acc": rest / n}
        assert flag(check, changes) is not None, rest


@every_check
def test_a_flag_says_what_was_measured_and_why_it_matters(check):
    raised = flag(check, CASES[check.name][0](check.masked))
    assert f"{check.masked:.1%}" in raised.description
    assert "{" not in raised.description
    assert raised.why


def test_names_are_its_own():
    assert len({check.name for check in CHECKS}) == len(CHECKS) == len(CASES)
    assert all(0 < check.suspect < check.masked for check in CHECKS)


def test_what_was_not_measured_raises_no_flag():
    missing = ("restarts_acc", "large_eps_acc", "black_box_only", "eot_acc", "verified_acc")
    assert conclude(evidence(ce=ending_at(0.4), **dict.fromkeys(missing)), "cheap").masking_status == "clear"


@pytest.mark.parametrize(
    ("changes", "masking_status"),
    [
        ({"zero_gradient": 0.1, "loss_fell": 0.1}, "suspect"),
        ({"zero_gradient": 0.1, "loss_fell": 0.9}, "masked"),
        ({"zero_gradient": 0.9, "loss_fell": 0.1}, "masked"),
    ],
)
def test_the_verdict_is_the_worst_flags(changes, masking_status):
    findings = conclude(evidence(**changes), "full")
    assert [raised.name for raised in findings.flags] == ["zero_gradient", "loss_does_not_rise"]
    assert findings.masking_status == masking_status


@pytest.mark.parametrize(
    ("clean", "noise", "attacked", "raised"),
    [
        (0.9, 0.89, 0.9, False),  # neither breaks anything
        (0.9, 0.7, 0.9, True),  # noise breaks what the attack does not
        (0.9, 0.7, 0.3, False),
    ],
)
def test_noise_is_weighed_against_what_the_attack_breaks(clean, noise, attacked, raised):
    found = conclude(evidence(clean_acc=clean, noise_acc=noise, ce_worst=attacked), "cheap")
    assert ("noise_as_strong" in [one.name for one in found.flags]) is raised


class Through(nn.Module):
    """A network behind another function of its input or its logits."""

    def __init__(self, model, *, before=lambda x: x, after=lambda logits: logits):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x):
        return self.after(self.model(self.before(x)))


def names(findings: Findings):
    return {flag.name for flag in findings.flags}


def test_an_honest_network_is_clear(robust_digits):
    findings = examine(*robust_digits, eps=EPS)
    assert (findings.masking_status, findings.flags) == ("clear", ())
    found = findings.evidence
    model, images, labels = robust_digits
    assert found.clean_acc == (model(images).argmax(1) == labels).double().mean()
    assert list(found.ce) == list(found.cw) == [1, 5, 10, 20, 50, 100]
    assert found.ce[100] < found.ce[5] < found.ce[1] < found.clean_acc
    assert found.ce[100] < found.fgsm_acc < found.half_fgsm_acc < found.clean_acc
    assert found.ce[100] < found.noise_acc < found.clean_acc
    assert (found.large_eps_acc, found.zero_gradient, found.pass_difference, found.eot_acc) == (0, 0, 0, None)
    assert findings.depth == json.loads(json.dumps(findings.describe()))["depth"] == "full"


def test_scaled_logits_are_found_out(robust_digits):
    model, images, labels = robust_digits
    findings = examine(Through(model, after=lambda logits: 1e4 * logits), images, labels, eps=EPS, depth="cheap")
    assert findings.masking_status == "masked"
    assert names(findings) >= {"zero_gradient", "loss_does_not_rise", "ce_far_above_margin"}


def test_a_quantised_input_is_found_out(robust_digits):
    model, images, labels = robust_digits
    findings = examine(Through(model, before=lambda x: (x * 8).round() / 8), images, labels, eps=EPS)
    assert findings.masking_status == "masked"
    assert names(findings) >= {"zero_gradient", "loss_does_not_rise", "black_box_beats_white_box"}
    assert findings.evidence.zero_gradient == 1


def test_noise_at_inference_is_found_out(robust_digits, generator):
    model, images, labels = robust_digits
    noisy = Through(model, before=lambda x: x + 0.1 * torch.randn(x.shape, generator=generator))
    findings = examine(noisy, images, labels, eps=EPS, depth="cheap")
    assert findings.masking_status != "clear"
    assert "random_output" in names(findings)
    assert findings.evidence.eot_acc is not None


def test_what_fell_to_a_verified_suite_counts_against_pgd(robust_digits):
    fallen = torch.zeros(100, dtype=torch.bool)
    findings = examine(*robust_digits, eps=EPS, depth="cheap", verified=fallen)
    assert "pgd_far_above_verified" in names(findings)
    assert findings.evidence.verified_acc == 0


def test_a_cheap_look_runs_no_black_box_and_costs_little(robust_digits):
    model, images, labels = robust_digits
    passed = []
    counting = Through(model, before=lambda x: passed.append(len(x)) or x)
    findings = examine(counting, images, labels, eps=EPS, depth="cheap")
    assert sum(passed) <= 100 * len(images)
    assert findings.evidence.black_box_only is findings.evidence.restarts_acc is None
    kinds = {depth: {type(entry.attack) for entry in attacks(EPS, depth).entries} for depth in ("cheap", "full")}
    assert Square in kinds["full"] - kinds["cheap"]


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match=r"unknown checks\.depth 'ful'; did you mean 'full'\? Known: cheap, full"):
        examine(Linear(normal(2, 4)), uniform(2, 1, 2, 2), torch.tensor([0, 1]), eps=0.1, depth="ful")


def linear(count=40, **through):
    """A linear model of four classes, and images that it classifies correctly."""
    model, x = Linear(normal(4, 16)), uniform(count, 1, 4, 4)
    return Through(model, **through), x, model(x).argmax(1)


def test_the_first_two_hundred_images_are_looked_at():
    model, x, y = linear(230)
    y[200:] = (y[200:] + 1) % 4
    found = examine(model, x, y, eps=0.1, depth="cheap").evidence
    assert (found.n, found.clean_acc) == (200, 1)


def test_images_without_a_gradient_are_counted():
    model, x, y = linear(before=lambda x: torch.where(x[:, :, :1, :1] < 0.5, x.detach() + 0 * x, x))
    expected = (x[:, 0, 0, 0] < 0.5).double().mean()
    assert 0 < expected < 1
    assert examine(model, x, y, eps=0.1, depth="cheap").evidence.zero_gradient == expected


def test_a_gradient_that_is_not_finite_is_none():
    model, x, y = linear(before=lambda x: x + (x - x).sqrt())
    assert examine(model, x, y, eps=0.1, depth="cheap").evidence.zero_gradient == 1


def test_the_difference_of_two_passes_is_a_share_of_the_logits_spread():
    state = {"sign": 1}

    def wobble(logits):
        state["sign"] *= -1
        return logits + 0.01 * state["sign"]

    model, x, y = linear(after=wobble)
    logits = model.model(x)
    found = examine(model, x, y, eps=0.1, depth="cheap").evidence
    assert found.pass_difference == pytest.approx(0.02 / (logits.amax(1) - logits.amin(1)).mean().item(), rel=1e-4)
    assert found.eot_acc is not None


def constant(logits):
    return logits * 1e-3 + torch.tensor([1.0, 0, 0, 0])


@pytest.mark.parametrize(
    ("after", "count", "share"),
    [(constant, 20, 1.0), (constant, 19, None), (lambda logits: logits, 200, None)],
    ids=["one class", "too few to say", "several classes"],
)
def test_one_class_for_every_image_is_found_out(after, count, share):
    model, x, y = linear(count, after=after)
    findings = examine(model, x, y, eps=0.1, depth="cheap")
    assert ("one_class" in {flag.name for flag in findings.flags}) == (share == 1)
    if share is None and count >= 20:
        share = y.bincount().max() / count
    assert findings.evidence.largest_class_share == share


def test_images_of_one_class_say_nothing_of_a_model_that_gives_it():
    model, x, y = linear(200)
    common = y == y.mode().values
    x, y = x[common], y[common]
    assert len(y) >= 20
    findings = examine(model, x, y, eps=0.1, depth="cheap")
    assert findings.evidence.largest_class_share is None


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def test_a_gradient_that_points_downhill_is_found_out():
    model, x, y = linear(before=Backwards.apply)
    findings = examine(model, x, y, eps=0.1, depth="cheap")
    assert findings.evidence.loss_fell == 1
    assert findings.masking_status == "masked"
    assert examine(*linear(), eps=0.1, depth="cheap").evidence.loss_fell == 0


def test_the_model_is_left_as_it_was(robust_digits):
    model, images, labels = robust_digits
    model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        examine(model, images[:20], labels[:20], eps=EPS, depth="cheap")
        assert model.training
    finally:
        model.eval()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


class Leaking(nn.Module):
    """Class 0 but near one half, which the step from there leaps over: what was wrong is right after FGSM."""

    def forward(self, x):
        lead = (x.flatten(1) - 0.5).abs() - 0.02
        return torch.cat([lead, torch.zeros_like(lead)], dim=1)


def test_accuracy_that_rises_under_one_step_is_found_out():
    x, y = torch.tensor([0.51, 0.9]).repeat(20)[:, None, None, None], torch.zeros(40, dtype=torch.int64)
    model = Leaking()
    assert (model(x).argmax(1) == y).double().mean() == 0.5
    assert (model(fgsm(model, x, y, eps=0.1)).argmax(1) == y).all()
    findings = examine(model, x, y, eps=0.1, depth="cheap")
    assert findings.evidence.fgsm_acc == 1
    assert "label_leaking" in names(findings)


@pytest.mark.parametrize("after", [lambda x: x.detach(), lambda x: torch.from_numpy(x.detach().numpy().round(1))])
def test_a_model_that_breaks_its_gradient_off_is_found_out(after):
    model, x, y = linear(before=after)
    findings = examine(model, x, y, eps=0.1, depth="cheap")
    assert findings.masking_status == "masked"
    assert findings.evidence.zero_gradient == 1
