"""The error that users are meant to read."""

from __future__ import annotations

__all__ = ["PoseFRError"]


class PoseFRError(ValueError):
    """Something the user can act on, told in one sentence: what was found, what was expected, what to do."""
