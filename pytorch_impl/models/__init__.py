"""The networks by name; a builder takes ``num_classes``, ``auxiliary`` and the network's own arguments."""
from pytorch_impl.models.fast_scnn import FastSCNN
from pytorch_impl.models.stdc import stdc1, stdc1_seg, stdc2, stdc2_seg

MODELS = {
    'fast_scnn': FastSCNN,
    'stdc1': stdc1,
    'stdc2': stdc2,
    'stdc1_seg': stdc1_seg,
    'stdc2_seg': stdc2_seg,
}
