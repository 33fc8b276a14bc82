"""Removes passwords from text that is printed, recorded or logged."""

import contextlib
import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"
LONGEST_SCHEME = 40
SCHEME = re.compile(r"[A-Za-z0-9+.-]*\Z")
BOUNDARY = frozenset(" \t'\"`(<[{,;=|")  # what may stand before a URI in a text
PORT = re.compile(r"(?:localhost|[^:@/]*\.[^:@/]*|\[[^\]]*\]):\d{1,5}")  # of a host whose name looks like one
VALUE = re.compile(r"(?P<name>[?&;#][\w.%-]+=)[^\s'\"&;#)]+")  # in a query: ?token=..., &password=...
URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")
SECRETS = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("RAY_AUTH_TOKEN",),
)  # variables whose value is hidden wherever it appears
SHORTEST = 4  # characters of a secret that is looked for by itself: a shorter one occurs in any text


def redacted(text: str) -> str:
    """Replace the login and query values of every URI in a text, and secrets that the environment holds.

    http://user:secret@host/?token=secret becomes http://***@host/?token=***. A password may contain any character, a
    blank, a quote, `#`, `?`, `/` and `@` too: what is hidden ends at the last @ before the next URI or line. The work
    is linear in the length of the text.
    """
    for secret in _known_secrets():
        text = text.replace(secret, HIDDEN)
    return VALUE.sub(rf"\g<name>{HIDDEN}", "\n".join(map(_without_logins, text.split("\n"))))


def redacted_uri(uri: str) -> str:
    """A text that is one URI, such as a tracking server's, without its login and query values."""
    if "@" in uri:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        with contextlib.suppress(ArgumentError, ValueError):  # a form that it does not know: the pattern serves
            uri = make_url(uri).render_as_string(hide_password=True)
    return redacted(uri)


def _known_secrets() -> Iterator[str]:
    """Secrets in the environment, as they are written there and decoded, longest first."""
    found = {os.environ.get(name, "") for name in SECRETS}
    for name in URIS:
        if password := _password_of(os.environ.get(name, "")):
            found |= {password, unquote(password)}
    yield from sorted((secret for secret in found if len(secret) >= SHORTEST), key=len, reverse=True)


def _password_of(uri: str) -> str:
    """What is between the first : and the last @ of a URI; empty if there is none."""
    _, mark, rest = uri.partition("://")
    if not mark or "@" not in rest or rest.startswith("/"):
        return ""
    return rest.rpartition("@")[0].partition(":")[2]


def _without_logins(line: str) -> str:
    """A line in which the login of every URI is replaced."""
    starts = list(_authorities(line))
    parts, done = [], 0
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(line)
        login_end = line.rfind("@", start, end)
        parts.append(line[done:start])
        done = start
        if login_end >= 0 and _has_login(line[start:login_end]):
            parts.append(HIDDEN)
            done = login_end
    return "".join([*parts, line[done:]])


def _authorities(line: str) -> Iterator[int]:
    """The position after each scheme:// that starts a URI: the first of a line, and those after a boundary."""
    position, first = line.find("://"), True
    while position >= 0:
        low = max(position - LONGEST_SCHEME, 0)
        scheme = SCHEME.search(line[low:position])
        begin = low + scheme.start() if scheme else position
        if first or begin == 0 or line[begin - 1] in BOUNDARY:
            yield position + 3
            first = False
        position = line.find("://", position + 3)


def _has_login(before_at: str) -> bool:
    """Whether what precedes an @ is a login, and not a host with a port, a path or words after it."""
    head = re.split(r"[/\s'\"]", before_at, maxsplit=1)[0]
    if len(head) == len(before_at):
        return True  # nothing but a login: user:password, or a token
    if ":" not in head and "@" not in head:
        return False  # host/path ... @
    return PORT.fullmatch(head) is None
