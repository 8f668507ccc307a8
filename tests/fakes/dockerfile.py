"""Reads a Dockerfile and carries out its build without an engine, as far as that is honest.

RUN lines are run as they stand, with the absolute paths they write to moved below a directory; the base
image is a fresh environment of the Python at hand. All stages share that directory, so copying from one to
another is right where source and target are the same path, and refused where they are not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_STEP_LIMIT = 300  # seconds one RUN line may take


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its continuation lines joined."""

    name: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    """Every instruction in order, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [Instruction(name, " ".join(text.split()) if name != "RUN" else text) for name, text in pairs]


class Built:
    """What the RUN and COPY lines of a Dockerfile left below *root*."""

    def __init__(self, dockerfile: Path, root: Path, *, own: tuple[str, ...]) -> None:
        """*own* are the absolute paths of the image that belong to us and are moved below *root*."""
        self.root = root
        self._own = own
        self._context = dockerfile.parent
        self._base = root / "base"
        subprocess.run([sys.executable, "-m", "venv", str(self._base)], check=True, timeout=_STEP_LIMIT)
        folder = root
        for each in instructions(dockerfile):
            match each.name:
                case "WORKDIR":
                    folder = Path(self.moved(each.text)) if each.text in own else root / each.text.lstrip("/")
                    folder.mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(each.text, folder)
                case "RUN":
                    self._run(each.text, folder)

    def moved(self, text: str) -> str:
        """*text* with our paths where they are in truth."""
        for path in self._own:
            text = text.replace(path, f"{self.root}{path}")
        return text

    @property
    def base_python(self) -> Path:
        return self._base / "bin" / "python"

    def _copy(self, text: str, folder: Path) -> None:
        *options, source, target = text.split()
        if options:
            assert source == target, f"COPY {text}: stages share one directory here"
            return
        into = folder / self.moved(target)
        if (self._context / source).is_dir():
            shutil.copytree(self._context / source, into, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(self._context / source, into)

    def _run(self, text: str, folder: Path) -> None:
        if os.geteuid():  # only root may give files away
            text = text.replace("-o 10001 -g 10001", "")
        environment = {**os.environ, "PATH": f"{self._base}/bin:/usr/bin:/bin"}
        done = subprocess.run(
            ["/bin/sh", "-c", self.moved(text)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_STEP_LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"RUN {text}\n{done.stdout}{done.stderr}"
