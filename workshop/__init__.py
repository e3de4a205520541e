"""The trainings that made the networks in ``data/embedded``; the study itself imports none of it.

They are run from the repository's folder: ``python -m workshop.saliency_training NAME``.
"""
