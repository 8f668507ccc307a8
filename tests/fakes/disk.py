"""A disk that is soon full: a small file system of its own, with ballast in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.support import give_up


class SmallDisk:
    """Mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @property
    def free(self) -> int:
        """Bytes."""
        return shutil.disk_usage(self.path).free

    def load(self, nbytes: int) -> None:
        """Take so many bytes away from everybody else."""
        self._ballast.write_bytes(bytes(nbytes))

    def unload(self) -> None:
        """Give them back."""
        self._ballast.unlink()


@contextmanager
def small_disk(folder: Path, nbytes: int) -> Iterator[SmallDisk]:
    """A file system of *nbytes* in *folder*. Skips the test where none may be mounted."""
    mount = folder / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "none", mount], capture_output=True, check=False
    )
    if made.returncode:
        give_up(f"cannot mount a small disk: {made.stderr.decode().strip()}")
    try:
        yield SmallDisk(mount)
    finally:
        subprocess.run(["umount", mount], check=True)
