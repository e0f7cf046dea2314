"""Errors as the command line shows them: one line on stderr and an exit status."""

from __future__ import annotations

# As click and typer: 2 for what the caller can put right in the call, 1 for what failed later.
USAGE = 2
FAILURE = 1

# What the system and the libraries say where memory cannot be had.
_NO_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "can't start new thread",
    "unable to mmap",
    "failed to map segment",
    "memory allocation",
)


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
    name = str(path)
    if len(name) > 200:
        name = f"{name[:80]}...{name[-20:]}"
    return CommandError(
        f"{argument}: got {name!r}, which cannot be {doing}: {error.strerror or error}",
        status,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library means that memory could not be had."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError):
            return True
        text = str(seen).lower()
        if any(words in text for words in _NO_MEMORY):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def out_of_memory() -> CommandError:
    """The advice for it."""
    return CommandError(
        "out of memory: the model and its work need more than is free or allowed (ulimit -v); try "
        "a smaller --batch-size, fewer --threads, or a smaller model",
        FAILURE,
    )
