"""A job of benchmarks/shards.py: reads all samples once, and says how long it took.

    shards.py SYSTEM URL CACHE

It prints, as JSON, samples, their bytes, and seconds: of the whole, until the first sample, and of
the processor, with those of processes that have ended. They begin when everything is imported.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

BATCH = 256
IMPORTED = -1  # what each gives first


def plain(url: str, cache: str) -> Iterator[int]:
    """Gives the bytes of each shard."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(url)
    yield IMPORTED
    for path in sorted(fs.ls(root, detail=False)):
        yield len(fs.cat_file(path))


def swell(url: str, cache: str) -> Iterator[int]:
    """Samples in the order in which a world of one takes them."""
    import fsspec
    import torch
    from fsspec.utils import get_protocol

    from trainer.data import Shards
    from trainer.engine.data import Order
    from trainer.engine.dealing import Dealer
    from trainer.engine.foresight import Foresight
    from trainer.engine.plan import Plan

    fsspec.get_filesystem_class(get_protocol(url))
    yield IMPORTED
    data = Shards(url, folder=cache)
    order = Order.of(data, BATCH, seed=0)
    near, far, foresight = Dealer(order), Dealer(order), Foresight.of(data)

    def plan(dealer: Dealer, number: int) -> Plan:
        dealt = dealer.deal(number - 1, 0, [1.0], False)._asdict()
        return Plan(
            number=number,
            total=order.steps_per_epoch,
            rank=0,
            size=1,
            device=torch.device("cpu"),
            **dealt,
        )

    for number in range(1, order.steps_per_epoch + 1):
        step = plan(near, number)
        if foresight is not None:
            foresight.begin(step, None, lambda one: plan(far, one))
        for index in step.indices.tolist():
            yield len(data[index]["data"])
    data.close()


def mosaicml(url: str, cache: str) -> Iterator[int]:
    """Samples in the shuffled order that is its default."""
    import google.auth
    from google.auth.credentials import AnonymousCredentials

    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
    google.auth.default = lambda *args, **how: (nobody, "project")
    from streaming import StreamingDataset

    yield IMPORTED
    where = {"remote": url, "local": cache} if "://" in url else {"local": url}
    for sample in StreamingDataset(**where, shuffle=True, batch_size=BATCH):
        yield len(sample["data"])


def webdataset(url: str, cache: str) -> Iterator[int]:
    """Samples of shuffled shards, through a buffer that shuffles."""
    import webdataset as wds

    yield IMPORTED
    if "://" in url:
        import fsspec

        fs, root = fsspec.core.url_to_fs(url)
        host = os.environ["STORAGE_EMULATOR_HOST"]
        names = [path.partition("/") for path in fs.ls(root, detail=False)]
        urls = [
            f"{host}/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media"
            for bucket, _, name in names
        ]
    else:
        urls = [str(path) for path in sorted(Path(url).glob("*.tar"))]
    data = wds.WebDataset(urls, shardshuffle=len(urls), empty_check=False).shuffle(1000)
    for sample in data.to_tuple("data", "cls"):
        yield len(sample[0])


def main() -> None:
    """Reads, and prints."""
    system, url, cache = sys.argv[1:]
    systems = {"plain read": plain, "Swell": swell, "MosaicML": mosaicml, "WebDataset": webdataset}
    read = systems[system](url, cache)
    assert next(read) == IMPORTED
    began, before = time.perf_counter(), processor()
    size, count = next(read), 1
    first = time.perf_counter() - began
    for one in read:
        size, count = size + one, count + 1
    seconds = time.perf_counter() - began
    told = {"samples": count, "bytes": size, "first": first, "seconds": seconds}
    print(json.dumps({**told, "processor": processor() - before}), flush=True)


def processor() -> float:
    """Seconds of the processor that this process has had, and those it has waited for."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in each)


if __name__ == "__main__":
    main()
