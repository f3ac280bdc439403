"""Limits of what is read: beyond them a value is a mistake, or meant to take all memory."""

MAX_PIXELS = 1 << 26  # pixels of an image: 67 million, thirty Cityscapes images; more is taken for a decompression bomb
MAX_SIDE = 32766  # pixels of a side: OpenCV's warps take no longer ones (SHRT_MAX - 1)
MAX_CLASSES = 65536  # classes of a network: ImageNet-21k has 21,841
MAX_CLASS_IDS = 255  # classes of a segmentation: ids are bytes, and 255 is ignored
