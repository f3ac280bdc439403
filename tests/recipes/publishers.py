"""What publishers' own files say for recipes of ours, setting by setting; mmsegmentation's are in ``mmsegmentation.json``.

A setting is the key of ours that says the same, the publisher's value in that key's units, and the file and line where it is
written. Where ours differs on purpose the row has our value and the reason.
"""

from typing import Any, NamedTuple

SAME = object()  # our value is the publisher's


class Setting(NamedTuple):
    """A setting of a publisher; ``at``: file and line in its repository."""

    key: str
    theirs: Any
    at: str
    ours: Any = SAME
    reason: str = ''


class Family(NamedTuple):
    """Recipes that follow one publisher. ``recipes``: patterns of their names."""

    repository: str
    recipes: tuple[str, ...]
    settings: tuple[Setting, ...]


MEAN, STD = [0.45734706, 0.43338275, 0.40058118], [0.23965294, 0.23532275, 0.2398498]

FAMILIES = {
    'deephm': Family(
        'DeepHM/deeplabv3plus_DPDDP@8a614f6',
        (r'.*_deephm-(dp|ddp)_voc12aug-380x380',),
        (
            Setting('train_split', 'train_aug', 'config.json:28'),
            Setting('val_split', 'val', 'config.json:40'),
            Setting('batch_size', 8, 'config.json:19'),
            Setting('drop_last', False, 'base/base_dataloader.py:15-22, train_ddp.py:125-130'),
            Setting('base_size', [400, 400], 'config.json:20'),
            Setting('ratio_range', [0.5, 2.0], 'base/base_dataset.py:69'),
            Setting('crop_size', [380, 380], 'config.json:21'),
            Setting('cat_max_ratio', 1.0, 'base/base_dataset.py:99-106'),
            Setting('rotate', 10, 'base/base_dataset.py:79'),
            Setting('rotate_before_crop', True, 'base/base_dataset.py:78-83'),
            Setting('padding', 'background', 'base/base_dataset.py:90-97'),
            Setting('flip_prob', 0.5, 'base/base_dataset.py:109-112'),
            Setting('blur_sigma', 0.0, 'config.json:27'),
            Setting('photometric_distortion', False, 'base/base_dataset.py:63-120'),
            Setting('sampling', 'shuffle', 'config.json:23'),
            Setting('mean', [255 * value for value in MEAN], 'dataloaders/voc.py:75'),
            Setting('std', [255 * value for value in STD], 'dataloaders/voc.py:76'),
            Setting('eval_center_crop', [480, 480], 'config.json:38, base/base_dataset.py:40-61'),
            Setting('optimizer', 'sgd', 'config.json:46'),
            Setting('base_lr', 0.01, 'config.json:49'),
            Setting('momentum', 0.9, 'config.json:51'),
            Setting('use_nesterov', False, 'config.json:48-52'),
            Setting('weight_decay', 1e-4, 'config.json:50'),
            Setting('norm_bias_decay', True, 'base/base_trainer.py:46-57'),
            Setting('clip_global_norm', False, 'trainer.py:70-71'),
            Setting('lr_scheduler', 'poly_lr', 'config.json:58'),
            Setting('power', 0.9, 'utils/lr_scheduler.py:14'),
            Setting('min_lr', 0.0, 'utils/lr_scheduler.py:14'),
            Setting('warmup_iters', 0, 'utils/lr_scheduler.py:5'),
            Setting('loss', 'cross_entropy', 'config.json:55'),
            Setting('class_weight', None, 'train_dp.py:30'),
            Setting('avg_non_ignore', True, 'config.json:56'),
            Setting('log_interval', 20, 'config.json:72'),
        ),
    ),
    'deephm on one process': Family(
        'DeepHM/deeplabv3plus_DPDDP@8a614f6',
        (r'.*_deephm-dp_voc12aug-380x380',),
        (
            Setting('launcher', 'dp', 'base/base_trainer.py:37'),
            Setting('epochs', 80, 'config.json:63'),
            Setting('lr_batch_size', 8, 'config.json:19'),
        ),
    ),
    'deephm on two processes': Family(
        'DeepHM/deeplabv3plus_DPDDP@8a614f6',
        (r'.*_deephm-ddp_voc12aug-380x380',),
        (
            Setting('launcher', None, 'train_ddp.py:164'),
            Setting('sync_bn', False, 'train_ddp.py:164'),
            Setting(
                'epochs',
                81,
                'train_ddp.py:186,204',
                80,
                'its loop runs from 0 to 80: one epoch before the schedule, at a rate slightly above 0.01',
            ),
            Setting('lr_batch_size', 16, 'config.json:3,19'),
        ),
    ),
    'deephm with a backbone': Family(
        'DeepHM/deeplabv3plus_DPDDP@8a614f6',
        (r'(deeplabv3plus_r101|gcn_r50|upernet_r101|duc_hdc_r101|pspnet_r50)_deephm-d?dp_voc12aug-380x380',),
        (Setting('lr_mult', {'backbone': 0.1}, 'base/base_trainer.py:46-54'),),
    ),
    'deephm without a backbone': Family(
        'DeepHM/deeplabv3plus_DPDDP@8a614f6',
        (r'(enet|unet|segnet)_deephm-d?dp_voc12aug-380x380',),
        (Setting('lr_mult', {}, 'models/enet.py:220, models/unet.py:108, models/segnet.py:107'),),
    ),
    'deephm FCN-8s': Family(
        'DeepHM/deeplabv3plus_DPDDP@8a614f6',
        (r'fcn8_vgg16_deephm-d?dp_voc12aug-380x380',),
        (
            Setting('lr_mult', dict.fromkeys(('backbone', 'conv6', 'conv7', 'classifier'), 0.1), 'models/fcn.py:105-106'),
            Setting('pretrained', 'vgg16_torchvision', 'models/fcn.py:12,38-45'),
        ),
    ),
    'deephm PSPNet': Family(
        'DeepHM/deeplabv3plus_DPDDP@8a614f6',
        (r'pspnet_r50_deephm-d?dp_voc12aug-380x380',),
        (Setting('auxiliary_weights', {'aux': 0.4}, 'trainer.py:61'),),
    ),
    'yassouali PSPNet': Family(
        'yassouali/pytorch-segmentation@33434fa',
        (r'pspnet_r50_yassouali_voc12aug-380x380',),
        (
            Setting('batch_size', 32, 'README.md:194'),
            Setting('lr_batch_size', 32, 'README.md:178,194'),
            Setting('drop_last', False, 'base/base_dataloader.py:15-22'),
            Setting('launcher', None, 'README.md:178'),
            Setting('sync_bn', True, 'README.md:179'),
            Setting('train_split', 'train_aug', 'README.md:203'),
            Setting('crop_size', [380, 380], 'README.md:196'),
            Setting('base_size', [400, 400], 'README.md:198'),
            Setting('ratio_range', [0.5, 2.0], 'README.md:199, base/base_dataset.py:69'),
            Setting('flip_prob', 0.5, 'README.md:200, base/base_dataset.py:109-112'),
            Setting('rotate', 10, 'README.md:201, base/base_dataset.py:79'),
            Setting('rotate_before_crop', True, 'base/base_dataset.py:78-83'),
            Setting('padding', 'background', 'base/base_dataset.py:90-97'),
            Setting('eval_center_crop', [480, 480], 'README.md:213, base/base_dataset.py:40-61'),
            Setting('blur_sigma', 1.0, 'README.md:202, base/base_dataset.py:115-119'),
            Setting('optimizer', 'sgd', 'README.md:221'),
            Setting('lr_mult', {'backbone': 0.1}, 'README.md:222'),
            Setting('base_lr', 0.01, 'README.md:224'),
            Setting('weight_decay', 1e-4, 'README.md:225'),
            Setting('momentum', 0.9, 'README.md:226'),
            Setting('loss', 'cross_entropy', 'README.md:230'),
            Setting('lr_scheduler', 'poly_lr', 'README.md:233'),
            Setting('epochs', 80, 'README.md:238'),
        ),
    ),
    'davidtvs': Family(
        'davidtvs/PyTorch-ENet@e17d404',
        ('enet_cityscapes-512x1024', 'enet_davidtvs_camvid-360x480'),
        (
            Setting('optimizer', 'adam', 'main.py:155'),
            Setting('base_lr', 5e-4, 'args.py:41'),
            Setting('weight_decay', 2e-4, 'args.py:58'),
            Setting('norm_bias_decay', True, 'main.py:155-158'),
            Setting('beta', [0.9, 0.999], 'main.py:155-158'),
            Setting('eps', 1e-8, 'main.py:155-158'),
            Setting('lr_scheduler', 'multistep_lr', 'main.py:161'),
            Setting('lr_adjust', 100, 'args.py:51'),
            Setting('lr_gamma', 0.1, 'args.py:46'),
            Setting('epochs', 300, 'args.py:35'),
            Setting('class_weight', 'enet', 'args.py:86'),
            Setting('class_weight_of', 'all', 'data/utils.py:126'),
            Setting('drop_last', False, 'main.py:49-53'),
            Setting('loss', 'cross_entropy', 'main.py:152'),
            Setting('mean', [0.0, 0.0, 0.0], 'main.py:34-36'),
            Setting('std', [255.0, 255.0, 255.0], 'main.py:34-36'),
            Setting('ratio_range', [1.0, 1.0], 'main.py:34-36'),
            Setting('flip_prob', 0.0, 'main.py:34-36'),
            Setting('rotate', 0.0, 'main.py:34-36'),
            Setting('photometric_distortion', False, 'main.py:34-36'),
            Setting('sampling', 'shuffle', 'main.py:52'),
        ),
    ),
    'davidtvs on Cityscapes': Family(
        'davidtvs/PyTorch-ENet@e17d404',
        ('enet_cityscapes-512x1024',),
        (
            Setting('batch_size', 4, 'save/ENet_Cityscapes/ENet_summary.txt:2'),
            Setting('crop_size', [512, 1024], 'save/ENet_Cityscapes/ENet_summary.txt:7,20'),
            Setting('base_size', [512, 1024], 'save/ENet_Cityscapes/ENet_summary.txt:7,20'),
            Setting('eval_resized', [512, 1024], 'save/ENet_Cityscapes/ENet_summary.txt:7,20, main.py:34-41'),
        ),
    ),
    'davidtvs on CamVid': Family(
        'davidtvs/PyTorch-ENet@e17d404',
        ('enet_davidtvs_camvid-360x480',),
        (
            Setting('batch_size', 10, 'save/ENet_CamVid/ENet_summary.txt:2'),
            Setting('crop_size', [360, 480], 'save/ENet_CamVid/ENet_summary.txt:7,20'),
            Setting('base_size', [360, 480], 'save/ENet_CamVid/ENet_summary.txt:7,20'),
            Setting('eval_size', [360, 480], 'save/ENet_CamVid/ENet_summary.txt:7,20'),
        ),
    ),
    'e-lab': Family(
        'e-lab/ENet-training@f762144',
        ('enet_elab(-encoder)?_camvid-360x480',),
        (
            Setting('optimizer', 'adam', 'train/train.lua:112'),
            Setting('base_lr', 5e-4, 'train/opts.lua:15'),
            Setting('lr_scheduler', 'multistep_lr', 'train/train.lua:58'),
            Setting('lr_gamma', 1e-7, 'train/opts.lua:16, train/train.lua:58'),
            Setting('lr_adjust', 100, 'train/opts.lua:22'),  # in its 100th epoch, here after it
            Setting('weight_decay', 2e-4, 'train/opts.lua:17'),
            Setting('norm_bias_decay', True, 'train/train.lua:105'),
            Setting('batch_size', 10, 'train/opts.lua:19'),
            Setting('drop_last', True, 'train/train.lua:79-81'),
            Setting('epochs', 299, 'train/opts.lua:20, train/run.lua:58'),
            Setting('crop_size', [360, 480], 'train/opts.lua:36-37'),
            Setting('sampling', 'shuffle', 'train/train.lua:69'),
            Setting('mean', [0.0, 0.0, 0.0], 'train/data/loadCamVid.lua:86-93'),
            Setting('std', [255.0, 255.0, 255.0], 'train/data/loadCamVid.lua:86-93'),
            Setting('ratio_range', [1.0, 1.0], 'train/data/loadCamVid.lua:86-93'),
            Setting('flip_prob', 0.0, 'train/data/loadCamVid.lua:86-93'),
            Setting('photometric_distortion', False, 'train/data/loadCamVid.lua:86-93'),
            Setting('loss', 'cross_entropy', 'train/models/encoder.lua:126'),
            Setting('val_split', 'test', 'train/data/loadCamVid.lua:11', 'val', 'the test images are for the end'),
        ),
    ),
    'e-lab encoder': Family(
        'e-lab/ENet-training@f762144',
        ('enet_elab-encoder_camvid-360x480',),
        (
            Setting('label_stride', 8, 'train/opts.lua:36-39, train/data/loadCamVid.lua:104'),
            Setting('model_args', {'encoder_only': True}, 'train/models/encoder.lua:102'),
        ),
    ),
    'e-lab decoder': Family(
        'e-lab/ENet-training@f762144',
        ('enet_elab_camvid-360x480',),
        (
            Setting('label_stride', 1, 'train/README.md, "Example command for training decoder"'),
            Setting('model_args', {'decoder_dropout': 0.0}, 'train/models/decoder.lua:60-97'),
        ),
    ),
    'SegNet': Family(
        'alexgkendall/SegNet-Tutorial@bb68b64',
        ('segnet_camvid-360x480',),
        (
            Setting('base_lr', 0.001, 'Models/segnet_solver.prototxt:5'),
            Setting('lr_scheduler', 'constant_lr', 'Models/segnet_solver.prototxt:6-8'),
            Setting('momentum', 0.9, 'Models/segnet_solver.prototxt:10'),
            Setting('max_iters', 40000, 'Models/segnet_solver.prototxt:11'),
            Setting('weight_decay', 0.0005, 'Models/segnet_solver.prototxt:12'),
            Setting('checkpoint_interval', 1000, 'Models/segnet_solver.prototxt:13'),
            Setting('batch_size', 4, 'Models/segnet_train.prototxt:9'),
            Setting('sampling', 'shuffle', 'Models/segnet_train.prototxt:10'),
            Setting('flip_prob', 0.0, 'Models/segnet_train.prototxt:7-11'),
            Setting(
                'class_weight',
                [0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614],
                'Models/segnet_train.prototxt:1538-1548',
            ),
            Setting(
                'norm_bias_decay',
                True,
                'Models/segnet_train.prototxt:19-49',
                False,
                "there the scale of a norm decays, its shift and the convolutions' biases do not: two of the three",
            ),
            Setting('lr_mult', {'*.conv.bias': 2.0, 'classifier.bias': 2.0}, 'Models/segnet_train.prototxt:23'),
            Setting(
                'std',
                [1.0, 1.0, 1.0],
                'Models/segnet_train.prototxt:7-11',
                [58.395, 57.12, 57.375],
                "the weights to start from are torchvision's, made for its normalisation",
            ),
        ),
    ),
    'TuSimple': Family(
        'TuSimple/TuSimple-DUC@13e7d3f',
        ('duc_hdc_r101_cityscapes-800x800',),
        (
            Setting('crop_size', [800, 800], 'configs/train/train_cityscapes.cfg:38'),
            Setting('scale_set', [0.5, 0.75, 1.0, 1.25, 1.5], 'configs/train/train_cityscapes.cfg:37'),
            Setting('flip_prob', 0.5, 'configs/train/train_cityscapes.cfg:39'),
            Setting('momentum', 0.9, 'configs/train/train_cityscapes.cfg:22'),
            Setting('batch_size', 1, 'configs/train/train_cityscapes.cfg:34', 8, "yassouali's optimizer and schedule"),
            Setting('base_lr', 1e-4, 'configs/train/train_cityscapes.cfg:18', 0.01, 'theirs continues a trained model'),
            Setting('weight_decay', 5e-5, 'configs/train/train_cityscapes.cfg:23', 1e-4, "yassouali's"),
            Setting('epochs', 50, 'configs/train/train_cityscapes.cfg:15', 80, "yassouali's"),
            Setting('lr_scheduler', 'multistep_lr', 'configs/train/train_cityscapes.cfg:19', 'poly_lr', "yassouali's"),
            Setting('freeze', ['*.bn.*'], 'configs/train/train_cityscapes.cfg:12', [], 'theirs continues a trained model'),
            Setting('repeat', 7, 'get_cityscapes_list.py', 1, 'its 7 overlapping patches of an image; here any crop'),
        ),
    ),
    'the model zoo': Family(
        'mindspore-ai/models@08b9e95',
        ('ddrnet23_imagenet_(gpu|ascend)',),
        tuple(
            Setting(key, value, f'research/cv/DDRNet/src/configs/ddrnet23_imagenet_gpu.yaml:{line}')
            for line, key, value in (
                (7, 'num_classes', 1000),
                (8, 'mix_up', 0.8),
                (9, 'cutmix', 1.0),
                (10, 'color_jitter', 0.4),
                (11, 'auto_augment', 'rand-m9-mstd0.5-inc1'),
                (12, 'interpolation', 'bicubic'),
                (13, 're_prob', 0.25),
                (14, 're_mode', 'pixel'),
                (15, 're_count', 1),
                (16, 'mixup_prob', 1.0),
                (17, 'switch_prob', 0.5),
                (18, 'mixup_mode', 'batch'),
                (19, 'mixup_off_epoch', 0.0),
                (20, 'image_size', [224, 224]),
                (21, 'crop_pct', 0.875),
                (25, 'optimizer', 'momentum'),
                (26, 'use_nesterov', True),
                (27, 'base_lr', 0.1),
                (28, 'warmup_lr', 1e-6),
                (29, 'min_lr', 1e-5),
                (30, 'lr_scheduler', 'cosine_lr'),
                (31, 'warmup_length', 10),
                (32, 'lr_adjust', 30),
                (36, 'amp_level', 'O2'),
                (37, 'keep_bn_fp32', True),
                (38, 'beta', [0.9, 0.999]),
                (39, 'clip_global_norm_value', 5.0),
                (40, 'clip_global_norm', True),
                (41, 'is_dynamic_loss_scale', True),
                (42, 'epochs', 300),
                (43, 'label_smoothing', 0.1),
                (44, 'loss_scale', 1024),
                (45, 'weight_decay', 1e-4),
                (46, 'decay', 0.9),
                (47, 'momentum', 0.9),
                (51, 'num_parallel_workers', 16),
                (55, 'drop_path_rate', 0.1),
            )
        ),
    ),
    'the model zoo on GPUs': Family(
        'mindspore-ai/models@08b9e95',
        ('ddrnet23_imagenet_gpu',),
        (
            Setting('batch_size', 256, 'research/cv/DDRNet/src/configs/ddrnet23_imagenet_gpu.yaml:48'),
            Setting('sync_bn', False, 'research/cv/DDRNet/train.py: a network for each card'),
            Setting('device_target', 'GPU', 'research/cv/DDRNet/src/configs/ddrnet23_imagenet_gpu.yaml:52'),
        ),
    ),
    'the model zoo on Ascend': Family(
        'mindspore-ai/models@08b9e95',
        ('ddrnet23_imagenet_ascend',),
        (
            Setting('batch_size', 128, 'research/cv/DDRNet/src/configs/ddrnet23_imagenet_ascend.yaml:48'),
            Setting('device_target', 'Ascend', 'research/cv/DDRNet/src/configs/ddrnet23_imagenet_ascend.yaml:52'),
        ),
    ),
    'torchvision': Family(
        'pytorch/vision@bde124e',
        (r'(resnet(18|34|50|101|152)|vgg16_bn)_imagenet',),
        tuple(
            Setting(key, value, f'references/classification/{at}')
            for at, key, value in (
                ('train.py, --batch-size', 'batch_size', 32),
                ('train.py, DataLoader', 'drop_last', False),
                ('README.md, 8 x V100', 'lr_batch_size', 256),
                ('train.py, --sync-bn', 'sync_bn', False),
                ('train.py, --epochs', 'epochs', 90),
                ('train.py, --lr', 'base_lr', 0.1),
                ('train.py, --momentum', 'momentum', 0.9),
                ('train.py, --weight-decay', 'weight_decay', 1e-4),
                ('train.py, SGD', 'norm_bias_decay', True),
                ('train.py, SGD', 'use_nesterov', False),
                ('train.py, StepLR', 'lr_scheduler', 'multistep_lr'),
                ('train.py, --lr-step-size', 'lr_adjust', 30),
                ('train.py, --lr-gamma', 'lr_gamma', 0.1),
                ('train.py, main', 'warmup_length', 0.0),
                ('train.py, CrossEntropyLoss', 'label_smoothing', 0.0),
                ('train.py, RandomResizedCrop', 'image_size', [224, 224]),
                ('train.py, RandomResizedCrop', 'scale', [0.08, 1.0]),
                ('train.py, RandomResizedCrop', 'interpolation', 'bilinear'),
                ('train.py, RandomHorizontalFlip', 'flip_prob', 0.5),
                ('train.py, load_data', 'color_jitter', 0.0),
                ('train.py, load_data', 'auto_augment', None),
                ('train.py, Resize(256), CenterCrop(224)', 'crop_pct', 0.875),
                ('train.py, Normalize', 'mean', [123.675, 116.28, 103.53]),
                ('train.py, Normalize', 'std', [58.395, 57.12, 57.375]),
            )
        ),
    ),
}
# Recipes of publishers' scores that no table here holds to a file -> where they are held, or why they are not.
ELSEWHERE = {
    r'stdc[12](-seg50)?_in1k-pre_(3xb16-60k(-trainval)?|10k)_.*': "tests/recipes/test_recipes.py: STDC-Seg's authors",
    r'ddrnet_.*_(chenjun2hao|authors(-trainval)?)_.*': "tests/recipes/test_recipes.py: chenjun2hao, the authors' own words",
    r'ddrnet_.*_2xb6-120k_.*': 'mmsegmentation.json',
    r'ddrnet_(23|23-slim)_in1k-pre_camvid-720x960': 'from memory of the paper; its author is followed by authors_camvid',
    r'ddrnet(23|23_slim|39)_imagenet': "the authors' training code is not published; the schedule is from memory of the paper",
    r'stdc[12]_imagenet': "the authors' ImageNet code is not published; the schedule is from memory of the paper",
    'stdc1_8xb12-20k_.*': 'tests/recipes/test_recipes.py: mmsegmentation on eight cards',
    'gcn_r152_cityscapes-800x800': 'the paper is not readable; its header says what is not its own',
    'segnet_cityscapes-360x480': 'from memory of the paper, as its header says',
    'enet_camvid-360x480': "TwinSeg's own settings; the score beside it is of davidtvs' network",
}
