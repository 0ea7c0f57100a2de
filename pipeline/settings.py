# SPDX-License-Identifier: Apache-2.0
"""The one configuration of a run: typed, frozen, and put together from four layers.

Flags go over the `--config` file, that over the data set's profile, that over the defaults. A profile and a config file
are TOML and know the same tables; unknown keys are refused. TensorFlow is not imported here, so that a wrong flag is
answered at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tomllib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, get_type_hints

from components import paths, storage
from components.errors import BadInput
from components.evaluate.limits import InfraLimits, ModelLimits
from components.push import destination
from components.push.destination import Destination
from components.train import hyperparameters
from components.train.devices import Compute
from components.train.hyperparameters import MODELS, Hyperparameters
from components.validate import kinds
from components.validate.image_check import PixelLimits
from components.validate.label_noise import LabelLimits
from pipeline import cli

PROFILES = pathlib.Path(__file__).parent / "profiles"
DEFAULT_MODEL = "cnn"
_MOST_TRIALS = 10_000
TABLES = ("training", "pixels", "labels", "model-gate", "infra-gate")
# Where a profile and a config file differ: the first describes data, the second a run.
PROFILE_KEYS = ("name", "schema")
CONFIG_KEYS = (
    "dataset", "data-dir", "span", "profile", "output", "serving-dir", "serving-name", "fresh", "allow", "force-push",
    "beam-arg", "tune", "accelerator", "gpus", "precision",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is told. Every path is absolute.

    Attributes:
        dataset: `auto`, `mnist` or `digits`; of no account where `data_dir` is given.
        data_dir: folder with one's own four IDX files, or with `span-N` folders of them, or its URL; None: `dataset`
            decides.
        span: number of the span to take; None: the newest.
        profile: name of the data-set profile in force, None while the data set is not known yet.
        schema: file of the curated schema (text format of tensorflow_metadata's Schema).
        hyperparameters: the model and how it is trained.
        compute: what the training runs on.
        tune: how many sets of hyperparameters a search tries before the training; 0: there is no search.
        fixed: the hyperparameters that a person gave and a search leaves alone; empty without one.
        pixel_limits: what the data gate holds images and labels against.
        label_limits: what it holds suspect labels against.
        model_limits: the limits of the model gate.
        infra_limits: those of the infrastructure gate.
        output: folder that holds all that runs write.
        serving_root: folder in which each served model has a folder, or its URL; None: `serving` in `output`.
        serving_name: name of the model's folder in it.
        fresh: whether to run every stage, whatever the cache holds.
        allow: findings of the data gate that do not stop this run.
        force_push: why to push whatever the model gate says; None: not.
        beam_args: options for Beam's pipelines, such as `--runner=FlinkRunner`.
    """

    dataset: str
    data_dir: pathlib.Path | str | None
    span: int | None
    profile: str
    schema: pathlib.Path
    hyperparameters: Hyperparameters
    compute: Compute
    tune: int
    fixed: tuple[str, ...]
    pixel_limits: PixelLimits
    label_limits: LabelLimits
    model_limits: ModelLimits
    infra_limits: InfraLimits
    output: pathlib.Path
    serving_root: pathlib.Path | str | None
    serving_name: str
    fresh: bool
    allow: tuple[str, ...]
    force_push: str | None
    beam_args: tuple[str, ...]

    @property
    def serving_dir(self) -> pathlib.Path | str:
        """The model's folder or its URL, which holds its numbered versions; TF Serving's `model_base_path`."""
        if isinstance(self.serving_root, str):
            return f"{self.serving_root}/{self.serving_name}"
        return (self.serving_root or self.output / "serving") / self.serving_name

    def to_record(self) -> dict[str, Any]:
        """The effective configuration as JSON values, for the record of the run."""
        tables = {
            "hyperparameters": "training",
            "pixel_limits": "pixels",
            "label_limits": "labels",
            "model_limits": "model_gate",
            "infra_limits": "infra_gate",
        }
        return {
            tables.get(name, name): str(value) if isinstance(value, pathlib.Path) else value
            for name, value in dataclasses.asdict(self).items()
        }


