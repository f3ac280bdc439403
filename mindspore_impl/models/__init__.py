"""The networks by name; a builder takes ``num_classes``, ``auxiliary`` and the network's own arguments."""
from mindspore_impl.models.fast_scnn import FastSCNN

MODELS = {
    'fast_scnn': FastSCNN,
}
