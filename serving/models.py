# SPDX-License-Identifier: Apache-2.0
"""Which versions of a model are served: it follows the serving folder while requests go on.

Production is the highest version that is not labelled `canary` (components/push/versions.py). A version is loaded and
warmed up beside the one that answers, and takes over by one assignment; requests in flight keep the version they began
with. A version that does not load or answer is skipped with one log line, and tried again only when its files change.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import pathlib
import random
import threading
from collections.abc import Callable, Mapping

from components import paths
from components.errors import BadInput
from components.push import versions
from components.push.local_folder import LocalFolder
from serving import savedmodel
from serving.refusal import Refusal
from serving.savedmodel import SavedModel

STABLE = "stable"
POLL_SECONDS = 0.5
_log = logging.getLogger("serving")


@dataclasses.dataclass(frozen=True)
class _State:
    """What is served at one moment: replaced as a whole, so that a request never sees half of a change."""

    loaded: Mapping[int, SavedModel]
    production: int | None
    labels: Mapping[str, int]


class Models:
    """The versions of one model.

    Args:
        folder: the model's folder, with its numbered versions.
        canary_share: share of the requests without version or label that the canary answers, 0 to 1.
        load: what loads and warms up a version.
        draw: gives numbers in [0, 1) that decide which requests the canary gets.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        canary_share: float = 0.0,
        load: Callable[[pathlib.Path], SavedModel] | None = None,
        draw: Callable[[], float] = random.random,
    ):
        self.folder = folder
        self.name = folder.name
        self.canary_share = canary_share
        self._load = load or _load_and_warm_up
        self._draw = draw
        self._state = _State({}, None, {})
        self._loading: int | None = None
        # number -> its files when it failed, and why
        self._broken: dict[int, tuple[object, str]] = {}
        self._complaint = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def resolve(self, version: int | None = None, label: str | None = None) -> SavedModel:
        """The version that answers a request.

        Raises:
            Refusal: 404 for a version that is not served, 400 for an unknown label, as TensorFlow Serving has it.
        """
        state = self._state
        if label is not None:
            version = state.labels.get(label)
            if version is None:
                raise Refusal(400, f"Unrecognized servable version label: {label}")
        if version is not None:
            if version not in state.loaded:
                raise Refusal(404, f"Servable not found for request: Specific({self.name}, {version})")
            return state.loaded[version]
        canary = state.labels.get(versions.CANARY)
        if canary is not None and self.canary_share and self._draw() < self.canary_share:
            return state.loaded[canary]
        if state.production is None:
            raise Refusal(404, f"Servable not found for request: Latest({self.name})")
        return state.loaded[state.production]

    def check_name(self, name: str) -> None:
        """Raises `Refusal` where a request names another model."""
        if name != self.name:
            raise Refusal(404, f"Servable not found for request: Latest({name})")

    @property
    def ready(self) -> bool:
        """Whether a version can answer."""
        return self._state.production is not None

    @property
    def served(self) -> list[int]:
        """Numbers of the versions that can answer, highest first."""
        return sorted(self._state.loaded, reverse=True)

    @property
    def labels(self) -> dict[str, int]:
        """The labels that can be asked for, and their versions."""
        return dict(self._state.labels)

    def statuses(self) -> dict[int, tuple[str, str, str]]:
        """Version -> state, error code and message, in TensorFlow Serving's words; highest version first."""
        found = {number: ("END", "UNKNOWN", reason) for number, (_, reason) in self._broken.items()}
        if (loading := self._loading) is not None:
            found[loading] = ("LOADING", "OK", "")
        found.update(dict.fromkeys(self._state.loaded, ("AVAILABLE", "OK", "")))
        return dict(sorted(found.items(), reverse=True))

    def start(self) -> None:
        """Loads what is there and follows the folder from then on.

        Raises:
            BadInput: there is no version, or none that loads.
        """
        self.refresh()
        if not self.ready:
            found = ", ".join(f"version {number}: {reason}" for number, (_, reason) in self._broken.items())
            raise BadInput(
                f"--model-dir takes a folder with a numbered version that loads; {self.folder} holds "
                f"{found or 'no version'}. Push a model first: python runner_local.py"
            )
        self._thread = threading.Thread(target=self._watch, name="versions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops following the folder."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self.refresh()
            except Exception as error:  # the watcher must outlive whatever the file system does
                _log.warning("looking for versions in %s failed: %s", self.folder, error)

    def refresh(self) -> None:
        """Looks at the folder once, and loads and drops versions accordingly."""
        try:
            numbers = _numbers(self.folder)
        except BadInput as error:  # what answers stays
            self._complain(str(error))
            return
        self._broken = {number: seen for number, seen in self._broken.items() if number in numbers}
        labels = self._read_labels()
        canary = labels.get(versions.CANARY)
        before = self._state
        loaded = dict(before.loaded)
        # The highest that loads; where none does, what answers now stays, even when its folder is gone.
        candidates = sorted(numbers - {canary}, reverse=True)
        production = next((number for number in candidates if self._has(loaded, number)), before.production)
        labelled = {
            label: number for label, number in labels.items() if number in numbers and self._has(loaded, number)
        }
        if production is not None:
            labelled.setdefault(STABLE, production)
        kept = {production, *labelled.values()}
        state = _State({number: model for number, model in loaded.items() if number in kept}, production, labelled)
        if (state.production, state.labels, state.loaded.keys()) == (
            before.production,
            before.labels,
            before.loaded.keys(),
        ):
            return
        self._state = state
        words = ", ".join(f"{label} is version {number}" for label, number in sorted(labelled.items()))
        _log.info("%s: %s", self.name, words)
        del before, loaded
        gc.collect()  # a session is in reference cycles: its memory would stay until much later

    def _has(self, loaded: dict[int, SavedModel], number: int) -> bool:
        """Loads a version unless it is loaded already; says whether it can answer."""
        if number in loaded:
            return True
        path = pathlib.Path(LocalFolder(self.folder).location(number))
        files = _fingerprint(path)
        if number in self._broken and self._broken[number][0] == files:
            return False
        self._loading = number
        try:
            loaded[number] = self._load(path)
        except Exception as error:  # TensorFlow raises many kinds for a damaged model
            reason = (str(error) or type(error).__name__).split("\n", 1)[0]
            self._broken[number] = (files, reason)
            _log.error("version %s of %s is skipped: %s", number, self.name, reason)
            return False
        finally:
            self._loading = None
        self._broken.pop(number, None)
        return True

    def _read_labels(self) -> dict[str, int]:
        """The labels of the folder; those of before while the file cannot be read, as when it is half written."""
        try:
            labels = versions.read_labels(self.folder)
        except (OSError, BadInput) as error:
            self._complain(f"{self.folder / versions.LABELS_FILE} is not followed: {error}")
            return {label: number for label, number in self._state.labels.items() if label != STABLE}
        self._complaint = ""
        return labels

    def _complain(self, complaint: str) -> None:
        """Logs what keeps the folder from being followed, once."""
        if complaint != self._complaint:
            self._complaint = complaint
            _log.error("%s", complaint)


def find_model(folder: pathlib.Path) -> pathlib.Path:
    """The folder of the model: the one given where it holds versions, else the only one in it that does.

    Raises:
        BadInput: there is none, or several, or TensorFlow would read its path as a pattern.
    """
    folder = paths.absolute(folder, "--model-dir")
    paths.refuse_patterns(folder, "--model-dir")
    if _numbers(folder):
        return folder
    try:
        inner = sorted(path for path in folder.iterdir() if _numbers(path)) if folder.is_dir() else []
    except OSError as error:
        raise BadInput(f"--model-dir takes a folder that can be read; {folder}: {error.strerror}") from None
    if len(inner) == 1:
        return inner[0]
    found = f"holds several models, {', '.join(path.name for path in inner)}: name one" if inner else "holds no version"
    raise BadInput(
        f"--model-dir takes the folder of a model, with numbered versions in it; {folder} {found}. "
        "A model is pushed by: python runner_local.py"
    )


def _load_and_warm_up(path: pathlib.Path) -> SavedModel:
    model = savedmodel.load(path)
    model.warm_up()
    return model


def _numbers(folder: pathlib.Path) -> set[int]:
    """Numbers of the complete versions in a folder.

    Raises:
        BadInput: they cannot be read, or two have the same number.
    """
    try:
        return {number for number, complete in LocalFolder(folder).numbers().items() if complete}
    except OSError:
        return set()


def _fingerprint(folder: pathlib.Path) -> object:
    files = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except OSError:
            continue
        files.append((str(path), status.st_size, status.st_mtime_ns))
    return files
