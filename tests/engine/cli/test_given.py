"""Whether an option was given is what the parser says, whatever its value is."""

import copy
import pickle
from dataclasses import MISSING, fields

import pytest
from cyclopts import App, Parameter

from bat_core.errors import InputError
from sweeps.engine.cli.options import SweepOptions
from sweeps.engine.evaluation.options import EvaluateOptions, TransferOptions
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.search.options import RESIZABLE, SearchOptions
from sweeps.eps_budget import EpsBudgetOptions

SWEEPS = (SweepOptions, EpsBudgetOptions, TableOptions, SearchOptions)
JOBS = (EvaluateOptions, TransferOptions)


def typed(kind, *arguments):
    """The options that the command line gives, parsed as `command` does it."""
    nothing = kind()

    def main(*models: str, options: kind = nothing) -> kind:
        return options

    app = App(result_action="return_value", default_parameter=Parameter(negative=""))
    app.default(main)
    return app(list(arguments), exit_on_error=False, print_error=False)


def words(option, value):
    """An option typed with a value, as a command line has it."""
    if isinstance(value, bool):
        return [option] if value else []
    values = value if isinstance(value, tuple) else (value,)
    return [option, *map(str, values)]


def can_be_typed(default):
    """Whether a default is a value that somebody can type: not None, no empty text or list, no flag that is off."""
    return default is not MISSING and default is not False and default not in (None, (), "")


DEFAULTS = [
    pytest.param(kind, field.name, id=f"{kind.__name__}-{field.name}")
    for kind in (*SWEEPS, *JOBS)
    for field in fields(kind)
    if can_be_typed(field.default)
]


@pytest.mark.parametrize(("kind", "name"), DEFAULTS)
def test_an_option_typed_with_its_default_was_given(kind, name):
    default = next(field.default for field in fields(kind) if field.name == name)
    options = typed(kind, *words(kind.flag(name), default))
    assert getattr(options, name) == default
    assert options.given == (name,)


@pytest.mark.parametrize("kind", [*SWEEPS, *JOBS])
def test_nothing_typed_is_nothing_given(kind):
    assert typed(kind).given == kind().given == ()


@pytest.mark.parametrize(("kind", "name"), DEFAULTS)
def test_with_resume_it_is_refused_or_takes_effect_even_if_it_is_the_default(kind, name):
    default = next(field.default for field in fields(kind) if field.name == name)
    options = typed(kind, "--resume", "folder", *words(kind.flag(name), default))
    if (
        (kind is SearchOptions and name in RESIZABLE)
        or name == "stall_minutes"
        or (name == "cycles" and kind in SWEEPS)
    ):
        options.refuse_with_resume(also_allowed=RESIZABLE)
        return
    refuse = options.refuse_with_resume if kind in SWEEPS else lambda: options.refuse_with_resume((), "job")
    with pytest.raises(InputError, match=f"^{kind.flag(name)} cannot be given with --resume"):
        refuse()


def test_flags_are_those_of_the_command_line():
    flags = {SearchOptions.flag(name) for name in ("fixed", "ranges", "num_trials", "eps")}
    assert flags == {"--set", "--range", "--num-trials", "--eps"}


def test_in_python_the_arguments_were_given():
    options = SearchOptions(num_trials=40, resume="folder", finalists=0)
    assert options.given == ("resume", "num_trials", "finalists")
    assert options == SearchOptions(resume="folder")
    assert [copy.deepcopy(options).given, pickle.loads(pickle.dumps(options)).given] == [options.given] * 2
