"""What the benchmark of shards measures is a whole epoch, each sample once."""

from __future__ import annotations

from pathlib import Path

from jobs.shards import IMPORTED, swell
from trainer.data import write_shards

SAMPLES = 300


def test_swell_reads_all_samples_once(tmp_path: Path) -> None:
    samples = ({"data": bytes(number + 1), "number": number} for number in range(SAMPLES))
    write_shards(samples, tmp_path, shard_size=2**13)
    first, *sizes = swell(str(tmp_path), "")
    assert first == IMPORTED
    assert sorted(sizes) == list(range(1, SAMPLES + 1))
