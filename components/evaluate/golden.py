# SPDX-License-Identifier: Apache-2.0
"""Sends golden requests to an exported model, as a program of its own with nothing but TensorFlow.

Neither Keras nor the packages that it imports can be imported here, so a model that needs them does not load. Nor can
Google's API client, which TensorFlow imports if it is installed.

    python golden.py SAVED_MODEL REQUESTS PREDICTIONS

REQUESTS is a folder with one serialized tensor for each signature, SIGNATURE.tensor, as `tf.io.serialize_tensor` writes
it; PREDICTIONS is a JSON file: signature -> probabilities, classes, and the seconds of each of some single requests.
"""

import gc
import json
import pathlib
import sys
import time

if __name__ == "__main__":
    gc.disable()  # collecting garbage takes a fifth of the time of an import, which makes none
    for absent in ("keras", "tf_keras", "sklearn", "pandas", "IPython", "googleapiclient"):
        sys.modules[absent] = None  # type: ignore[assignment]

import tensorflow as tf

if __name__ == "__main__":
    gc.freeze()
    gc.enable()

SINGLE_REQUESTS = 20


def main(saved_model: str, requests: str, predictions: str) -> None:
    model = tf.saved_model.load(saved_model)
    results = {}
    for path in sorted(pathlib.Path(requests).glob("*.tensor")):
        signature = model.signatures[path.stem]
        [(name, spec)] = signature.structured_input_signature[1].items()
        batch = tf.io.parse_tensor(path.read_bytes(), spec.dtype)
        outputs = signature(**{name: batch})
        signature(**{name: batch[:1]})  # the first request of a shape pays for the others
        seconds = []
        for row in range(SINGLE_REQUESTS):
            image = batch[row % len(batch) :][:1]
            start = time.perf_counter()
            signature(**{name: image})
            seconds.append(time.perf_counter() - start)
        results[path.stem] = {
            **{key: value.numpy().astype(float).tolist() for key, value in outputs.items()},
            "seconds": seconds,
        }
    pathlib.Path(predictions).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
