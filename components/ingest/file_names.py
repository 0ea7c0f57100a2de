# SPDX-License-Identifier: Apache-2.0
"""Advice on files that do not have the four names of MNIST: one sentence on which file is to be called what."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

_IMAGES_OR_LABELS = re.compile(
    r"(?P<part>train(?:ing)?|t10k|test)[-_. ]*(?P<kind>images?|imgs?|labels?)(?P<rest>.*)", re.IGNORECASE
)
_COPY = re.compile(r" ?\(\d+\)| copy(?: \d+)?|\.\d+$")
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".tmp", ".aria2")
_PACKED = (".zip", ".z", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".tgz", ".tar.gz")
_OTHER_FORMATS = (".npz", ".npy", ".csv", ".parquet", ".mat", ".png", ".pkl")
_TEXTS = (".txt", ".md", ".json", ".html", ".py", ".sha256", ".md5")
_DEPTH, _FOLDERS = 2, 20  # levels and folders to search below a folder

# Names of the entries of a folder, by its path below the first one; None where that is no folder.
Below = Callable[[str], Collection[str] | None]


def file_name_advice(
    directory: str | os.PathLike[str], missing: Sequence[str], entries: Collection[str], below: Below
) -> tuple[str, str]:
    """Describes the files that a folder holds instead of IDX files, and the way out.

    Args:
        directory: their folder, or its URL.
        missing: base names of the missing files.
        entries: names of its entries.
        below: lists the entries of a folder in it.

    Returns:
        The present files, as a part of a sentence, and a sentence of advice.
    """
    # Among what is hidden are the resource forks, "._NAME", that macOS puts beside each file.
    shown = sorted(entry for entry in entries if not entry.startswith("."))
    by_name = {name: [entry for entry in shown if _name(entry) == name] for name in missing}
    plans = {name: _plan(name, candidates, below) for name, candidates in by_name.items() if candidates}
    if plans:
        listed = _few(entry for name in plans for entry in by_name[name])
        return f"only {listed}", _joined(plans.values()) + _about(by_name)
    if folder := _folder_with(missing, shown, below):
        return f"the folder {folder}", f"Name that folder: --data-dir {os.fspath(directory)}/{folder}."
    unusable = [entry for entry in shown if entry.lower().endswith(_OTHER_FORMATS)]
    if unusable:
        return f"only {_few(unusable)}", (
            f"{unusable[0]} is no IDX file: write its arrays as IDX (README, 'Your own images')."
        )
    archives = [entry for entry in shown if entry.lower().endswith(_PACKED)]
    if archives:
        return f"only {_few(archives)}", f"Unpack {archives[0]} there."
    idx_files = [entry for entry in shown if "idx" in entry]
    present = f"only {_few(idx_files)}" if idx_files else "neither"
    return present, "Put the missing file there, under this very name."


def _name(entry: str) -> str | None:
    """The base name of the file that an entry seems to be meant for."""
    match = _IMAGES_OR_LABELS.search(entry)
    if not match or entry.lower().endswith((*_OTHER_FORMATS, *_TEXTS)):
        return None
    part = "train" if match["part"].lower().startswith("train") else "t10k"
    return f"{part}-labels-idx1-ubyte" if match["kind"].lower().startswith("label") else f"{part}-images-idx3-ubyte"


def _plan(name: str, candidates: Sequence[str], below: Below) -> str:
    """The way out for one file, such as "rename A to B"."""
    complete = [entry for entry in candidates if not entry.lower().endswith(_UNFINISHED)]
    if not complete:
        return f"fetch {name} again, for {candidates[0]} is an unfinished download"
    if len(complete) > 1 and name not in complete:
        return f"rename one of {_few(complete)} to {name} (with .gz where it is gzipped)"
    entry = name if name in complete else complete[0]
    inside = below(entry)
    if inside is not None:
        files = [inner for inner in inside if not inner.startswith(".")]
        inner = next((inner for inner in files if _name(inner) == name), files[0] if files else "")
        return f"put the file {entry}/{inner} in place of the folder {entry}" if inner else f"remove the folder {entry}"
    if entry.lower().endswith(_PACKED):
        return f"unpack {entry} and name its file {name}"
    gzipped = _COPY.sub("", entry).lower().endswith((".gz", ".gzip"))
    return f"rename {entry} to {name}{'.gz' if gzipped else ''}"


def _about(by_name: Mapping[str, Sequence[str]]) -> str:
    """Warns of data sets, known by their file names, that need more than renaming."""
    entries = [entry.lower() for candidates in by_name.values() for entry in candidates]
    if any("idx2-int" in entry for entry in entries):
        return " The labels are int32 and eight to an image: write the first of each as an unsigned byte."
    if any(entry.startswith("emnist") for entry in entries):
        return " EMNIST's images are transposed, and its letters have the labels 1 to 26: write both anew."
    return ""


def _folder_with(missing: Sequence[str], entries: Sequence[str], below: Below) -> str | None:
    """The path of a folder further down that has at least one of the files under its right name."""
    level = list(entries)
    for _ in range(_DEPTH):
        deeper: list[str] = []
        for path in level[:_FOLDERS]:
            inside = below(path)
            if inside is None:
                continue
            if any(name in inside or f"{name}.gz" in inside for name in missing):
                return path
            deeper += [f"{path}/{entry}" for entry in sorted(inside) if not entry.startswith(".")]
        level = deeper
    return None


def _joined(plans: Iterable[str]) -> str:
    text = ", ".join(plans)
    return f"{text[0].upper()}{text[1:]}."


def _few(entries: Iterable[str]) -> str:
    listed = list(entries)
    return ", ".join(listed[:4]) + (", …" if len(listed) > 4 else "")
