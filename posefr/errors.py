"""The error that users are meant to read."""

from __future__ import annotations

__all__ = ["PoseFRError", "brief"]

_LONGEST = 200  # letters of another's message within ours


class PoseFRError(ValueError):
    """Something the user can act on, told in one sentence: what was found, what was expected, what to do."""


def brief(error: BaseException) -> str:
    """What an error of a library says, as part of our own sentence: its first line, cut to a line's length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= _LONGEST else f"{lines[0][:_LONGEST]}..."
