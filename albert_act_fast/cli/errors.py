"""Errors as the command line shows them: one line on stderr and an exit status."""

from __future__ import annotations

# As click and typer: 2 for what the caller can put right in the call, 1 for what failed later.
USAGE = 2
FAILURE = 1


class CommandError(Exception):
    """Ends the command with one line on stderr.

    Args:
        message: names the argument, what was given and what was expected.
        status: the exit status.
    """

    def __init__(self, message: str, status: int = USAGE):
        super().__init__(message)
        self.status = status


def one_line(message: object) -> str:
    """A message of any library as one line."""
    return " ".join(str(message).split())


def file_error(
    argument: str, path: object, error: OSError, doing: str = "read", status: int = USAGE
) -> CommandError:
    """For a file of the caller's that the system refuses."""
    return CommandError(
        f"{argument}: got {str(path)!r}, which cannot be {doing}: {error.strerror or error}",
        status,
    )
