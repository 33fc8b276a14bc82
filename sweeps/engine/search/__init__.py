"""The search: from a space to a front, and from the front to a champion."""
