"""Backbone, classifier, and the image preprocessing of a checkpoint."""
