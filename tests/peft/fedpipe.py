"""Runs fedpipe in a folder, and reads what it keeps there."""

import json
import os
import subprocess
from pathlib import Path

from safetensors.torch import load_file


class Failed(Exception):
    """A command that should have succeeded, with what it said."""


class Space:
    """A folder with its own store, and the program."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def write_rows(self, name, rows):
        """A TSV file of dictionaries with the same keys."""
        lines = [list(rows[0])] + [list(row.values()) for row in rows]
        text = "".join("\t".join(str(cell) for cell in line) + "\n" for line in lines)
        (self.folder / name).write_text(text, encoding="utf-8")

    def run(self, graph, *edits):
        """Runs a graph, given as text, to its end; `edits` are those of `--set`."""
        (self.folder / "graph.ron").write_text(graph, encoding="utf-8")
        sets = [word for edit in edits for word in ("--set", edit)]
        self._call("run", "graph.ron", "--device", "cpu", *sets)
        return Run(self)

    def _call(self, *args):
        # Settings of the caller's own shell are not those of the check.
        env = {name: value for name, value in os.environ.items() if not name.startswith("FEDPIPE_")}
        done = subprocess.run(
            [self.binary, *args], cwd=self.folder, env=env | {"NO_COLOR": "1"}, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise Failed(f"`fedpipe {' '.join(args)}` exited with {done.returncode}: {done.stderr.strip()}")


class Run:
    """The latest run of a space."""

    def __init__(self, space):
        self.space, self.store = space, space.folder / ".fedpipe"
        latest = max((self.store / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
        self.keys = json.loads(latest.read_text(encoding="utf-8"))["keys"]

    def export(self, name, *flags):
        """Exports the last adapter into a new folder."""
        self.space._call("export", "last", name, *flags)
        return self.space.folder / name

    def predictions(self, step, client=None):
        """What a step of `Evaluate` said of every example, with a client's own model where it has one."""
        folder = "" if client is None else f"client-{client:03}/"
        return load_file(self._file(step, f"{folder}predictions.safetensors"))

    def adapter(self, step):
        """The tensors of the adapter that a step made."""
        return load_file(self._file(step, "adapter.safetensors"))

    def _file(self, step, name):
        """Where a file of a step's result lies: a blob that is named by its hash."""
        head = json.loads(self._place("ac", self.keys[step]).read_text(encoding="utf-8"))["head"]
        # A long listing is not in the record, but a blob like any other.
        listing = head["listing"] or self._place("cas", head["digest"]).read_text(encoding="utf-8")
        for line in listing.splitlines()[1:]:
            digest, _, entry = line.split(" ", 2)
            if entry == name:
                return self._place("cas", digest)
        raise Failed(f"the result of `{step}` has no {name}")

    def _place(self, area, digest):
        return self.store / area / digest[:2] / digest[2:]
