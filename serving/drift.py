# SPDX-License-Identifier: Apache-2.0
"""Compares samples of a server's requests with the training data of the model: `python -m serving.drift SAMPLES`.

It uses TFDV's skew and drift measures, with the statistics of the training data beside the model and the limits of the
schema there.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

from components import environment, features, stdio
from components.errors import BadInput
from components.push import versions
from serving import cli

_DRIFTED = 3  # exit code: that of a run that a gate stops


@dataclasses.dataclass(frozen=True)
class Measure:
    """Distance of one feature from the training data.

    Attributes:
        feature: its name.
        kind: of comparison, `skew` or `drift`; the schema has limits for each.
        measure: TFDV's name of the distance, such as JENSEN_SHANNON_DIVERGENCE or L_INFTY.
        value: the distance, 0 for equal distributions.
        limit: of the schema, plus the room for chance at this number of samples.
        training_mean: mean in the training data, None for a class.
        sample_mean: mean in the samples, None for a class.
    """

    feature: str
    kind: str
    measure: str
    value: float
    limit: float
    training_mean: float | None
    sample_mean: float | None

    @property
    def moved(self) -> bool:
        """True beyond the limit, and for NaN."""
        return not self.value <= self.limit

    @property
    def name(self) -> str:
        """The feature's name in a sentence."""
        return "the predicted class" if self.feature == features.LABEL else self.feature.replace("_", " ")

    def sentence(self) -> str:
        """Returns the measure as a line of text."""
        distance = "largest change of a class's share" if self.measure == "L_INFTY" else "Jensen-Shannon divergence"
        means = ""
        if self.training_mean is not None and self.sample_mean is not None:
            means = f"; mean {self.sample_mean:.3g} in the samples, {self.training_mean:.3g} in training"
        verdict = "has moved" if self.moved else "is as in training"
        return f"{self.name} {verdict}: {distance} {self.value:.4f}, limit {self.limit:.4g} ({self.kind}{means})"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 3 if a feature has moved beyond its limit."""
    return cli.run(_parser(), _compare, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.drift",
        description="Compares samples that the server took (--sample-dir) with the training data of the model. Exits "
        "with 3 if they differ beyond the limits.",
    )
    parser.add_argument("samples", type=pathlib.Path, metavar="SAMPLES", help="folder with samples")
    cli.add_model_dir_argument(parser)
    parser.add_argument(
        "--version", type=int, metavar="N", help="version whose samples count; default: that in production"
    )
    parser.add_argument(
        "--at-least", type=int, default=1000, metavar="N", help="number of samples required; default: %(default)s"
    )
    cli.add_json_argument(parser, "the measures")
    return parser


def _compare(args: argparse.Namespace) -> int:
    if not args.samples.is_dir():
        raise BadInput(f"SAMPLES takes the folder of --sample-dir; {args.samples} is not a folder")
    # Imported late, so that --help and wrong usage respond at once.
    from serving import savedmodel
    from serving.models import find_model

    folder = find_model(args.model_dir)
    by_number = {version.number: version for version in versions.all_versions(folder)}
    production = versions.production_version(folder)
    number = args.version if args.version is not None else production.number if production else None
    if number not in by_number:
        numbers = ", ".join(map(str, by_number))
        raise BadInput(f"--version takes a version of {folder}; it has {numbers}, received {number}")
    extra = by_number[number].path / versions.EXTRA
    for name in (versions.TRAIN_STATS_FILE, versions.SCHEMA_FILE):
        if not (extra / name).is_file():
            raise BadInput(f"the comparison needs {extra / name}, which is missing; every push writes it: push again")
    savedmodel.import_tensorflow()  # quietly, before TFDV does
    measures, count = compare(args.samples, extra, number, args.at_least)
    moved = sorted({measure.name for measure in measures if measure.moved})
    if moved:
        verdict = (
            f"Images have drifted from the training data of version {number}, over {count} samples: "
            f"{', '.join(moved)} moved beyond the limits. Look at the requests; if such images are intended, train on "
            "them."
        )
    else:
        verdict = (
            f"Images are like the training data of version {number}: nothing moved beyond the limits, over {count} "
            "samples."
        )
    document = {
        "version": number,
        "samples": count,
        "drifted": bool(moved),
        "verdict": verdict,
        "measures": [dataclasses.asdict(measure) | {"moved": measure.moved} for measure in measures],
    }
    if not cli.write_json(document, args.json):
        for measure in measures:
            print(f"{'✗' if measure.moved else '✓'} {measure.sentence()}")  # noqa: T201
        print(verdict)  # noqa: T201
    return _DRIFTED if moved else 0


def compare(samples: pathlib.Path, extra: pathlib.Path, version: int, at_least: int) -> tuple[list[Measure], int]:
    """Measures the distance of samples from the training data of a version.

    Args:
        samples: folder that `serving.sampling` wrote.
        extra: folder beside the model, with the statistics and the schema of its training data.
        version: the other samples do not count.
        at_least: number of samples required; with fewer, chance alone moves the measures.

    Returns:
        A measure for each feature and comparison with a limit in the schema, and the number of samples.

    Raises:
        BadInput: there are too few samples.
    """
    import pandas as pd
    import tensorflow_data_validation as tfdv
    from tensorflow_metadata.proto.v0.anomalies_pb2 import DriftSkewInfo

    from components import sampling_margin

    rows = _read_rows(samples, version)
    if len(rows) < at_least:
        raise BadInput(
            f"a comparison takes at least {at_least} samples, since fewer differ by chance; {samples} has {len(rows)} "
            f"of version {version}. Wait for more requests, or raise --sample-share of the server"
        )
    schema = tfdv.load_schema_text(str(extra / versions.SCHEMA_FILE))
    training = tfdv.load_stats_binary(str(extra / versions.TRAIN_STATS_FILE))
    # A sample lacks features, such as the image: that is not an anomaly.
    shared = [feature for feature in schema.feature if feature.name in rows[0]]
    del schema.feature[:]
    schema.feature.extend(shared)
    table = pd.DataFrame(rows)[[feature.name for feature in shared]]
    sampled = tfdv.generate_statistics_from_dataframe(table, tfdv.StatsOptions(schema=schema), n_jobs=1)
    comparisons = {
        "drift": tfdv.validate_statistics(sampled, schema, previous_statistics=training),
        "skew": tfdv.validate_statistics(training, schema, serving_statistics=sampled),
    }
    means = [_means(statistics) for statistics in (training, sampled)]
    measures = [
        Measure(
            name,
            kind,
            DriftSkewInfo.Measurement.Type.Name(measurement.type),
            measurement.value,
            measurement.threshold + sampling_margin.distance_margin(measurement.type, training, sampled, name),
            *(None if name == features.LABEL else mean.get(name) for mean in means),
        )
        for kind, anomalies in comparisons.items()
        for info in anomalies.drift_skew_info
        for name in [".".join(info.path.step)]
        for measurement in (*info.drift_measurements, *info.skew_measurements)
    ]
    return measures, len(rows)


def _read_rows(samples: pathlib.Path, version: int) -> list[dict[str, float]]:
    """Returns the scalars of each sample of a version."""
    import tensorflow as tf

    from components import datasets
    from serving import sampling

    files = [str(path) for path in sorted(samples.glob(f"*{sampling.SUFFIX}"))]
    rows: list[dict[str, float]] = []
    # The last record of a file may be cut off: a server writes it, or was killed.
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
    """Returns the mean of each numeric feature."""
    return {
        feature.path.step[0]: feature.num_stats.mean
        for feature in statistics.datasets[0].features
        if feature.HasField("num_stats")
    }


if __name__ == "__main__":
    environment.prepare()
    stdio.run(main)
