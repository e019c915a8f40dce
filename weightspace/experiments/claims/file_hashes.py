"""That a file's hash does not say whether two checkpoints have the same weights, nor a file whether its weights are those that were saved."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import weightspace as ws
from weightspace.experiments.claim import Finding, at_least, at_most, claim

SAVED = 8


@claim(
    "file-hashes",
    statement="A safetensors file's hash is not reproducible and a changed payload goes unseen, so that weights are told by hashes of tensors.",
    source="safetensors/safetensors, issue 584 (metadata in random order) and the description of its format, which has no checksum",
    topic="catalog",
)
def file_hashes(seeds: Sequence[int]) -> Iterator[Finding]:
    """Save the same weights with the same twelve words of metadata several times, then flip one bit of a file."""
    theirs, plain, ids, ours, loaded, seen = (list[float]() for _ in range(6))
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        weights = {f"layer{at}.weight": torch.randn(16, 16, generator=generator) for at in range(4)}
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{at}.safetensors" for at in range(SAVED)]
            theirs.append(_distinct_after(files, weights, {f"key{at}": f"{at}" for at in range(12)}))
            ids.append(float(len({ws.open(file).id for file in files})))
            flipped, before = files[0], ws.open(files[0]).id
            content = bytearray(flipped.read_bytes())
            content[-100] ^= 1
            flipped.write_bytes(content)
            loaded.append(float(set(load_file(flipped)) == set(weights)))
            seen.append(float(ws.open(flipped).id != before))
            plain.append(_distinct_after(files, weights, None))
            for file in files:
                ws.save(ws.Checkpoint.of(weights, metadata={f"key{at}": f"{at}" for at in range(12)}), file)
            ours.append(float(_distinct(files)))
    yield at_least(f"hashes of {SAVED} files of the same weights and metadata", theirs, 2.0, baseline=plain, against="without metadata")
    yield at_most("content hashes of the same files", ids, 1.0)
    yield at_most("hashes of the same checkpoint saved here", ours, 1.0)
    yield at_least("share of files with a flipped bit that are loaded without a word", loaded, 1.0)
    yield at_least("share of files with a flipped bit whose content hash says so", seen, 1.0)


def _distinct_after(files: Sequence[Path], weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> float:
    for file in files:
        save_file(dict(weights), file, None if metadata is None else dict(metadata))
    return float(_distinct(files))


def _distinct(files: Sequence[Path]) -> int:
    return len({hashlib.sha256(file.read_bytes()).digest() for file in files})
