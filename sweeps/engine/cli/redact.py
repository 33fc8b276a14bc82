"""Removes passwords from text that is printed, recorded or logged."""

import re

HIDDEN = "***"
# name:password@ or token@ before a host. A password may contain anything but blanks and quotes, even / and @.
LOGIN = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?:[^\s'\"/@?#:]*:[^\s'\"?#]*|[^\s'\"/@?#]+)@")
VALUE = re.compile(r"(?P<name>[?&;#][\w.%-]+=)[^\s'\"&;#)]+")  # in a query: ?token=..., &password=...


def redacted(text: str) -> str:
    """Replace the login and query values of every URI in a text.

    http://user:secret@host/?token=secret becomes http://***@host/?token=***.
    """
    return VALUE.sub(rf"\g<name>{HIDDEN}", LOGIN.sub(rf"\g<scheme>{HIDDEN}@", text))
