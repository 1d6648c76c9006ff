"""Classes under their former names, so that Keras loads older files.

Keras saves the name of a class, and uses it to find the weights of a nested model. Older files are therefore
loaded as objects of these classes, which are saved under the same names again.
"""

import keras

from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.models.guarded import in_h5_files
from focalnets.models.image_converter import FocalNetImageConverter


@keras.saving.register_keras_serializable(package="focalnets")
@in_h5_files
class FocalNetClassifier(FocalNetImageClassifier):
    """`FocalNetImageClassifier` in files from before November 2026."""


@keras.saving.register_keras_serializable(package="focalnets")
class ImageConverter(FocalNetImageConverter):
    """`FocalNetImageConverter` in files from before November 2026."""
