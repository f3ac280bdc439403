"""Data sets, augmentation and sampling: numpy, OpenCV and Pillow.

``base`` (what a data set is), ``classes`` and ``reading`` are at the bottom; ``layouts``, ``image_folder`` and ``toy_street``
are the data sets; ``open`` opens them by name. ``samples`` augments what they hold, ``sampling`` says in which order.
"""
