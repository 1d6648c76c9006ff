"""Classes under the names they had before, so that Keras loads the files of that time.

Keras writes a class' name into a file, and uses it to find the weights of a model that is part of another
one. So a file of that time becomes objects of these classes, and saving them writes the same file again.
"""

import keras

from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.models.guarded import in_h5_files
from focalnets.models.image_converter import FocalNetImageConverter


@keras.saving.register_keras_serializable(package="focalnets")
@in_h5_files
class FocalNetClassifier(FocalNetImageClassifier):
    """`FocalNetImageClassifier` in files that were written before November 2026."""


@keras.saving.register_keras_serializable(package="focalnets")
class ImageConverter(FocalNetImageConverter):
    """`FocalNetImageConverter` in files that were written before November 2026."""
