# SPDX-License-Identifier: Apache-2.0
"""Does the model still see what it was trained on? `python -m serving.drift SAMPLES` answers in words.

It compares the samples that the server took with the statistics of the training data that lie beside the model, by
TFDV's skew and drift measures, held against the limits of the schema that lies there too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from components import environment, features, stdio
from components.errors import BadInput
from components.push import versions
from serving import command

_DRIFTED = 3  # exit code: as where a gate stops a run
_LABEL = "the predicted class"


@dataclasses.dataclass(frozen=True)
class Measure:
    """How far one feature is from the training data.

    Attributes:
        feature: its name.
        kind: of comparison, `skew` or `drift`, whose limits the schema gives apart.
        measure: what TFDV computed, such as JENSEN_SHANNON_DIVERGENCE or L_INFTY.
        value: the distance, 0 for the same distribution.
        limit: of the schema, and room for chance at this number of samples.
        trained: mean in the training data, None for a class.
        served: mean in the samples.
    """

    feature: str
    kind: str
    measure: str
    value: float
    limit: float
    trained: float | None
    served: float | None

    @property
    def moved(self) -> bool:
        return not self.value <= self.limit  # NaN has moved

    def sentence(self) -> str:
        """What it says, for a person."""
        name = _LABEL if self.feature == features.LABEL else self.feature.replace("_", " ")
        how = "the largest change of a class's share" if self.measure == "L_INFTY" else "Jensen-Shannon divergence"
        means = ""
        if self.trained is not None and self.served is not None:
            means = f"; mean {self.served:.3g} served, {self.trained:.3g} in training"
        verdict = "has moved" if self.moved else "is as in training"
        return f"{name} {verdict}: {how} {self.value:.4f}, limit {self.limit:.4g} ({self.kind}{means})"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 3 where the model sees something else."""
    return command.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.drift",
        description="Says whether the model still sees what it was trained on, from samples that the server took "
        "(--sample-dir). Ends with 3 where it does not.",
    )
    parser.add_argument("samples", type=pathlib.Path, metavar="SAMPLES", help="folder with samples")
    parser.add_argument(
        "--model-dir", type=pathlib.Path, default=pathlib.Path("output/serving"), metavar="DIR", help="as of the server"
    )
    parser.add_argument(
        "--version", type=int, metavar="N", help="version whose samples count; default: that in production"
    )
    parser.add_argument(
        "--at-least", type=int, default=1000, metavar="N", help="samples to judge by; default: %(default)s"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write the measures as JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    if not options.samples.is_dir():
        raise BadInput(f"SAMPLES takes the folder of --sample-dir; {options.samples} is no folder")
    from serving import quiet
    from serving.models import find_model

    with quiet.native_stderr():
        import tensorflow_data_validation  # noqa: F401
    folder = find_model(options.model_dir)
    found = {version.number: version for version in versions.all_versions(folder)}
    production = versions.production_version(folder)
    number = options.version if options.version is not None else production.number if production else None
    if number not in found:
        raise BadInput(f"--version takes a version of {folder}; it has {', '.join(map(str, found))}, received {number}")
    extra = found[number].path / versions.EXTRA
    for name in (versions.TRAIN_STATS_FILE, versions.SCHEMA_FILE):
        if not (extra / name).is_file():
            raise BadInput(
                f"the comparison needs {extra / name}, which every push puts there; it is missing. Push again"
            )
    measures, count = compare(options.samples, extra, number, options.at_least)
    moved = [measure for measure in measures if measure.moved]
    if moved:
        names = sorted({_LABEL if one.feature == features.LABEL else one.feature.replace("_", " ") for one in moved})
        verdict = (
            f"Version {number} no longer sees what it was trained on: {', '.join(names)} moved beyond the limits, "
            f"over {count} samples. Look at what is sent, and train again on such images if they are meant."
        )
    else:
        verdict = (
            f"Version {number} still sees what it was trained on: nothing moved beyond the limits, over {count} "
            "samples."
        )
    if options.json is not None:
        document = {
            "version": number,
            "samples": count,
            "drifted": bool(moved),
            "verdict": verdict,
            "measures": [dataclasses.asdict(one) | {"moved": one.moved} for one in measures],
        }
        text = json.dumps(document, indent=1)
        if options.json == "-":
            print(text)  # noqa: T201
            return _DRIFTED if moved else 0
        pathlib.Path(options.json).write_text(text + "\n", encoding="utf-8")
    for one in measures:
        print(f"{'✗' if one.moved else '✓'} {one.sentence()}")  # noqa: T201
    print(verdict)  # noqa: T201
    return _DRIFTED if moved else 0


def compare(samples: pathlib.Path, extra: pathlib.Path, version: int, at_least: int) -> tuple[list[Measure], int]:
    """Measures how far samples are from the training data of a version.

    Args:
        samples: folder with what `serving.sampling` wrote.
        extra: folder beside the model with the statistics and the schema of its training data.
        version: only what it answered counts.
        at_least: number of samples below which chance alone moves the measures.

    Returns:
        A measure for each feature and comparison that the schema limits, and the number of samples.

    Raises:
        BadInput: there are too few samples.
    """
    import pandas as pd
    import tensorflow_data_validation as tfdv

    from components import sampling_margin

    rows = _rows(samples, version)
    if len(rows) < at_least:
        raise BadInput(
            f"a comparison takes {at_least} samples or more, as fewer differ by chance; {samples} "
            f"holds {len(rows)} that "
            f"version {version} answered. Serve on, or raise --sample-share of the server"
        )
    schema = tfdv.load_schema_text(str(extra / versions.SCHEMA_FILE))
    trained = tfdv.load_stats_binary(str(extra / versions.TRAIN_STATS_FILE))
    # What a sample lacks, such as the image, is no anomaly here.
    sampled = set(rows[0])
    kept = [feature for feature in schema.feature if feature.name in sampled]
    del schema.feature[:]
    schema.feature.extend(kept)
    table = pd.DataFrame(rows)[[feature.name for feature in kept]]
    served = tfdv.generate_statistics_from_dataframe(table, tfdv.StatsOptions(schema=schema), n_jobs=1)
    found = [
        ("drift", tfdv.validate_statistics(served, schema, previous_statistics=trained)),
        ("skew", tfdv.validate_statistics(trained, schema, serving_statistics=served)),
    ]
    means = [_means(statistics) for statistics in (trained, served)]
    measures = [
        Measure(
            name,
            kind,
            type(one).DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[one.type].name,
            one.value,
            one.threshold + sampling_margin.distance_margin(one.type, trained, served, name),
            *(None if name == features.LABEL else mean.get(name) for mean in means),
        )
        for kind, anomalies in found
        for info in anomalies.drift_skew_info
        for name in [".".join(info.path.step)]
        for one in (*info.drift_measurements, *info.skew_measurements)
    ]
    return measures, len(rows)


def _rows(samples: pathlib.Path, version: int) -> list[dict[str, float]]:
    import tensorflow as tf

    from components import datasets
    from serving import sampling

    files = [str(path) for path in sorted(samples.glob(f"*{sampling.SUFFIX}"))]
    rows: list[dict[str, float]] = []
    # The last record of a file that is being written, or was when a server was killed, may be cut off.
    for record in datasets.records(files).ignore_errors().as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        if feature[sampling.VERSION].int64_list.value[:] != [version]:
            continue
        row: dict[str, float] = {}
        for name, value in feature.items():
            if name in (features.IMAGE, sampling.VERSION, sampling.SERVED_AT, sampling.CONFIDENCE):
                continue
            row[name] = value.int64_list.value[0] if value.int64_list.value else value.float_list.value[0]
        rows.append(row)
    return rows


def _means(statistics: Any) -> dict[str, float]:
    return {
        feature.path.step[0]: feature.num_stats.mean
        for feature in statistics.datasets[0].features
        if feature.HasField("num_stats")
    }


if __name__ == "__main__":
    environment.prepare()
    stdio.run(main)
