"""TwinSeg: semantic-segmentation networks, each in PyTorch and in MindSpore, over one framework-free core."""
