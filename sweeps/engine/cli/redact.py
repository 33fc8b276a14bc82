"""Keeps passwords out of what is printed, recorded and logged."""

import re

HIDDEN = "***"
# name:password@ or token@ before a host. A password may hold whatever is no blank or quote, even / and @.
LOGIN = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?:[^\s'\"/@?#:]*:[^\s'\"?#]*|[^\s'\"/@?#]+)@")
VALUE = re.compile(r"(?P<name>[?&;#][\w.%-]+=)[^\s'\"&;#)]+")  # in a query: ?token=..., &password=...


def redacted(text: str) -> str:
    """A text in which no URI shows its login or what its query says.

    http://user:secret@host/?token=secret becomes http://***@host/?token=***.
    """
    return VALUE.sub(rf"\g<name>{HIDDEN}", LOGIN.sub(rf"\g<scheme>{HIDDEN}@", text))
