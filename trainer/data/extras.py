"""Packages that some data sets and tasks need, and that Swell is installed without."""

from __future__ import annotations

from importlib.util import find_spec

from trainer.rundir.usererror import Message, Unusable

# Extras of setup.cfg, and the modules that they bring.
MODULES = {
    "finetune": ("transformers", "peft"),
    "images": ("PIL",),
}


def require(extra: str) -> None:
    """Makes sure that what an extra brings is there; nothing is imported.

    Raises Unusable, which names each module that is missing.
    """
    missing = [name for name in MODULES[extra] if find_spec(name) is None]
    if missing:
        raise Unusable.of(
            [
                Message(
                    "SW5209",
                    f"no module {name!r}: pip install 'swell[{extra}]', and put it into the "
                    f"image of the VMs (docs/{extra}.md shows the lines)",
                )
                for name in missing
            ]
        )
