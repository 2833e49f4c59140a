"""Shares out texts with fedpipe in a folder of its own, and reads who got which."""

import json
import os
import subprocess
from pathlib import Path


class Failed(Exception):
    """A command that should have succeeded, or a case that should have held, with what is to be said."""


class Space:
    """A folder with a base, texts with these labels, and the program."""

    def __init__(self, binary, folder, base, labels):
        self.binary, self.folder, self.base = binary, Path(folder), base
        self.folder.mkdir(parents=True)
        lines = ["sentence\tlabel"] + [f"a film\t{label}" for label in labels]
        (self.folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def split(self, clients, given):
        """The positions of each client, where `given` is what a file for `Explicit` says."""
        (self.folder / "split.json").write_text(json.dumps(given), encoding="utf-8")
        stages = [
            f"base: Model(folder: {json.dumps(str(self.base))})",
            'data: Dataset(file: "train.tsv")',
            "tokens: Tokenize(of: data, with: base, max_len: 8)",
            f'shards: Partition(of: tokens, clients: {clients}, by: Explicit(file: "split.json"))',
        ]
        text = "Graph(\n    seed: 17,\n    stages: (\n        " + ",\n        ".join(stages) + ",\n    ),\n)\n"
        (self.folder / "graph.ron").write_text(text, encoding="utf-8")
        self._run()
        return json.loads(self._file("shards", "indices.json"))["clients"]

    def _run(self):
        # Settings of the caller's own shell are not those of the check.
        env = {name: value for name, value in os.environ.items() if not name.startswith("FEDPIPE_")}
        command = [self.binary, "run", "graph.ron", "--device", "cpu"]
        done = subprocess.run(command, cwd=self.folder, env=env | {"NO_COLOR": "1"}, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"fedpipe exited with {done.returncode}: {done.stderr.strip()}")

    def _file(self, step, name):
        """A file of a step's result, as the latest run left it."""
        runs = (self.folder / ".fedpipe/runs").glob("*/run.json")
        latest = max(runs, key=lambda path: path.stat().st_mtime_ns)
        key = json.loads(latest.read_text(encoding="utf-8"))["keys"][step]
        head = json.loads(self._stored("ac", key))["head"]
        # A long listing is not in the record, but a blob like any other.
        for line in (head["listing"] or self._stored("cas", head["digest"])).splitlines()[1:]:
            digest, _, entry = line.split(" ", 2)
            if entry == name:
                return self._stored("cas", digest)
        raise Failed(f"the result of `{step}` has no {name}")

    def _stored(self, area, digest):
        return (self.folder / ".fedpipe" / area / digest[:2] / digest[2:]).read_text(encoding="utf-8")
