"""Whether an answer is correct is decided in one place: nothing else compares an argmax with a label."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARGMAX = re.compile(r"\bargm(?:ax|in)\s*\(|\.max\((?:dim=)?-?1\)(?:\.indices|\[1\])|\.topk\(1\b")
PREDICATE = "bat_core/correctness.py"
OTHER_USES = {  # that ask for a class, not for a verdict
    "bat_core/attacks/cycles.py": 1,  # the last of the steps at which a point was met
    "bat_core/masking/checks.py": 1,  # the class predicted for each image, to find models that predict one class
    "bat_core/masking/inspection.py": 1,  # the same
    "bat_core/trainable.py": 1,  # predictions as labels of random images
    "sweeps/engine/search/auto_sampler.py": 1,  # the best of the candidates
    "bat_core/recipes/bilateral.py": 1,  # the class with the nearest boundary, a target
}


def uses():
    found = {}
    for folder in ("bat_core", "sweeps", "search_spaces", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            if count := len(ARGMAX.findall(path.read_text(encoding="utf-8"))):
                found[path.relative_to(ROOT).as_posix()] = count
    return found


def test_no_other_code_decides_what_is_correct():
    found = uses()
    assert found.pop(PREDICATE) == 2  # is_correct, and the class that verdicts keep
    assert found == OTHER_USES
