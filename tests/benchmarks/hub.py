"""Cataloguing repositories of a hub from their headers beside downloading them whole, over loopback, in one run.

Run it with `python -m tests.benchmarks.hub [--repositories 500] [--width 512]`: models of two tensors are put on a loopback hub, catalogued by
`ingest_hub`, then downloaded by the client and ingested from disk. Loopback has no latency and no limit of speed to speak of, so what counts
is the bytes; over a network the gap is theirs.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

# Read when huggingface_hub is imported.
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "error"}

import numpy as np
import pytest
from huggingface_hub import snapshot_download
from safetensors.numpy import save_file

from tests.remote.hubs import Hub, running
from weightspace.experiments.tables import Cell, markdown
from weightspace.zoo import Zoo
from weightspace.zoo.hub import ingest_hub, pull_zoo, push_zoo


def filled(hub: Hub, count: int, width: int) -> list[str]:
    """Put models on a hub, each with a card of its own; returns their names."""
    names = [f"lab/m{at}" for at in range(count)]
    for at, name in enumerate(names):
        folder = hub.folder / str(at)
        folder.mkdir(parents=True)
        draw = np.random.default_rng(at)
        save_file(
            {"w": draw.normal(size=(width, width)).astype(np.float32), "b": draw.normal(size=width).astype(np.float32)},
            folder / "model.safetensors",
        )
        (folder / "README.md").write_text(f"---\nlicense: mit\ntags: [m{at}]\n---\n")
        hub.api.create_repo(name)
        hub.api.upload_folder(repo_id=name, folder_path=folder)
    hub.settings.sent.clear()
    return names


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repositories", type=int, default=500)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch, running(Path(scratch), patch) as hub:
        names = filled(hub, options.repositories, options.width)
        zoo = Zoo(Path(scratch) / "headers")
        start = time.perf_counter()
        report = ingest_hub(zoo.catalog, names)
        rows.append({"how": "headers", "seconds": time.perf_counter() - start, "bytes of weights' files": hub.bytes_of(".safetensors")})
        assert report.catalogued == options.repositories
        start = time.perf_counter()
        ingest_hub(zoo.catalog, names)
        rows.append({"how": "headers, again", "seconds": time.perf_counter() - start, "bytes of weights' files": 0})
        hub.settings.sent.clear()
        start = time.perf_counter()
        for name in names:
            snapshot_download(name, endpoint=hub.url, token="any", cache_dir=Path(scratch) / "cache")
        Zoo(Path(scratch) / "whole").ingest(Path(scratch) / "cache")
        rows.append(
            {"how": "download and ingest", "seconds": time.perf_counter() - start, "bytes of weights' files": hub.bytes_of(".safetensors")}
        )
        whole = Zoo(Path(scratch) / "whole")
        start = time.perf_counter()
        pushed = push_zoo(whole, "lab/zoo", private=True)
        rows.append(
            {"how": f"push a zoo of {pushed.models}", "seconds": time.perf_counter() - start, "bytes of weights' files": pushed.num_bytes}
        )
        start = time.perf_counter()
        again = push_zoo(whole, "lab/zoo", private=True)
        rows.append({"how": "push again", "seconds": time.perf_counter() - start, "bytes of weights' files": again.num_bytes})
        hub.settings.sent.clear()
        start = time.perf_counter()
        pull_zoo(Zoo(Path(scratch) / "pulled").catalog, "lab/zoo")
        rows.append({"how": "pull it", "seconds": time.perf_counter() - start, "bytes of weights' files": hub.bytes_of(".safetensors")})
    print(markdown(rows))


if __name__ == "__main__":
    main()
