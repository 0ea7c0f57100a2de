# SPDX-License-Identifier: Apache-2.0
"""The data contract: the form of an example for every stage, the exported model and its clients.

To use your own images, edit `IMAGE_SHAPE` and `CLASSES` and add a data-set profile (README, "Your own images"). No
other code depends on a size or a number of classes.
"""

# Height and width of an image in pixels; one channel, unsigned bytes, 0 is the background.
IMAGE_SHAPE = (28, 28)
# The name of each class; a label is the index into this tuple.
CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")

# Features of a tf.Example.
IMAGE = "image"  # bytes: height * width unsigned bytes, row by row
LABEL = "label"  # int64, 0 .. len(CLASSES) - 1
ID = "id"  # bytes: FILE#INDEX, the file without ".gz" and the position of the image in it, from 0
# Scalars computed from the image at ingest, for TFDV and for the slices of evaluation.
HEIGHT = "height"  # int64, pixels
WIDTH = "width"  # int64, pixels
MEAN_INTENSITY = "mean_intensity"  # float, 0 .. 1: mean of the pixels / 255
INK_SHARE = "ink_share"  # float, 0 .. 1: share of pixels of 128 or more
CONTRAST = "contrast"  # float, 0 .. 1: (brightest - darkest pixel) / 255
SLANT = (
    "slant"  # float, -pi/2 .. pi/2 radians: lean of the ink from the vertical by image moments, positive to the right
)

# The splits of an Examples artifact. Only evaluation uses the labels of TEST.
TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)
# TFDV's statistics in the folder of each split, under TFX's name.
STATISTICS_FILE = "FeatureStats.pb"
# Beside the splits: `{"files": {name: SHA-256}, "splits": {split: images}}`.
SOURCE_FILE = "source.json"

# The exported model's signatures; each returns {CLASS_OUTPUT: int64 [n], PROBABILITIES_OUTPUT: float32 [n, classes]}.
SIGNATURE_BYTES = "serving_default"  # {IMAGE_BYTES_INPUT: string [n]}: PNG files, 8-bit greyscale, IMAGE_SHAPE
SIGNATURE_PIXELS = "serving_pixels"  # {PIXELS_INPUT: uint8 [n, height, width]}
SIGNATURE_EXAMPLES = "serving_examples"  # {EXAMPLES_INPUT: string [n]}: serialized tf.Examples with IMAGE
IMAGE_BYTES_INPUT, PIXELS_INPUT, EXAMPLES_INPUT = "image_bytes", "pixels", "examples"
CLASS_OUTPUT, PROBABILITIES_OUTPUT = "classes", "probabilities"
