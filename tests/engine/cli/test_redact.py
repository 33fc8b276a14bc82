"""No password is shown: in a URI, in what an error says of it, in a command."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bat_core.errors import InputError
from sweeps.engine.cli import redact
from sweeps.engine.cli.app import command_line
from sweeps.engine.cli.redact import redacted, redacted_uri
from sweeps.engine.tracking.background import describe_error, failure_of
from sweeps.engine.tracking.location import how_to_open

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:s3cr3t@host:5000/path", "http://***@host:5000/path"),
        ("https://s3cr3t@host", "https://***@host"),
        ("https://:s3cr3t@host", "https://***@host"),
        ("https://user:s3cr3t@s3cr3t/s3cr3t@host/p", "https://***@host/p"),
        ("http://user:s3cr3t#s3cr3t?s3cr3t@host/p", "http://***@host/p"),
        ("http://user:s3cr3t s3cr3t@host/p", "http://***@host/p"),
        ("http://user:s3cr3t'\"s3cr3t@host/p", "http://***@host/p"),
        ("http://user:12 s3cr3t@host", "http://***@host"),
        ("https://s3cr3t#s3cr3t@host", "https://***@host"),
        ("cannot reach http://127.0.0.1:5000/x for me@home", "cannot reach http://127.0.0.1:5000/x for me@home"),
        ("https://host/@name", "https://host/@name"),
        (
            "postgresql+psycopg2://user:s3cr3t@host/db?sslmode=x&password=s3cr3t",
            "postgresql+psycopg2://***@host/db?sslmode=***&password=***",
        ),
        ("mysql://u:s3cr3t%40@[::1]:3306/db", "mysql://***@[::1]:3306/db"),
        ("http://host/?token=s3cr3t#access_token=s3cr3t", "http://host/?token=***#access_token=***"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///C:/data/me@home/mlflow.db", "sqlite:///C:/data/me@home/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("models:/bat-sweeps@champion", "models:/bat-sweeps@champion"),
        (
            "API request to http://u:s3cr3t@h/api?token=s3cr3t failed: (url: /?token=s3cr3t)",
            "API request to http://***@h/api?token=*** failed: (url: /?token=***)",
        ),
        ("'http://u:s3cr3t@h' and \"http://v:s3cr3t@i\"", "'http://***@h' and \"http://***@i\""),
    ],
)
def test_what_is_shown_of_a_uri(uri, shown):
    assert redacted(uri) == shown
    assert redacted(shown) == shown


PRINTABLE = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1)


@given(
    user=st.text("abc", max_size=3),
    password=PRINTABLE,
    said=st.sampled_from(["{}", "cannot reach {}: refused", "'{}'"]),
)
def test_no_password_of_any_kind_is_shown(user, password, said):
    marked = f"{SECRET}{password}{SECRET}"
    assert SECRET not in redacted(said.format(f"http://{user}:{marked}@host:5000/path"))


def test_what_is_printed_and_kept(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--address", "ray://u:s3cr3t@head:10001"])
    uri = "postgresql://u:s3cr3t@h/db"
    trouble = ValueError(f"cannot\nopen {uri} " + "x" * 500 + f" {uri}")

    def fail():
        raise trouble

    told = (
        command_line(),
        how_to_open(uri),
        how_to_open("http://u:s3cr3t@h"),
        describe_error(trouble),
        failure_of(fail, patience=60),
    )
    assert SECRET not in "".join(map(str, told))
    assert all("\n" not in str(one) for one in told)
    assert '--backend-store-uri "$MLFLOW_TRACKING_URI"' in told[1]


def test_a_sentence_of_ours_is_never_cut():
    said = f"'{'/long' * 200}/verdicts.parquet' is not a complete verdicts file: it ends early"
    assert describe_error(InputError(said)) == said


@pytest.mark.parametrize("text", ["a", "a://", "http://u:a@", "?a=", "://", "http://u:", "#", "a:", "@"])
def test_the_work_does_not_grow_with_the_square_of_the_length(text, monkeypatch):
    """Counted in characters that the search for schemes and logins looks at, not in seconds."""
    seen = 0

    class Counted:
        def __init__(self, pattern):
            self.pattern = pattern

        def __getattr__(self, name):
            method = getattr(self.pattern, name)

            def call(*arguments, **more):
                nonlocal seen
                seen += sum(len(argument) for argument in arguments if isinstance(argument, str))
                return method(*arguments, **more)

            return call

    for name in ("SCHEME", "PORT", "VALUE"):
        monkeypatch.setattr(redact, name, Counted(getattr(redact, name)))
    length = 60_000
    redacted(text * (length // len(text)))
    assert seen <= 50 * length


@pytest.mark.parametrize("password", ["a#b?c", "a b c", "a'b\"c", "a%23b", "abcd"])
def test_a_password_of_the_environment_is_hidden_wherever_it_appears(monkeypatch, password):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{password}@host/db")
    said = f"FATAL: login with {password!s} failed for <{password}>"
    assert password not in redacted(said)
    assert password not in how_to_open(f"postgresql://me:{password}@host/db")
    assert password not in redacted_uri(f"https://me:{password}@host/db")
