"""A network of a few convolutions, in both backends: ``twinseg train fast_scnn_toy_street --plugin examples/tiny_network.py
--set arch=tiny auxiliary_weights={} model_args={}``.

Each factory imports its framework when that backend is used. The layers are the suite's, so that initial weights, precision and
names are the same on both sides: one text in two dialects.
"""


def register(plugins):
    plugins.network('tiny', pytorch=in_pytorch, mindspore=in_mindspore)


def in_pytorch():
    from twinseg.pytorch_impl.layers import Conv2d, ConvBN, Sequential
    from twinseg.pytorch_impl.network import Network

    class Tiny(Network):
        def __init__(self, num_classes=19, auxiliary=True, width=16):
            super().__init__({'logits': False})
            self.stem = Sequential(ConvBN(3, width, 3, 2), ConvBN(width, width, 3, 2))
            self.classifier = Conv2d(width, num_classes, bias=True)

        def forward(self, x):
            return {'logits': self.classifier(self.stem(x))}

    return Tiny


def in_mindspore():
    from twinseg.mindspore_impl.layers import Conv2d, ConvBN, Sequential
    from twinseg.mindspore_impl.network import Network

    class Tiny(Network):
        def __init__(self, num_classes=19, auxiliary=True, width=16):
            super().__init__({'logits': False})
            self.stem = Sequential(ConvBN(3, width, 3, 2), ConvBN(width, width, 3, 2))
            self.classifier = Conv2d(width, num_classes, bias=True)

        def construct(self, x):
            return {'logits': self.classifier(self.stem(x))}

    return Tiny
