"""The trainings that made the networks in ``data/embedded``; the study itself imports none of it.

Each is run from the repository's folder: ``python -m workshop.pretraining`` and
``workshop.head_training`` (vgg-mini and its classifier), ``workshop.saliency_training NAME``.
"""
