"""A data set whose images and masks lie in one folder, the split in their names (``train_001.jpg``, ``train_001_mask.png``):
``--set set=flat_folder data_url=photos``."""


def register(plugins):
    plugins.dataset('flat_folder', read, ['road', 'building', 'sky'], palette=[[90, 60, 100], [150, 110, 70], [120, 160, 220]])


def read(folder, split):
    for image in sorted(folder.glob(f'{split}_*.jpg')):
        yield image, image.with_name(f'{image.stem}_mask.png')
