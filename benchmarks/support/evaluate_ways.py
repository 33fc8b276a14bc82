"""Parts b, c, e and f of the evaluation benchmark: one way to evaluate beside another."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from bat_core.config import AttackConfig
from bat_core.data import Split
from bat_core.suites import Suite, get_suite
from bat_core.verdicts import Verdicts
from support.common import Flags, discordant, points, yes_or_no
from support.timing import BenchSetup, Comparison, Report

BF16_STEPS = 50  # attack steps in part c
BF16_POINTS = 0.2  # tolerated difference of accuracies in part c, in percentage points


def dropping(bench: BenchSetup, suites: Sequence[str]) -> Report:
    """Part b: the worst case over a suite, with and without dropping broken examples."""
    comparisons, seconds, details = [], {}, {}
    for name in suites:
        suite = get_suite(name, **bench.budget)
        keeping = replace(suite, entries=tuple(replace(entry, skip_broken=False) for entry in suite.entries))
        measured = bench.run(
            {f"{name}, dropping": bench.evaluation(suite), f"{name}, keeping": bench.evaluation(keeping)}
        )
        (_, ours), (_, other) = measured.seconds.items()
        one, another = (Verdicts.concat(parts).robust_correct for parts in measured.results.values())
        differ = int((one != another).sum())
        says = f"{one.mean():.2%} robust; {differ} of {len(one)} verdicts differ (identical: {yes_or_no(not differ)})"
        comparisons.append(
            Comparison(what=f"{name}, dropping vs keeping", ours=ours, other=other, target=2, accuracy=says)
        )
        seconds |= measured.seconds
        details[name] = {"robust_acc": one.mean(), "robust_acc_keeping": another.mean(), "differ": differ}
    return Report(f"b: worst case, n = {len(bench.images)}", comparisons, seconds, {"verdicts": details})


def reduced_precision(bench: BenchSetup) -> Report:
    """Part c: searches in bfloat16 and in float32, both with float32 verdicts."""
    attacks: dict[str, AttackConfig | Suite] = {
        f"PGD-{BF16_STEPS} {loss.upper()}": AttackConfig(**bench.budget, steps=(BF16_STEPS,), losses=(loss,))
        for loss in ("ce", "cw")
    }
    attacks["quick"] = get_suite("quick", **bench.budget)
    comparisons, seconds, details = [], {}, {}
    for name, attack in attacks.items():
        measured = bench.run({f"{name} {kind}": bench.evaluation(attack, kind) for kind in ("bfloat16", "float32")})
        half, single = (Verdicts.concat(parts) for parts in measured.results.values())
        for reading in ("worst",) if name == "quick" else ("final", "worst"):
            what = f"{name}, {reading}"
            details[what] = _paired(_reading(half, reading), _reading(single, reading))
            ours, other = measured.seconds.values()
            comparisons.append(
                Comparison(what=what, ours=ours, other=other, target=1.5, accuracy=_in_words(details[what]))
            )
        seconds |= measured.seconds
    title = f"c: searched in bfloat16 (ours) and float32 (other), judged in float32, n = {len(bench.images)}"
    return Report(title, comparisons, seconds, {"verdicts": details})


def _reading(verdicts: Verdicts, reading: str) -> Flags:
    (first, *_) = verdicts.outcomes.values()
    return first.final[:, -1] if reading == "final" else verdicts.robust_correct


def _paired(half: Flags, single: Flags) -> dict[str, float]:
    only_single_broke, only_half_broke, p = discordant(half, single)
    return {
        "bfloat16": float(half.mean()),
        "float32": float(single.mean()),
        "points": points(half, single),
        "only_bfloat16_broke": only_half_broke,
        "only_float32_broke": only_single_broke,
        "sign_test_p": p,
    }


def _in_words(pair: dict[str, float]) -> str:
    return (
        f"{pair['bfloat16']:.2%} and {pair['float32']:.2%}: {pair['points']:+.2f} points"
        f" (within {BF16_POINTS}: {yes_or_no(abs(pair['points']) <= BF16_POINTS)});"
        f" only one broke {pair['only_bfloat16_broke']} and {pair['only_float32_broke']}, p = {pair['sign_test_p']:.2g}"
    )


def cycles(bench: BenchSetup, *, steps: Sequence[int], batch_size: int) -> Report:
    """Part e: both losses to the last of `steps`, with searches that end in their cycle and with every step."""
    attack = AttackConfig(**bench.budget, steps=tuple(steps))
    passed: dict[str, int] = {}
    contenders = {
        name: _counted(bench, passed, name, bench.evaluation(attack, cycles=ends, batch_size=batch_size))
        for name, ends in (("cycles", True), ("every step", False))
    }
    whole = bench.images.whole()
    measured = bench.run(contenders, (whole,))
    one, other = (parts[0] for parts in measured.results.values())
    differ = sum(
        int(
            (outcome.final != other.outcomes[name].final).sum()
            + (outcome.broken_at != other.outcomes[name].broken_at).sum()
        )
        for name, outcome in one.outcomes.items()
    )
    fewer = passed["every step"] / passed["cycles"]
    ours, theirs = measured.seconds.values()
    comparison = Comparison(
        what=f"CE + CW to {steps[-1]} steps, ends in a cycle vs every step",
        ours=ours,
        other=theirs,
        target=3,
        accuracy=f"{fewer:.2f}x fewer passes (at least 5: {yes_or_no(fewer >= 5)}); {differ} verdicts differ",
    )
    return Report(f"e: cycles, n = {len(whole)}", [comparison], measured.seconds, {"passes": passed, "differ": differ})


def verifying(bench: BenchSetup, suites: Sequence[str], *, batch_size: int) -> Report:
    """Part f: suites that verify. The first is compared with each of the others."""
    passed: dict[str, int] = {}
    contenders = {
        name: _counted(bench, passed, name, bench.evaluation(get_suite(name, **bench.budget), batch_size=batch_size))
        for name in suites
    }
    whole = bench.images.whole()
    measured = bench.run(contenders, (whole,))
    robust = {name: parts[0].robust_correct for name, parts in measured.results.items()}
    (first, mine), *others = robust.items()
    comparisons, details = [], {}
    for name, theirs in others:
        missed, gained, _ = discordant(mine, theirs)
        details[name] = {"missed": missed, "gained": gained, "points": points(mine, theirs)}
        says = (
            f"{mine.mean():.2%} and {theirs.mean():.2%}; broken by {name} alone {missed}, by {first} alone {gained};"
            f" {passed[first] / len(whole):.0f} and {passed[name] / len(whole):.0f} passes an image"
        )
        ours, other = measured.seconds[first], measured.seconds[name]
        comparisons.append(Comparison(what=f"{first} vs {name}", ours=ours, other=other, target=2, accuracy=says))
    accuracies = {name: float(flags.mean()) for name, flags in robust.items()}
    found = {"passes": passed, "robust_acc": accuracies, "compared": details, "n": len(whole)}
    return Report(f"f: verifying suites, n = {len(whole)}", comparisons, measured.seconds, found)


def _counted(
    bench: BenchSetup, passed: dict[str, int], name: str, run: Callable[[Split], Verdicts]
) -> Callable[[Split], Verdicts]:
    """`run`, with the number of images that go through the network put into `passed`."""

    def count(block: Split) -> Verdicts:
        passed[name] = 0
        hook = bench.model.register_forward_pre_hook(
            lambda _, inputs: passed.update({name: passed[name] + len(inputs[0])})
        )
        try:
            return run(block)
        finally:
            hook.remove()

    return count
