"""A Python environment of a VM's own, where the VM shares this machine's files.

A container's ``pip install`` changes the container. Without one it would change the environment
that the emulator runs in: its user's. So each VM gets a virtual environment on top of that one:
what is installed there is seen, and never changed, and what a VM installs is its own. It is made in
some milliseconds, since it has nothing in it but links.

What knows the user's environment by its whole path gets by that: for instance
``/home/me/venv/bin/pip``.
"""

from __future__ import annotations

import functools
import shutil
import site
import sys
import sysconfig
import venv
from pathlib import Path

_HEAD = 512  # bytes of a script, in which its interpreter is named
# sh, since the path of an environment may be too long for the first line of a script.
_SCRIPT = """\
#!/bin/sh
exec "${{0%/*}}/python" '{scripts}'/"${{0##*/}}" "$@"
"""
# Where --user leads: a folder of the VM's, too.
_OWN_USER_SITE = """\
import site; site.ENABLE_USER_SITE = True; site.addsitedir(site.getusersitepackages())
"""


class Interpreter:
    """The Python of one VM.

    Args:
        folder: what it is made of; made unless it is there, for a VM may be using it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        made = folder / "made"
        if not made.exists():
            self._make()
            made.touch()

    @property
    def path(self) -> Path:
        """Its program."""
        return self._folder / "bin" / "python"

    def variables(self, search: str) -> dict[str, str]:
        """The variables by which programs find it; ``search`` is the PATH without it."""
        return {
            "PATH": f"{self.path.parent}:{search}",
            "VIRTUAL_ENV": str(self._folder),
            "PYTHONUSERBASE": str(self._folder / "user"),
        }

    def _make(self) -> None:
        folder = self._folder
        shutil.rmtree(folder, ignore_errors=True)
        venv.EnvBuilder(symlinks=True).create(folder)
        # pip refuses --user where it reads "false"; Python takes any word but "true" for no.
        about = folder / "pyvenv.cfg"
        about.write_text(about.read_text().replace("packages = false", "packages = no"))
        paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
        # Not system_site_packages: that is the base interpreter's, not that of this environment.
        lines = [f"import site; site.addsitedir({path!r})\n" for path in _seen()]
        Path(paths["purelib"], "emulator.pth").write_text("".join([_OWN_USER_SITE, *lines]))
        self._link_scripts()

    def _link_scripts(self) -> None:
        """Lets scripts of the environment below, pip among them, run in this one."""
        scripts = Path(sys.executable).parent
        runner = self._folder / "script"
        runner.write_text(_SCRIPT.format(scripts=str(scripts).replace("'", "'\\''")))
        runner.chmod(0o755)
        for name in _python_scripts(scripts):
            link = self.path.parent / name
            if not link.exists():
                link.symlink_to(runner)


def _seen() -> list[str]:
    """The folders of packages that this process's own interpreter looks into."""
    own = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return list(dict.fromkeys([*own, *map(sysconfig.get_path, ("purelib", "platlib"))]))


@functools.cache
def _python_scripts(folder: Path) -> list[str]:
    """The scripts in a folder that its own Python runs."""
    found = []
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(_HEAD)
            if head.startswith(b"#!") and bytes(folder / "python") in head:
                found.append(path.name)
    return found
