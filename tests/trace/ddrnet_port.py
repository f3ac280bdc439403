"""A port of DDRNet-23-slim for ImageNet to MindSpore, under its authors' names (github.com/ydhongHIT/DDRNet), as users write
one: ``Net`` leaves ``pad_mode`` at MindSpore's default, 'same'; ``Mended`` pads as PyTorch does."""

from mindspore import nn, ops


def conv(before, after, kernel, stride=1, bias=False, pad_mode='same'):
    padding = {} if pad_mode == 'same' or kernel == 1 else {'pad_mode': 'pad', 'padding': kernel // 2}
    return nn.Conv2d(before, after, kernel, stride, has_bias=bias, **padding)


class Block(nn.Cell):
    def __init__(self, before, channels, stride, last, pad_mode):
        super().__init__()
        self.conv1 = conv(before, channels, 3, stride, pad_mode=pad_mode)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = conv(channels, channels, 3, pad_mode=pad_mode)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride > 1 or before != channels:
            self.downsample = nn.SequentialCell(conv(before, channels, 1, stride), nn.BatchNorm2d(channels))
        self.last = last

    def construct(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut
        return x if self.last else self.relu(x)


class Bottleneck(nn.Cell):
    def __init__(self, channels, pad_mode):
        super().__init__()
        self.conv1 = conv(channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, pad_mode=pad_mode)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv(channels, 2 * channels, 1)
        self.bn3 = nn.BatchNorm2d(2 * channels)
        self.downsample = nn.SequentialCell(conv(channels, 2 * channels, 1), nn.BatchNorm2d(2 * channels))
        self.relu = nn.ReLU()

    def construct(self, x):
        y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class DDRNet(nn.Cell):
    def __init__(self, pad_mode, channels=32, classes=1000):
        super().__init__()
        high = 2 * channels

        def steps(*sizes, bias=False, last_relu=False):
            cells = []
            for before, after in zip(sizes, sizes[1:]):
                cells += [conv(before, after, 3, 2, bias, pad_mode), nn.BatchNorm2d(after), nn.ReLU()]
            return nn.SequentialCell(cells if last_relu else cells[:-1])

        def stage(before, after, stride=1):
            return nn.SequentialCell(Block(before, after, stride, False, pad_mode), Block(after, after, 1, True, pad_mode))

        self.conv1 = steps(3, channels, channels, bias=True, last_relu=True)
        self.layer1, self.layer2 = stage(channels, channels), stage(channels, high, 2)
        self.layer3, self.layer4 = stage(high, 2 * high, 2), stage(2 * high, 4 * high, 2)
        self.layer3_, self.layer4_ = stage(high, high), stage(high, high)
        self.compression3 = nn.SequentialCell(conv(2 * high, high, 1), nn.BatchNorm2d(high))
        self.compression4 = nn.SequentialCell(conv(4 * high, high, 1), nn.BatchNorm2d(high))
        self.down3, self.down4 = steps(high, 2 * high), steps(high, 2 * high, 4 * high)
        self.layer5 = nn.SequentialCell(Bottleneck(4 * high, pad_mode))
        self.layer5_ = nn.SequentialCell(Bottleneck(high, pad_mode))
        self.down5 = steps(2 * high, 4 * high, 8 * high)
        self.last_layer = nn.SequentialCell(conv(8 * high, 1024, 1), nn.BatchNorm2d(1024), nn.ReLU())
        self.linear = nn.Dense(1024, classes)

    def construct(self, x):
        x = self.layer2(ops.relu(self.layer1(self.conv1(x))))
        size = x.shape[2:]
        low, high = self.layer3(ops.relu(x)), self.layer3_(ops.relu(x))
        compressed = self.compression3(ops.relu(low))
        low, high = low + self.down3(ops.relu(high)), high + ops.interpolate(compressed, size=size, mode='bilinear')
        low, high = self.layer4(ops.relu(low)), self.layer4_(ops.relu(high))
        compressed = self.compression4(ops.relu(low))
        low, high = low + self.down4(ops.relu(high)), high + ops.interpolate(compressed, size=size, mode='bilinear')
        x = ops.relu(self.layer5(ops.relu(low)) + self.down5(self.layer5_(ops.relu(high))))
        return self.linear(self.last_layer(x).mean((2, 3)))


def Net():
    return DDRNet('same')


def Mended():
    return DDRNet('pad')
