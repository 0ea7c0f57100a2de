# SPDX-License-Identifier: Apache-2.0
"""Asks an exported model golden requests, as a program that a fresh process runs: nothing but TensorFlow is there.

Keras, installed as it is, cannot be imported here, nor what Keras would import: a model that needs it does not load.
Nor can Google's API client, which TensorFlow imports where it is, for clusters of Google's.

    python golden.py SAVED_MODEL REQUESTS ANSWERS

REQUESTS is a folder with one serialized tensor for each signature, SIGNATURE.tensor, as `tf.io.serialize_tensor` writes
it; ANSWERS is a JSON file: signature -> probabilities, classes, and the seconds that each of some single requests took.
"""

import gc
import json
import pathlib
import sys
import time

if __name__ == "__main__":
    gc.disable()  # an import makes no garbage, and to look for it is a fifth of the time
    for absent in ("keras", "tf_keras", "sklearn", "pandas", "IPython", "googleapiclient"):
        sys.modules[absent] = None  # type: ignore[assignment]

import tensorflow as tf

if __name__ == "__main__":
    gc.freeze()
    gc.enable()

SINGLE_REQUESTS = 20


def main(saved_model: str, requests: str, answers: str) -> None:
    model = tf.saved_model.load(saved_model)
    told = {}
    for path in sorted(pathlib.Path(requests).glob("*.tensor")):
        signature = model.signatures[path.stem]
        [(name, spec)] = signature.structured_input_signature[1].items()
        batch = tf.io.parse_tensor(path.read_bytes(), spec.dtype)
        answer = signature(**{name: batch})
        signature(**{name: batch[:1]})  # the first request of a shape pays for the others
        seconds = []
        for row in range(SINGLE_REQUESTS):
            one = batch[row % len(batch) :][:1]
            started = time.perf_counter()
            signature(**{name: one})
            seconds.append(time.perf_counter() - started)
        told[path.stem] = {
            **{key: value.numpy().astype(float).tolist() for key, value in answer.items()},
            "seconds": seconds,
        }
    pathlib.Path(answers).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
