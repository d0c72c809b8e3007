"""Fashion-MNIST (Xiao et al., 2017), padded from 28×28 to 32×32 with zeros.

Sixty thousand and ten thousand gray pictures of ten kinds of clothing, under the Expat licence.
They come as idx files: in Debian's package `dataset-fashion-mnist`, in the publisher's own
downloads, or rebuilt from a hub. Whatever the way, the digests below decide.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from unified_latents.training.data.card import DataCard, DataError, Row, write_set

LABELS = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
SIDE, MARGIN = 28, 2
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("usr/share/datasets/fashion-mnist")
HUB = "zalando-datasets/fashion_mnist"
SOURCE = "Fashion-MNIST, Zalando Research (https://github.com/zalandoresearch/fashion-mnist)"
LICENCE = "Expat (MIT), copyright 2017 Zalando SE"
FILES = {"train": "train", "test": "t10k"}
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Of the four idx files, unpacked: compressors differ, pictures do not."""


class Arrays(NamedTuple):
    """One split: pictures [n, 28, 28] and their labels [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def prepare_fashion_mnist(
    out: Path, source: Path | None = None, digests: Mapping[str, str] = SHA256
) -> DataCard:
    """Write the prepared set to `out` and return its card.

    `source` is a folder with the four idx files, gzipped or not (or one that holds the unpacked
    Debian package). Without it, in this order: the installed package, the package downloaded
    and unpacked into a temporary folder (nothing is installed), a hub. `DataError` otherwise.
    """
    return _write(out, find(source, digests))


def find(source: Path | None = None, digests: Mapping[str, str] = SHA256) -> dict[str, Arrays]:
    """Both splits, by the ways of `prepare_fashion_mnist`; `DataError` if none leads there."""
    if source is not None:
        return _read_folder(source, digests)
    if (Path("/") / INSTALLED).is_dir():
        return _read_folder(Path("/") / INSTALLED, digests)
    failures = []
    for way in (_from_debian, _from_hub):
        try:
            return way(digests)
        except DataError as error:
            failures.append(str(error))
    raise DataError(
        "Fashion-MNIST was not found. Three ways to it: install the Debian package "
        f"`{PACKAGE}` (or let apt-get download it); give a folder with its idx files by "
        f"--source; or reach a hub that has {HUB}. Tried: " + "; ".join(failures)
    )


def _write(out: Path, splits: Mapping[str, Arrays]) -> DataCard:
    side = SIDE + 2 * MARGIN
    return write_set(
        out,
        {name: _rows(arrays) for name, arrays in splits.items()},
        name="fashion-mnist",
        source=SOURCE,
        licence=LICENCE,
        image_size=(side, side),
        content_size=(SIDE, SIDE),
        channels=1,
        mode="L",
        background=0,
        fit="pad",
        labels=LABELS,
    )


def _rows(arrays: Arrays) -> Iterator[Row]:
    padded = np.pad(arrays.images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    for pixels, label in zip(padded, arrays.labels, strict=True):
        yield Row(pillow.fromarray(pixels), int(label))


def read_idx(path: Path, sha256: str) -> NDArray[np.uint8]:
    """The uint8 array of an idx file (`path`, or `path` + ".gz").

    An idx header is two zero bytes, the type (8: uint8), the number of dimensions, and each
    dimension as a big-endian 32-bit integer. `DataError` for anything else, or another digest.
    """
    raw = _read_bytes(path)
    found = hashlib.sha256(raw).hexdigest()
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path.name} is not an idx file of bytes (magic number {raw[:4].hex()})")
    start = 4 + 4 * raw[3]
    shape = tuple(int(side) for side in np.frombuffer(raw[4:start], ">u4"))
    if len(shape) != raw[3] or len(raw) - start != int(np.prod(shape)):
        raise DataError(f"{path.name}: {len(raw) - start} bytes do not fill shape {shape}")
    if found != sha256:
        raise DataError(f"{path.name}: SHA-256 is {found}, not {sha256}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    zipped = path.with_name(path.name + ".gz")
    try:
        return path.read_bytes() if path.is_file() else gzip.decompress(zipped.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} holds neither {path.name} nor {zipped.name}") from error
    except (OSError, EOFError) as error:
        raise DataError(f"{zipped} cannot be unpacked: {error}") from error


def _read_folder(folder: Path, digests: Mapping[str, str]) -> dict[str, Arrays]:
    if (folder / INSTALLED).is_dir():
        folder = folder / INSTALLED
    return {split: _read_split(folder, prefix, digests) for split, prefix in FILES.items()}


def _read_split(folder: Path, prefix: str, digests: Mapping[str, str]) -> Arrays:
    images, labels = (
        read_idx(folder / name, digests[name])
        for name in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    )
    if images.shape != (len(labels), SIDE, SIDE) or labels.ndim != 1:
        raise DataError(f"{prefix}: pictures {images.shape} and labels {labels.shape} do not fit")
    if labels.size and labels.max() >= len(LABELS):
        raise DataError(f"{prefix}: label {labels.max()} of {len(LABELS)} classes")
    return Arrays(images, labels)


def _from_debian(digests: Mapping[str, str]) -> dict[str, Arrays]:
    """Download the package and unpack it beside itself; needs neither root nor installation.

    The package lists are fetched into the same temporary folder: a machine's own may be empty,
    and only root may refresh them.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DataError("no apt-get here")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # apt hands its downloads to a user of its own, who must be able to enter.
        folder.chmod(0o755)
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        lists, cache = f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}/cache"
        apt = ["apt-get", "-o", lists, "-o", cache]
        _run([*apt, "update"], folder)
        _run([*apt, "download", PACKAGE], folder)
        package = next(folder.glob(f"{PACKAGE}_*.deb"), None)
        if package is None:
            raise DataError(f"apt-get did not bring {PACKAGE}")
        _run(["dpkg-deb", "-x", package.name, "."], folder)
        return _read_folder(folder, digests)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"{command[0]} failed: {said}")


def _from_hub(digests: Mapping[str, str]) -> dict[str, Arrays]:
    """The same arrays through `datasets`, checked by rebuilding the idx files' digests."""
    from datasets import load_dataset

    try:
        loaded = load_dataset(HUB)
    except Exception as error:  # a hub fails in as many ways as networks do
        raise DataError(f"no hub: {type(error).__name__}") from error
    splits = {}
    for split, prefix in FILES.items():
        images = np.stack([np.asarray(image) for image in loaded[split]["image"]])
        labels = np.asarray(loaded[split]["label"], np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            _check_digest(f"{prefix}-{name}-ubyte", array, digests)
        splits[split] = Arrays(images, labels)
    return splits


def _check_digest(name: str, array: NDArray[np.uint8], digests: Mapping[str, str]) -> None:
    header = bytes((0, 0, 8, array.ndim)) + np.asarray(array.shape, ">u4").tobytes()
    found = hashlib.sha256(header + array.tobytes()).hexdigest()
    if found != digests[name]:
        raise DataError(f"the hub's {name} has SHA-256 {found}, not {digests[name]}")
