"""Tramac/Fast-SCNN-pytorch; its published weights have no auxiliary head."""

from twinseg.common.weights.publishers.table import Table

SEPARABLE = {'0': 'depthwise.conv', '1': 'depthwise.bn', '3': 'pointwise.conv', '4': 'pointwise.bn'}  # layers of conv.{n}
CONV_BN = {'0': 'conv', '1': 'bn'}


def _separable(theirs: str, ours: str) -> dict[str, str]:
    return {f'{theirs}.conv.{index}': f'{ours}.{part}' for index, part in SEPARABLE.items()}


def _conv_bn(theirs: str, ours: str) -> dict[str, str]:
    return {f'{theirs}.{index}': f'{ours}.{part}' for index, part in CONV_BN.items()}


BOTTLENECK = 'global_feature_extractor.{stage}.{block}'
TABLES = (
    Table(
        source='tramac',
        arch='fast_scnn',
        marks=('learning_to_downsample.conv.conv.0.weight', 'global_feature_extractor.ppm.out.conv.0.weight'),
        classes='classifier.conv.1.weight',
        heads=('aux_ltd',),
        rules={
            **_conv_bn('learning_to_downsample.conv.conv', 'learning_to_downsample.conv'),
            **_separable('learning_to_downsample.dsconv1', 'learning_to_downsample.dsconv1'),
            **_separable('learning_to_downsample.dsconv2', 'learning_to_downsample.dsconv2'),
            **_conv_bn(f'{BOTTLENECK}.block.0.conv', f'{BOTTLENECK}.expand'),
            **_conv_bn(f'{BOTTLENECK}.block.1.conv', f'{BOTTLENECK}.depthwise'),
            f'{BOTTLENECK}.block.2': f'{BOTTLENECK}.project.conv',
            f'{BOTTLENECK}.block.3': f'{BOTTLENECK}.project.bn',
            **_conv_bn('global_feature_extractor.ppm.conv1.conv', 'global_feature_extractor.ppm.branches.0'),
            **_conv_bn('global_feature_extractor.ppm.conv2.conv', 'global_feature_extractor.ppm.branches.1'),
            **_conv_bn('global_feature_extractor.ppm.conv3.conv', 'global_feature_extractor.ppm.branches.2'),
            **_conv_bn('global_feature_extractor.ppm.conv4.conv', 'global_feature_extractor.ppm.branches.3'),
            **_conv_bn('global_feature_extractor.ppm.out.conv', 'global_feature_extractor.ppm.out'),
            **_conv_bn('feature_fusion.dwconv.conv', 'feature_fusion.depthwise'),
            **_conv_bn('feature_fusion.conv_lower_res', 'feature_fusion.lower'),
            **_conv_bn('feature_fusion.conv_higher_res', 'feature_fusion.higher'),
            **_separable('classifier.dsconv1', 'classifier.dsconv1'),
            **_separable('classifier.dsconv2', 'classifier.dsconv2'),
            'classifier.conv.1': 'classifier.conv',
            'auxlayer.0': 'aux_ltd.conv.conv',
            'auxlayer.1': 'aux_ltd.conv.bn',
            'auxlayer.4': 'aux_ltd.classifier',
        },
    ),
)
