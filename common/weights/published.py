"""The table of published weights that have a name here, with all that is known of each file.

- ``url``: where the publisher offers it. What only a browser gets from there (``by_hand``) is not fetched.
- ``digest``: torchvision and OpenMMLab write the first eight digits of a file's SHA-256 into its name; PyTorch-Encoding's
  ``model_store.py`` gives SHA-1. The other publishers state none.
- ``mib``: torchvision states the sizes of its files (``_file_size`` of its weights, in units of 2^20 bytes), the others none.
- ``licence``: of the publisher's repository. None gives one for the weights alone; they were trained on ImageNet, whose terms,
  says torchvision's documentation, may apply to them.
- ``source``, ``arch``: what ``convert`` recognises in the file.
"""

from typing import NamedTuple, Optional

TORCHVISION = 'https://download.pytorch.org/models'
OPENMMLAB = (
    'https://download.openmmlab.com'  # as mmengine/hub/openmmlab.json and mmsegmentation's configurations name the files
)


class Published(NamedTuple):
    """A file of weights that somebody published."""

    name: str
    file: str
    url: str
    about: str
    licence: str
    source: str
    arch: str
    digest: Optional[str] = None  # algorithm:hexadecimal digits, or the first of them
    mib: Optional[float] = None
    by_hand: bool = False
    aliases: tuple[str, ...] = ()  # further names, as mmengine has them
    instead: Optional[str] = None  # name of the same weights in a file that is fetched

    @property
    def words(self) -> tuple[str, ...]:
        """All that it is called: its names, its file with and without suffix, its address."""
        stem = self.file.rpartition('.')[0]
        return (self.name, *self.aliases, self.file, stem, *(() if self.by_hand else (self.url,)))

    @property
    def size(self) -> str:
        """The size for a reader."""
        return 'not stated' if self.mib is None else f'{self.mib:.1f} MiB'

    @property
    def checked(self) -> str:
        """The digest for a reader."""
        return self.digest or 'not stated'


def _torchvision(name: str, prefix: str, mib: float, about: str, arch: Optional[str] = None) -> Published:
    return Published(
        name=f'{name}_torchvision',
        file=f'{name}-{prefix}.pth',
        url=f'{TORCHVISION}/{name}-{prefix}.pth',
        about=f"{about}, torchvision's IMAGENET1K_V1",
        licence='BSD-3-Clause',
        source='torchvision',
        arch=arch or name,
        digest=f'sha256:{prefix}',
        mib=mib,
        aliases=(f'torchvision://{name}',),
    )


def _openmmlab(name: str, path: str, arch: str, about: str, aliases: tuple[str, ...] = ()) -> Published:
    """The part of ``path`` behind its last hyphen are the first digits of the SHA-256."""
    file = path.rpartition('/')[2]
    return Published(
        name=name,
        file=file,
        url=f'{OPENMMLAB}/{path}',
        about=about,
        licence='Apache-2.0',
        source='mmseg',
        arch=arch,
        digest=f'sha256:{file.removesuffix(".pth").rpartition("-")[2]}',
        aliases=aliases,
    )


def _ddrnet(arch: str, title: str, file: str, drive: str) -> Published:
    return Published(
        name=f'{arch}_authors',
        file=file,
        url=f'https://drive.google.com/file/d/{drive}/view',
        about=f'{title}, the file of its authors (github.com/ydhongHIT/DDRNet)',
        licence='MIT',
        source='ddrnet',
        arch=arch,
        by_hand=True,
    )


def _stdc_seg(arch: str, file: str) -> Published:
    return Published(
        name=f'{arch}_stdc_seg',
        file=file,
        url='https://drive.google.com/drive/folders/1wROFwRt8qWHD4jSo8Zu1gp1d6oYJ3ns1',
        about=f'{arch.upper()}, the file of its authors (github.com/MichaelFan01/STDC-Seg)',
        licence='MIT',
        source='stdc_seg',
        arch=arch,
        by_hand=True,
        instead=f'{arch}_mmseg',
    )