def read_toml(path: pathlib.Path, keys: tuple[str, ...], what: str) -> dict[str, Any]:
    """Reads a profile or a config file.

    Raises:
        BadInput: where it cannot be read, is not TOML, or has a key at its top that is neither in `keys` nor a table.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # no UTF-8, no TOML, or a name that no file can have
        raise BadInput(f"{what} {path} must be a readable TOML file: {error}") from None
    _refuse_unknown(content, (*keys, *TABLES), f"{what} {path}")
    return content


def find_profile(name: str) -> pathlib.Path:
    """The file of a profile: the built-in one of that name, or the file itself.

    Raises:
        BadInput: where there is neither.
    """
    built_in = PROFILES / f"{_typed('profile', name, str)}.toml"
    path = built_in if built_in.is_file() else paths.absolute(name, "profile")
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.toml")))
        raise BadInput(f"a profile is one of {known} or a TOML file; {name!r} is neither")
    return path


def build(flags: Mapping[str, Any], file: Mapping[str, Any], profile_path: pathlib.Path) -> Config:
    """Puts the layers together.

    Args:
        flags: what the command line gave, keyed as in a config file; None where it gave nothing. The fields of
            `Hyperparameters` are keys of the table `training`.
        file: contents of the config file, empty where there is none.
        profile_path: file of the profile in force.

    Raises:
        BadInput: for an unknown key or a value that is out of range or of another type.
    """
    profile = read_toml(profile_path, PROFILE_KEYS, "profile")
    schema = (profile_path.parent / str(profile.get("schema", ""))).absolute()
    if not schema.is_file():
        raise BadInput(f'profile {profile_path} must name its schema file (schema = "FILE.pbtxt"); {schema} is none')
    top = dict(file) | {key: value for key, value in flags.items() if value is not None and key != "training"}
    given = _given(flags)
    training = _merge(profile.get("training", {}), file.get("training", {}), given)
    hyperparameters = _hyperparameters(training, given)
    tune, fixed = _search(top.get("tune", 0), hyperparameters, {*file.get("training", {}), *given})
    data_dir = _location(top.get("data-dir"), "data-dir", *storage.OBJECT_STORES, *storage.WEB)
    return Config(
        dataset=_one_of("dataset", top.get("dataset", "auto"), ("auto", "mnist", "digits")),
        data_dir=data_dir,
        span=_typed("span", top.get("span"), int | None),
        profile=_typed("name", profile.get("name", profile_path.stem), str),
        schema=schema,
        hyperparameters=hyperparameters,
        compute=Compute.of(top.get("accelerator"), top.get("gpus"), top.get("precision")),
        tune=tune,
        fixed=fixed,
        pixel_limits=_limits(PixelLimits, "pixels", profile, file),
        label_limits=_limits(LabelLimits, "labels", profile, file),
        model_limits=_limits(ModelLimits, "model-gate", profile, file),
        infra_limits=_limits(InfraLimits, "infra-gate", profile, file),
        output=_path(top.get("output", "output"), "output") or pathlib.Path(),
        serving_root=_serving_root(top.get("serving-dir")),
        serving_name=_name("serving-name", top.get("serving-name", "mnist")),
        fresh=_typed("fresh", top.get("fresh", False), bool),
        allow=_allowed(top.get("allow", ())),
        force_push=_typed("force-push", top.get("force-push"), str | None),
        beam_args=_strings("beam-arg", top.get("beam-arg", ())),
    )


def training_told(flags: Mapping[str, Any], file: Mapping[str, Any], profile_path: pathlib.Path) -> dict[str, Any]:
    """The hyperparameters that one of the layers gives, by field, whichever model has them; arguments as of `build`."""
    profile = read_toml(profile_path, PROFILE_KEYS, "profile")
    told = _merge(profile.get("training", {}), file.get("training", {}), _given(flags))
    return {key.replace("-", "_"): value for key, value in told.items()}


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.get("training", {}).items() if value is not None}


def _hyperparameters(training: Mapping[str, Any], given: Mapping[str, Any]) -> Hyperparameters:
    """A file may set fields for all models; those that the chosen model lacks matter only where a person typed them."""
    names = {field.name.replace("_", "-") for field in dataclasses.fields(Hyperparameters)}
    _refuse_unknown(training, tuple(names), "table [training]")
    model = _typed("training.model", training.get("model", DEFAULT_MODEL), str)
    known = MODELS.get(model)
    fields = {
        key.replace("-", "_"): value
        for key, value in training.items()
        if key != "model" and (key in given or known is None or getattr(known, key.replace("-", "_")) is not None)
    }
    return Hyperparameters.of(model, **fields)


def _search(trials: Any, base: Hyperparameters, given: Collection[str]) -> tuple[int, tuple[str, ...]]:
    """How many sets of hyperparameters to try, and which of them a person gave."""
    if not 0 <= _typed("tune", trials, int) <= _MOST_TRIALS:
        raise BadInput(f"tune must be a whole number from 0 (no search) to {_MOST_TRIALS}, not {trials}")
    if not trials:
        return 0, ()
    fixed = tuple(sorted({name.replace("-", "_") for name in given} - {"model"}))
    hyperparameters.search_space(base, fixed)
    return trials, fixed


def _limits(kind: type, name: str, *layers: Mapping[str, Any]) -> Any:
    """Builds a dataclass of limits from the TOML table of that name, its fields in kebab-case; later layers win."""
    table = _merge(*(layer.get(name, {}) for layer in layers))
    hints = get_type_hints(kind)
    fields = {field.name.replace("_", "-"): field.name for field in dataclasses.fields(kind)}
    _refuse_unknown(table, tuple(fields), f"table [{name}]")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            values[fields[key]] = {item: _number(f"{name}.{key}.{item}", limit) for item, limit in value.items()}
        else:
            number = _number(f"{name}.{key}", value)
            values[fields[key]] = int(number) if hints[fields[key]] is int else number
    missing = [
        field.name.replace("_", "-")
        for field in dataclasses.fields(kind)
        if field.name not in values and field.default is dataclasses.MISSING
    ]
    if missing:
        raise BadInput(f"the profile must give {', '.join(f'[{name}] {key}' for key in missing)}; it does not")
    return kind(**values)


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win, table by table."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if not isinstance(layer, Mapping):
            raise BadInput(f"a table was expected in the TOML file, not {layer!r}")
        for key, value in layer.items():
            both_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = _merge(merged[key], value) if both_tables else value
    return merged


def _refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise BadInput(f"{where} has unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _typed(key: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadInput(f"{key} must be {getattr(kind, '__name__', kind)}, not {value!r}")
    return value


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{key} must be a number, not {value!r}")
    return value


def _one_of(key: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise BadInput(f"{key} must be one of {', '.join(choices)}, not {value!r}")
    return value


def _name(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.replace("-", "").replace("_", "").isalnum():
        raise BadInput(f"{key} must be of letters, digits, '-' and '_', not {value!r}")
    return value


def _strings(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise BadInput(f"{key} must be a list of strings, not {value!r}")
    return tuple(value)


def _allowed(value: Any) -> tuple[str, ...]:
    names = tuple(sorted(set(_strings("allow", value))))
    for name in names:
        _one_of("allow", name, kinds.ALL)
    return names


def _location(value: Any, key: str, *schemes: str) -> pathlib.Path | str | None:
    if isinstance(value, str) and storage.is_url(value):
        return storage.check(value, key, *schemes)
    return _path(value, key)


def _serving_root(value: Any) -> pathlib.Path | str | None:
    location = _location(value, "serving-dir", *storage.OBJECT_STORES)
    if isinstance(location, pathlib.Path):
        paths.refuse_patterns(location, "serving-dir")
    return location


def _path(value: Any, key: str) -> pathlib.Path | None:
    if value is None:
        return None
    if not isinstance(value, str | pathlib.Path) or not str(value):
        raise BadInput(f"{key} takes a path, not {value!r}")
    return paths.absolute(value, key)


class ModelLocation(NamedTuple):
    """The output folder of runs on this machine, and the folder of the model that they push to."""

    output: pathlib.Path
    model: Destination

    @property
    def database(self) -> pathlib.Path:
        return self.output / "metadata.db"


def add_location_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --output, --serving-dir, --serving-name, --config and --json."""
    parser.add_argument("--output", metavar="DIR", help="what runs write; default: output/")
    parser.add_argument("--serving-dir", metavar="DIR|URL", help="where models are pushed to; default: OUTPUT/serving")
    parser.add_argument("--serving-name", metavar="NAME", help="name of the model in there; default: mnist")
    parser.add_argument("--config", metavar="FILE", help="TOML file of the runs; flags go over it")
    cli.add_json_argument(parser)


def open_location(args: argparse.Namespace) -> ModelLocation:
    """The place that the arguments name, found as a run finds it.

    Raises:
        BadInput: a flag or the config file is wrong.
    """
    file = read_toml(pathlib.Path(args.config), CONFIG_KEYS, "config file") if args.config else {}
    flags = {"output": args.output, "serving-dir": args.serving_dir, "serving-name": args.serving_name}
    settled = build(flags, file, find_profile(file.get("profile", "mnist")))
    paths.refuse_patterns(settled.output, "output")
    return ModelLocation(settled.output, destination.open_destination(settled.serving_dir))
