"""The pages of ``--help``: commands and options in groups, one whole sentence for each command, two examples at the end.

Plain text of standard width, made without ``rich``, which takes longer to import than a page to print.
"""

from typing import Any

from typer.core import TyperCommand, TyperGroup

GROUPS: dict[str, dict[str, str]] = {  # title -> command -> its sentence
    'train': {
        'train': 'Trains a network, or resumes a training exactly.',
        'recipe': 'Shows a recipe, and what it becomes on other devices.',
        'ranks': 'Writes or checks a rank table for Ascend devices.',
    },
    'look': {
        'predict': 'Predicts images, folders, videos, addresses or a camera.',
        'eval': 'Scores a checkpoint or an exported file on a data set.',
        'demo': 'Opens a local page that shows predictions of your images.',
        'report': 'Writes one page about one or several runs.',
        'results': 'Writes a table of scores beside the published ones.',
        'submit': 'Writes predictions in the format of test servers.',
    },
    'prove': {
        'parity': 'Compares both twins: logits, gradients, training steps.',
        'trace': 'Names the first layer at which two computations part.',
        'benchmark': 'Measures latency, throughput, memory, parameters and MACs.',
    },
    'deploy': {
        'export': 'Writes ONNX, MINDIR or AIR and compares the file with the network.',
        'quantize': 'Writes an exported ONNX in int8, calibrated on real images.',
        'card': 'Writes a model card and a folder for sharing.',
        'preprocess': 'Writes the inputs of programs for cards.',
        'postprocess': 'Scores the results of programs for cards.',
    },
    'data and weights': {
        'list': 'Lists networks, recipes, data sets, weights or keys.',
        'browse': 'Checks a data set and draws augmented samples.',
        'prepare': 'Fetches, converts or caches a data set, or fetches weights.',
        'convert': 'Converts published weights for both backends.',
    },
}
EXAMPLES: dict[str, tuple[str, str]] = {
    'train': ('train fast_scnn_toy_street', 'train stdc/stdc1_camvid-360x480 --backend mindspore --set batch_size=4 --resume'),
    'recipe': (
        'recipe stdc/stdc1_4xb12-80k_cityscapes-512x1024 --devices 1',
        'recipe fast_scnn_toy_street --print > mine.yaml',
    ),
    'ranks': ('ranks hccl.json', 'ranks 10.0.0.1:0=192.168.100.101,1=192.168.101.101 --out tables'),
    'predict': (
        'predict --checkpoint ddrnet23_slim_camvid street.jpg',
        "predict --model net.onnx 'photos/**/*.jpg' --opacity 0.7",
    ),
    'eval': ('eval --checkpoint runs/mine --ms-flip --json scores.json', 'eval --model net.onnx --set data_url=/data/camvid'),
    'demo': ('demo', 'demo --checkpoint runs/mine --model net.onnx'),
    'report': ('report runs/mine', 'report runs/a runs/b --out compared.html --png charts'),
    'results': ('results runs/* --out results.md', 'results runs/mine --add'),
    'submit': ('submit --checkpoint runs/mine --ms-flip', 'submit --checkpoint runs/mine --split test --out submission'),
    'parity': ('parity fast_scnn_toy_street', 'parity stdc1_toy_street --weights stdc1.safetensors --json parity.json'),
    'trace': (
        'trace runs/mine@pytorch runs/mine@mindspore',
        'trace runs/mine net.onnx@openvino street.jpg --out trace.html',
    ),
    'benchmark': (
        'benchmark fast_scnn_toy_street --size 512x1024',
        'benchmark --checkpoint runs/mine --backend mindspore --no-train',
    ),
    'export': (
        'export --checkpoint runs/mine --format onnx',
        'export --checkpoint enet_camvid --format mindir --size 512x1024',
    ),
    'quantize': ('quantize net.onnx', 'quantize net.onnx --images 200 --out net_int8.onnx'),
    'card': ('card runs/mine', 'card enet_camvid --out enet-camvid'),
    'preprocess': ('preprocess net.onnx camvid /data/camvid', 'preprocess net.onnx imagenet2012 /data/imagenet/val --uint8'),
    'postprocess': ('postprocess net.onnx', 'postprocess net.onnx --precision fp16 --json scores.json'),
    'list': ('list recipes --dataset camvid', 'list keys crop --json'),
    'browse': ('browse fast_scnn_toy_street', 'browse my_set.yaml --samples 8 --out look'),
    'prepare': ('prepare voc --folder /data/voc', 'prepare custom --from labelme photos'),
    'convert': (
        'convert stdc2.pth --out stdc2.safetensors',
        'convert runs/mine/checkpoints/best.safetensors --half --out mine.pth',
    ),
}
OPTIONS: dict[str, tuple[str, ...]] = {  # title -> options, by the names of their parameters
    'Network': ('checkpoint', 'model', 'engine', 'backend', 'device', 'weights', 'weights_of', 'source'),
    'Configuration': ('settings', 'plugin', 'work_dir', 'resume', 'devices', 'batch_size'),
    'Views': ('ms_flip', 'scales', 'flip', 'slide', 'stride', 'size', 'real_size', 'boundary', 'split'),
    'Output': ('out', 'folder', 'json_file', 'as_json', 'png', 'logits', 'opacity', 'palette_png', 'format', 'half', 'add'),
}


class Command(TyperCommand):
    """A command whose options are in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {'Arguments': [], **{title: [] for title in OPTIONS}, 'Options': []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            titles = [title for title, names in OPTIONS.items() if parameter.name in names]
            title = 'Arguments' if parameter.param_type_name == 'argument' else titles[0] if titles else 'Options'
            sections[title].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section('Examples'):
            for example in EXAMPLES.get(self.name or '', ()):
                formatter.write(f'{"":{formatter.current_indent}}twinseg {example}\n')


class Commands(TyperGroup):
    """The commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        present = {name: command for name, command in self.commands.items() if not command.hidden}
        width = max(map(len, present))
        for title, sentences in GROUPS.items():
            rows = [(name, sentence) for name, sentence in sentences.items() if name in present]
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), sentence) for name, sentence in rows])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section('Examples'):
            for example in ('train fast_scnn_toy_street', 'predict --checkpoint ddrnet23_slim_camvid street.jpg'):
                formatter.write(f'{"":{formatter.current_indent}}twinseg {example}\n')
        formatter.write(
            '\n`twinseg COMMAND -h` explains a command. Any command takes `--debug` (prints\n'
            'tracebacks) and `--plugin FILE.py` (networks, losses, data sets and callbacks\n'
            'that you write).\n'
        )