PUBLISHED = (
    _torchvision('resnet18', 'f37072fd', 44.661, 'ResNet-18'),
    _torchvision('resnet34', 'b627a593', 83.275, 'ResNet-34'),
    _torchvision('resnet50', '0676ba61', 97.781, 'ResNet-50'),
    _torchvision('resnet101', '63fe2227', 170.511, 'ResNet-101'),
    _torchvision('resnet152', '394f9c45', 230.434, 'ResNet-152'),
    _torchvision('vgg16', '397923af', 527.796, 'VGG-16', arch='fcn'),
    _torchvision('vgg16_bn', '6c64b313', 527.866, 'VGG-16 with batch norm'),
    _openmmlab(
        'resnet50_v1c',
        'pretrain/third_party/resnet50_v1c-2cccc1ad.pth',
        'resnet50',
        'ResNet-50 with a stem of three convolutions, from which mmsegmentation starts',
        aliases=('open-mmlab://resnet50_v1c', 'openmmlab://resnet50_v1c'),
    ),
    _openmmlab(
        'resnet101_v1c',
        'pretrain/third_party/resnet101_v1c-e67eebb6.pth',
        'resnet101',
        'ResNet-101 with a stem of three convolutions, from which mmsegmentation starts',
        aliases=('open-mmlab://resnet101_v1c', 'openmmlab://resnet101_v1c'),
    ),
    _openmmlab(
        'stdc1_mmseg',
        'mmsegmentation/v0.5/pretrain/stdc/stdc1_20220308-5368626c.pth',
        'stdc1',
        "STDC1, the authors' weights as mmsegmentation converted them",
    ),
    _openmmlab(
        'stdc2_mmseg',
        'mmsegmentation/v0.5/pretrain/stdc/stdc2_20220308-7dbd9127.pth',
        'stdc2',
        "STDC2, the authors' weights as mmsegmentation converted them",
    ),
    _openmmlab(
        'ddrnet23_slim_mmseg',
        'mmsegmentation/v0.5/ddrnet/pretrain/ddrnet23s-in1kpre_3rdparty-1ccac5b1.pth',
        'ddrnet23_slim',
        "DDRNet-23-slim, the authors' weights as mmsegmentation converted them",
    ),
    _openmmlab(
        'ddrnet23_mmseg',
        'mmsegmentation/v0.5/ddrnet/pretrain/ddrnet23-in1kpre_3rdparty-9ca29f62.pth',
        'ddrnet23',
        "DDRNet-23, the authors' weights as mmsegmentation converted them",
    ),
    _ddrnet('ddrnet23_slim', 'DDRNet-23-slim', 'DDRNet23s_imagenet.pth', '1mg5tMX7TJ9ZVcAiGSB4PEihPtrJyalB4'),
    _ddrnet('ddrnet23', 'DDRNet-23', 'DDRNet23_imagenet.pth', '1VoUsERBeuCaiuQJufu8PqpKKtGvCTdug'),
    _ddrnet('ddrnet39', 'DDRNet-39', 'DDRNet39_imagenet.pth', '122CMx6DZBaRRf-dOHYwuDY9vG0_UQ10i'),
    _stdc_seg('stdc1', 'STDCNet813M_73.91.tar'),
    _stdc_seg('stdc2', 'STDCNet1446_76.47.tar'),
    Published(
        name='resnet50_encoding',
        file='resnet50-25c4b509.pth',
        url='https://hangzh.s3.amazonaws.com/encoding/models/resnet50-25c4b509.zip',
        about="ResNet-50 with a stem of three convolutions, Hang Zhang's of PyTorch-Encoding",
        licence='MIT',
        source='encoding',
        arch='resnet50',
        digest='sha1:25c4b50959ef024fcc050213a06b614899f94b3d',
    ),
)
