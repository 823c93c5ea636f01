"""VMs that share a run directory: what a script writes on them, and what becomes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer.outputs.commits import Version
from trainer.outputs.outputs import QUIET, Outputs
from trainer.rundir.directory import RunDirectory
from trainer.rundir.store import Store

Tree = dict[str, str]


class Vms:
    """VMs that share a run directory and a clock.

    Args:
        folder: where everything is.
        count: how many VMs.
        stores: their stores, of those that are not as usual.
    """

    def __init__(self, folder: Path, count: int, stores: dict[int, Store] | None = None) -> None:
        self.now = 0.0
        self.opened: dict[Path, set[str]] = {}  # to write, by folder
        self.folder = folder
        self.run_dir = RunDirectory(str(folder / "run"))
        self.outputs: list[Outputs] = []
        self.roots: list[Path] = []
        for vm in range(count):
            run_dir = RunDirectory(str(folder / "run"))
            run_dir.store = (stores or {}).get(vm, run_dir.store)
            self.add(run_dir)

    def add(self, run_dir: RunDirectory | None = None) -> None:
        """A VM that has nothing yet."""
        root = self.folder / f"vm-{len(self.roots)}" / "output"
        self.roots.append(root)
        self.outputs.append(
            Outputs(
                run_dir or self.run_dir,
                root,
                clock=lambda: self.now,
                opened=lambda root: self.opened.get(root, set()),
            )
        )

    def begin(self, generation: int, vms: list[int]) -> Version:
        """A generation of these VMs begins, the first of them with rank 0."""
        self.outputs[vms[0]].close()
        version = self.outputs[vms[0]].newest()
        for index, vm in enumerate(vms):
            self.outputs[vm].begin(generation, index, len(vms), version)
        return version

    def write(self, vm: int, tree: Tree) -> None:
        """The script writes files on a VM."""
        for path, text in tree.items():
            file = self.roots[vm] / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def remove(self, vm: int, entry: str) -> None:
        """The script removes a checkpoint on a VM."""
        shutil.rmtree(self.roots[vm] / entry)

    def look(self, *vms: int, times: int = 1, **how: bool) -> list[Version]:
        """Time passes in which files are quiet, and VMs look."""
        found = []
        for _ in range(times):
            self.now += QUIET + 1
            found += [self.outputs[vm].look(**how) for vm in vms]
        return [one for one in found if one]

    def tree(self, vm: int) -> Tree:
        root = self.roots[vm]
        files = [path for path in root.rglob("*") if path.is_file()]
        return {path.relative_to(root).as_posix(): path.read_text() for path in files}


ONE = {"checkpoint-1/a": "a1"}, {"checkpoint-1/b": "b1"}
TWO = {"checkpoint-2/a": "a2"}, {"checkpoint-2/b": "b2"}
WHOLE_ONE = {**ONE[0], **ONE[1]}
WHOLE_TWO = {**WHOLE_ONE, **TWO[0], **TWO[1]}
