"""Carries the samples that ``twinseg.common.data`` makes: in threads, because MindSpore must not run in a forked process.

MindSpore's own ``GeneratorDataset`` is no faster, hides the errors of a sample in a RuntimeError and cannot be left early.
"""

from twinseg.common.data.thread_loader import make_loader as make_loader
