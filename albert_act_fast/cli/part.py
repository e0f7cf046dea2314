"""A file that is written piece by piece: as a folder beside its place, moved there when complete.

The folder OUT.part holds the data so far and a note of how far it got. A run that is cut off leaves
it for `--resume`; one that is killed at any moment loses what came after the last note, no more.
Its name tells no process: where every run has the same number, as in containers, or another, the
next run finds it, and a lock tells whether its owner is still at work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
from pathlib import Path

from albert_act_fast.cli.errors import FAILURE, CommandError, file_error

_LONGEST_NAME = 255
_FILES = ("data", "lines", "complete", "note.new", "note.json")


class Part:
    """The folder of an output file that is being written.

    Attributes:
        path: the folder.
        data: the file in it.
        note: what the last `checkpoint` wrote, in a run that resumes; else None.
        discarded: how many texts a part that was not resumed had held.
    """

    def __init__(self, output: Path, *, force: bool, resume: bool):
        """
        Raises:
            CommandError: `output` is there and `force` is off, is no regular file, cannot be
                written, or is being written by another run; or there is nothing to resume.
        """
        self.output = output
        self.force = force
        self._lock: int | None = None
        try:
            # A link stays a link: what it points to is replaced.
            self._target = Path(os.path.realpath(output))
            self._refuse_existing()
            self.path = _beside(self._target)
            self._files = [str(self.path / name) for name in _FILES]
            self.note, self.discarded = None, 0
            self._open(resume)
        except OSError as error:
            self.close()
            raise file_error("--output", output, error, "written") from None
        except BaseException:
            self.close()
            raise

    @property
    def data(self) -> Path:
        return self.path / "data"

    def checkpoint(self, note: dict) -> None:
        """What was written up to here is complete; a later `--resume` goes on from here."""
        temporary = self.path / "note.new"
        temporary.write_text(json.dumps(note), encoding="utf-8")
        os.replace(temporary, self.path / "note.json")
        self.note = note

    def finish(self, file: Path) -> None:
        """Moves the complete file to its place.

        Raises:
            CommandError: something has come into being there meanwhile; or the move fails.
        """
        self._refuse_existing()
        try:
            if self._target.exists():
                os.chmod(file, stat.S_IMODE(self._target.stat().st_mode))
            os.replace(file, self._target)
        except OSError as error:
            raise file_error("--output", self.output, error, "written", FAILURE) from None
        self._remove()

    def kept(self) -> str | None:
        """What a run that ends now leaves, in words; None if that is nothing."""
        if self.note is None:
            return None
        return (
            f"{self.note['texts']} texts are done and kept in {self.path}: the same command with "
            "--resume goes on"
        )

    def tidy(self) -> None:
        """Removes the folder unless there is something to resume."""
        if self.note is None and self._lock is not None:
            self._remove()

    def close(self) -> None:
        """Gives up the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove(self) -> None:
        # Not shutil.rmtree, which may fail where memory has run out.
        for name in self._files:
            with contextlib.suppress(OSError):
                os.unlink(name)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)

    def _refuse_existing(self) -> None:
        try:
            mode = os.stat(self._target).st_mode
        except FileNotFoundError:
            return
        name = str(self.output)
        if stat.S_ISDIR(mode):
            raise CommandError(f"--output: got {name!r}, a folder; expected a file")
        if not stat.S_ISREG(mode):
            raise CommandError(
                f"--output: got {name!r}, which is no regular file (a device, a pipe or a socket); "
                "expected the name of a file"
            )
        if not self.force:
            raise CommandError(
                f"--output: got {name!r}, which exists; expected a new file (--force overwrites it)"
            )

    def _open(self, resume: bool) -> None:
        made = True
        try:
            self.path.mkdir()
        except FileExistsError:
            made = False
        lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise CommandError(
                f"--output: got {str(self.output)!r}, which another run is writing "
                f"({self.path.name} is locked)"
            ) from None
        self._lock = lock
        note = None if made else self._read_note()
        if resume:
            if note is None:
                self.tidy()
                raise CommandError(
                    f"--resume: there is nothing to resume: {self.path} is "
                    + ("missing" if made else "empty")
                )
            self.note = note
            return
        self.discarded = 0 if note is None else note.get("texts", 0)
        for entry in self.path.iterdir():
            entry.unlink()
        # Where it cannot be written is told now, not after the work.
        self.data.touch()

    def _read_note(self) -> dict | None:
        try:
            return json.loads((self.path / "note.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None


def _beside(target: Path) -> Path:
    name = f"{target.name}.part"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        # The file's own name still fits, or not; that is the system's to say.
        target.with_name(target.name).exists()
        digest = hashlib.blake2b(os.fsencode(target.name), digest_size=8).hexdigest()
        name = f"{target.name[:40]}-{digest}.part"
    return target.with_name(name)
