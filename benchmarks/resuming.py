"""Which samples libraries leave out or take again when a script resumes, also in another world.

Each library trains half an epoch under torchrun, saves, and is started again from its checkpoint,
in the same world and in a larger and a smaller one, until the epoch is over. What is counted, of
the 96 samples of the epoch:

    again      were trained on before the restart, and after it as well
    left out   were not trained on at all

The scripts are those of jobs/resume.py, as small as the libraries' documentation has them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from jobs.resume import LIBRARIES, SAMPLES, STEPS
from rows import Case, Options, Row, benchmark

JOB = Path(__file__).parent / "jobs" / "resume.py"
WORLDS = ((2, 2), (2, 1), (1, 2))


def train(library: str, world: int, folder: Path, phase: str) -> list[int]:
    """Runs the script. Returns the samples that it has trained on."""
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world)),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
            *(str(JOB), library, str(folder), phase),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    texts = [path.read_text() for path in folder.glob(f"{phase}-*.seen")]
    return [int(word) for text in texts for word in text.split()]


def resume(library: str, options: Options) -> Iterator[Row]:
    """One library, in all pairs of worlds."""
    for before, after in WORLDS:
        with tempfile.TemporaryDirectory(prefix="swell-resuming-") as name:
            folder = Path(name)
            first = train(library, before, folder, "first")
            assert len(first) == STEPS * 4 * before, (library, len(first))
            second = train(library, after, folder, "second")
        case = f"from {before} to {after}"
        again = len({*first} & {*second}) + len(second) - len({*second})
        left_out = SAMPLES - len({*first} | {*second})
        yield Row.of(library, case, "again", "samples", [float(again)])
        yield Row.of(library, case, "left out", "samples", [float(left_out)])


CASES: Mapping[str, Case] = {library: partial(resume, library) for library in LIBRARIES}

if __name__ == "__main__":
    sys.exit(benchmark(__doc__, CASES, runs=1))
