"""Bugs that ports have, planted in a network of either backend or in its ONNX graph, and what ``trace`` says of them.

    python -m tests.trace.mutations [--seed N] [--networks fast_scnn ...] [--sides pytorch mindspore onnx]

prints a table of all of them: what was planted where, whether the layer was named, and the cause.
"""

import argparse
import ast
import contextlib
import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional

import numpy as np

NETWORKS = {
    'fast_scnn': {},
    'ddrnet23_slim_seg': {},
    'pspnet': {'backbone': 'resnet18'},
}
SIZE = (64, 96)
STATISTICS = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
OTHER_STATISTICS = ([127.5, 127.5, 127.5], [127.5, 127.5, 127.5])


class Planted(NamedTuple):
    """A bug that was planted."""

    layer: str  # name of the layer, or of the module whose code it is in
    causes: tuple[str, ...]  # causes that are right
    statistics: tuple = STATISTICS  # of the second side's images
    patch: Optional[tuple[str, str, Callable]] = None  # module, attribute, change: while the second side runs


class Case(NamedTuple):
    bug: str
    network: str
    side: str  # pytorch, mindspore, onnxruntime, openvino
    seed: int


def randomised(state, seed=0):
    """Weights of a trained network's kind: norms that are not the identity, biases that are not zero."""
    rng, out = np.random.default_rng(seed), {}
    for key, value in state.items():
        if key.endswith('running_mean'):
            value = rng.normal(0, 0.3, value.shape)
        elif key.endswith('running_var'):
            value = rng.uniform(0.3, 2, value.shape)
        elif key.endswith('bias'):
            value = rng.normal(0, 0.2, value.shape)
        elif value.ndim == 1:
            value = rng.uniform(0.5, 1.5, value.shape)
        out[key] = value.astype(np.float32)
    return out


class Bench:
    """A side whose network can be changed."""

    def __init__(self, backend, network, rng):
        self.backend, self.network, self.rng = backend, network, rng
        self.ms = backend.name == 'mindspore'
        self.modules = dict(network.cells_and_names() if self.ms else network.named_modules())
        self.layers = backend.layers(network)
        executed = set(executed_layers(backend, network))
        self.layers = {name: layer for name, layer in self.layers.items() if name in executed}

    def choose(self, kind, wanted=lambda layer: True):
        names = [name for name, layer in self.layers.items() if layer.kind == kind and wanted(layer)]
        return names[self.rng.integers(len(names))] if names else None

    def change_state(self, name, change):
        state = self.backend.state(self.network)
        state[name] = np.ascontiguousarray(change(state[name]), np.float32)
        self.backend.load_state(self.network, state)

    def wrap(self, name, change):
        """Puts ``change(forward, x)`` instead of a layer's computation."""
        module = self.modules[name]
        attribute = 'construct' if self.ms else 'forward'
        forward = getattr(module, attribute)
        setattr(module, attribute, lambda x, *rest: change(forward, x, *rest))


def executed_layers(backend, network):
    from twinseg.common.trace.recording import Recording

    with Recording() as recording:
        backend.watch(network, np.zeros((1, 3, *SIZE), np.float32), recording)
        return list(dict.fromkeys(event.layer for event in recording.content))


def is_strided(layer):
    return layer.settings['stride'] == (2, 2) and layer.parameters['weight'].shape[2] == 3


def has_kernel(layer):
    return layer.parameters['weight'].shape[2] == 3


def is_square(layer):
    weight = layer.parameters['weight']
    return layer.settings['groups'] == 1 and weight.shape[0] == weight.shape[1]


def same_padding(bench):
    name = bench.choose('conv', is_strided)
    module = bench.modules[name]
    if bench.ms:
        from mindspore import ops

        module.conv2d = ops.Conv2D(
            module.out_channels,
            module.kernel_size,
            pad_mode='same',
            stride=module.stride,
            dilation=module.dilation,
            group=module.group,
        )
        module.pad_mode, module.padding = 'same', 0
    else:
        module.same, module.padding = True, (0, 0)
    return Planted(name, ('padding',))


def reflect_padding(bench):
    if bench.ms:
        return None
    name = bench.choose('conv', has_kernel)
    module = bench.modules[name]
    module.padding_mode = 'reflect'
    module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in range(2)]
    return Planted(name, ('padding', 'padding_mode'))


def epsilon(bench):
    name = bench.choose('norm')
    module = bench.modules[name]
    module.eps = 1e-3
    if bench.ms:
        from mindspore import ops

        module.bn_infer = ops.BatchNorm(is_training=False, epsilon=1e-3)
    return Planted(name, ('eps',))


def batch_statistics(bench):
    name = bench.choose('norm')
    module = bench.modules[name]
    if bench.ms:
        module.set_train(True)
    else:
        module.train()
    return Planted(name, ('statistics',))


def fresh_statistics(bench):
    name = bench.choose('norm')
    bench.change_state(f'{name}.running_mean', np.zeros_like)
    bench.change_state(f'{name}.running_var', np.ones_like)
    return Planted(name, ('statistics',))


def transposed_weight(bench):
    name = bench.choose('conv', is_square)
    bench.change_state(f'{name}.weight', lambda weight: weight.swapaxes(0, 1))
    return Planted(name, ('weight',))


def missing_weight(bench):
    name = bench.choose('conv')
    bench.change_state(f'{name}.weight', np.zeros_like)
    return Planted(name, ('weight',))


def missing_bias(bench):
    name = bench.choose('conv', lambda layer: 'bias' in layer.parameters) or bench.choose('norm')
    bench.change_state(f'{name}.bias', np.zeros_like)
    return Planted(name, ('bias',))


def missing_norm_bias(bench):
    name = bench.choose('norm')
    bench.change_state(f'{name}.bias', np.zeros_like)
    return Planted(name, ('bias',))


def bgr(bench):
    name = next(
        name for name, layer in bench.layers.items() if layer.kind == 'conv' and layer.parameters['weight'].shape[1] == 3
    )
    bench.change_state(f'{name}.weight', lambda weight: weight[:, ::-1])
    return Planted(name, ('channels', 'weight'))


def normalisation(bench):
    return Planted('network', ('scale',), OTHER_STATISTICS)


def align_corners(bench):
    names = [
        name for name, module in bench.modules.items() if name and isinstance(getattr(module, 'align_corners', None), bool)
    ]
    if not names:
        return None
    name = names[bench.rng.integers(len(names))]
    bench.modules[name].align_corners = not bench.modules[name].align_corners
    return Planted(name, ('align_corners',))


def missing_activation(bench):
    name = bench.choose('relu')
    bench.wrap(name, lambda forward, x: x)
    return Planted(name, ('activation',))


def leaky_activation(bench):
    name = bench.choose('relu')
    bench.wrap(name, lambda forward, x: forward(x * 1) + 0.01 * (x - abs(x)) / 2)
    return Planted(name, ('activation',))


def dropout(bench):
    name = bench.choose('dropout') or bench.choose('relu')
    if bench.ms:
        from mindspore import nn

        active = nn.Dropout(p=0.3).set_train(True)
    else:
        from torch import nn

        active = nn.Dropout(0.3).train()
    bench.wrap(name, lambda forward, x: active(forward(x)))
    return Planted(name, ('dropout',))


def half_precision(bench):
    name = bench.choose('conv')
    module = bench.modules[name]
    if bench.ms:
        import mindspore as ms

        module.compute_dtype = ms.float16
        bench.wrap(name, lambda forward, x: forward(x).astype(ms.float32))
    else:
        import torch

        module.compute_dtype = torch.float16
        bench.wrap(name, lambda forward, x: forward(x).float())
    return Planted(name, ('precision',))


def count_include_pad(bench):
    name = bench.choose('avg_pool', lambda layer: layer.settings['padding'] != (0, 0, 0, 0))
    if name is None:
        return None
    module = bench.modules[name]
    if bench.ms:
        from mindspore import ops

        kernel, stride = bench.layers[name].settings['kernel'], bench.layers[name].settings['stride']
        padding = bench.layers[name].settings['padding'][0]
        bench.wrap(name, lambda forward, x: ops.avg_pool2d(x, kernel, stride, padding, False, False))
    else:
        module.count_include_pad = False
    return Planted(name, ('count_include_pad',))


def ceil_mode(bench):
    name = bench.choose('max_pool') or bench.choose('avg_pool')
    if name is None:
        return None
    settings, module = bench.layers[name].settings, bench.modules[name]
    if bench.ms:
        from mindspore import ops

        if bench.layers[name].kind != 'max_pool':
            return None
        bench.wrap(
            name,
            lambda forward, x: ops.max_pool2d(
                x, settings['kernel'], settings['stride'], settings['padding'][0], ceil_mode=True
            ),
        )
    else:
        module.ceil_mode = True
    return Planted(name, ('ceil_mode', 'padding'))


def concat_order(bench):
    blocks = f'twinseg.{bench.backend.name}_impl.layers.blocks'
    names = [name for name, module in bench.modules.items() if type(module).__name__ == 'PyramidPooling']
    if names:
        return Planted(
            names[0], ('order',), patch=(blocks, 'concat', lambda concat: lambda features: concat(list(features)[::-1]))
        )
    names = [name for name, module in bench.modules.items() if type(module).__name__ in ('DAPPM', 'PyramidAggregation')] or [
        name for name in bench.modules if name == 'spp'
    ]
    if not names:
        return None
    module = type(bench.modules[names[0]]).__module__
    return Planted(names[0], ('order',), patch=(module, 'concat', lambda concat: lambda features: concat(list(features)[::-1])))


BUGS: dict[str, Callable[[Bench], Optional[Planted]]] = {
    "padding 'same'": same_padding,
    'padding mode reflect': reflect_padding,
    'BN epsilon': epsilon,
    'BN statistics of the batch': batch_statistics,
    'BN statistics not loaded': fresh_statistics,
    'align_corners': align_corners,
    'ceil mode': ceil_mode,
    'count_include_pad': count_include_pad,
    'weight transposed': transposed_weight,
    'weight missing': missing_weight,
    'bias missing': missing_bias,
    'BN bias missing': missing_norm_bias,
    'dropout active': dropout,
    'BGR': bgr,
    'mean and std': normalisation,
    'order of concat': concat_order,
    'activation missing': missing_activation,
    'leaky relu': leaky_activation,
    'one layer in float16': half_precision,
}


# In the ONNX graph: node by node.


def _nodes(graph, kind, wanted=lambda node: True):
    return [node for node in graph.node if node.op_type == kind and wanted(node)]


def _attribute(node, key, value):
    from onnx import helper

    for item in [item for item in node.attribute if item.name == key]:
        node.attribute.remove(item)
    node.attribute.append(helper.make_attribute(key, value))


def _get(node, key, default=None):
    from onnx import helper

    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == key), default)


def _change_weight(graph, name, change):
    from onnx import numpy_helper

    item = next(item for item in graph.initializer if item.name == name)
    item.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(item))), name))


def in_graph(bug, model, rng):
    """Plants a bug in a graph: the node that it was planted in, and the right causes. None where the graph has no
    such thing."""
    from onnx import helper

    graph = model.graph
    weights = {item.name: tuple(item.dims) for item in graph.initializer}
    convs = _nodes(graph, 'Conv', lambda node: node.input[1] in weights)

    def pick(nodes):
        return nodes[rng.integers(len(nodes))] if nodes else None

    if bug == "padding 'same'":
        node = pick([n for n in convs if _get(n, 'strides') == [2, 2] and weights[n.input[1]][2] == 3])
        _attribute(node, 'pads', [0, 0, 1, 1])
        return node, ('padding',)
    if bug == 'align_corners':
        node = pick(_nodes(graph, 'Resize'))
        mode = _get(node, 'coordinate_transformation_mode', b'half_pixel').decode()
        _attribute(node, 'coordinate_transformation_mode', 'half_pixel' if mode == 'align_corners' else 'align_corners')
        return node, ('align_corners', 'interpolation')
    if bug == 'count_include_pad':
        node = pick(_nodes(graph, 'AveragePool', lambda node: any(_get(node, 'pads', [0]))))
        if node is None:
            return None
        _attribute(node, 'count_include_pad', 0 if _get(node, 'count_include_pad', 0) else 1)
        return node, ('count_include_pad',)
    if bug == 'weight transposed':
        node = pick([n for n in convs if weights[n.input[1]][0] == weights[n.input[1]][1]])
        _change_weight(graph, node.input[1], lambda weight: weight.swapaxes(0, 1))
        return node, ('weight',)
    if bug == 'weight missing':
        node = pick(convs)
        _change_weight(graph, node.input[1], np.zeros_like)
        return node, ('weight',)
    if bug == 'bias missing':
        node = pick([n for n in convs if len(n.input) > 2 and n.input[2] in weights])
        del node.input[2]
        return node, ('bias',)
    if bug == 'BGR':
        node = next(n for n in convs if weights[n.input[1]][1] == 3)
        _change_weight(graph, node.input[1], lambda weight: weight[:, ::-1])
        return node, ('channels', 'weight')
    if bug == 'order of concat':
        node = pick(_nodes(graph, 'Concat', lambda node: len(set(node.input)) > 1 and _get(node, 'axis') == 1))
        if node is None:
            return None
        names = list(node.input)[::-1]
        del node.input[:]
        node.input.extend(names)
        return node, ('order',)
    if bug == 'activation missing':
        node = pick(_nodes(graph, 'Relu'))
        node.op_type = 'Identity'
        return node, ('activation',)
    if bug == 'leaky relu':
        node = pick(_nodes(graph, 'Relu'))
        node.op_type = 'LeakyRelu'
        _attribute(node, 'alpha', 0.01)
        return node, ('activation',)
    if bug == 'one layer in float16':
        node = pick(convs)
        planted = type(node).FromString(node.SerializeToString())
        nodes = []
        for other in list(graph.node):
            if other is not node and other.output[0] != node.output[0]:
                nodes.append(other)
                continue
            inputs = []
            for index, name in enumerate(node.input):
                nodes.append(helper.make_node('Cast', [name], [f'half/{index}'], to=10))
                inputs.append(f'half/{index}')
            again = helper.make_node('Conv', inputs, ['half/out'], name=node.name)
            again.attribute.extend(node.attribute)
            nodes += [again, helper.make_node('Cast', ['half/out'], [node.output[0]], to=1)]
        copies = [type(other).FromString(other.SerializeToString()) for other in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        return planted, ('precision',)
    return None


# Running a case.


def build(backend, arch, state=None):
    network = backend.build_model(arch, seed=0 if state is None else None, **NETWORKS[arch])
    backend.load_state(network, randomised(backend.state(network)) if state is None else state)
    return network


@contextlib.contextmanager
def patched(patch) -> Iterator[None]:
    if patch is None:
        yield
        return
    module, attribute, change = patch
    original = getattr(sys.modules[module], attribute)
    setattr(sys.modules[module], attribute, change(original))
    try:
        yield
    finally:
        setattr(sys.modules[module], attribute, original)


class Patched:
    """A side that runs under a patch."""

    def __init__(self, source, patch):
        self.source, self.patch = source, patch
        self.has_double = False

    def __getattr__(self, name):
        return getattr(self.source, name)

    def run(self, inputs, watcher):
        with patched(self.patch):
            self.source.run(inputs, watcher)


class Outcome(NamedTuple):
    case: Case
    planted: str
    named: str
    cause: Optional[str]
    layer_right: bool
    cause_right: Optional[bool]  # None: no cause was stated
    others: int  # further causes: of one bug there should be none
    seconds: float
    sentence: str


def run_case(case: Case, images=None) -> Optional[Outcome]:
    """What trace says; None where the network has no such layer."""
    from twinseg.common.backend import get_backend
    from twinseg.common.trace.compare import trace
    from twinseg.common.trace.sources import NetworkSource

    images = np.random.default_rng(0).integers(0, 256, (1, 3, *SIZE), np.uint8) if images is None else images
    started = time.process_time()
    rng = np.random.default_rng([case.seed, sum(map(ord, case.bug + case.network + case.side))])
    pytorch = get_backend('pytorch')
    pytorch.setup('cpu')
    first = build(pytorch, case.network)
    reference = NetworkSource(f'{case.network}@pytorch', pytorch, first, STATISTICS)
    if case.side in ('pytorch', 'mindspore'):
        backend = get_backend(case.side)
        backend.setup('cpu')
        second = build(backend, case.network, pytorch.state(first))
        planted = BUGS[case.bug](Bench(backend, second, rng))
        if planted is None:
            return None
        source: Any = NetworkSource(f'port@{case.side}', backend, second, planted.statistics)
        source.has_double = False
        result = trace(reference, Patched(source, planted.patch), images)
        names, causes = (planted.layer,), planted.causes
    else:
        found = planted_file(case, pytorch, first, rng)
        if found is None:
            return None
        names, causes, source = found
        result = trace(reference, source, images)
    cause = result.causes[0] if result.causes else None
    named = '' if cause is None else cause.layer
    right = named in names
    stated = cause.guess.cause if cause is not None and cause.guess is not None else None
    return Outcome(
        case,
        names[0],
        named,
        stated,
        right,
        None if stated is None else stated in causes,
        max(len(result.causes) - 1, 0),
        time.process_time() - started,
        result.sentence,
    )


def planted_file(case, pytorch, first, rng):
    """The file with the bug, the names of the layers that are right for it, and the right causes.

    The exporter says of every node which module computed it. A norm that it folds into a convolution shares a node with it:
    both names are right then.
    """
    import onnx

    from twinseg.common.deploy.onnx_graph import finish
    from twinseg.common.trace.onnx_source import OnnxSource

    statistics = STATISTICS
    if case.bug in ('BN epsilon', 'BN statistics not loaded', 'BN bias missing'):
        written = copy.deepcopy(first)
        before = BUGS[case.bug](Bench(pytorch, written, rng))
        model = finish(exported(pytorch, written), 17, {})
        names, causes = (before.layer,), before.causes
    else:
        if case.network not in EXPORTS:
            EXPORTS[case.network] = exported(pytorch, first)
        scopes = {node.name: module_of(node) for node in EXPORTS[case.network].graph.node}
        right = finish(copy.deepcopy(EXPORTS[case.network]), 17, {})
        model = copy.deepcopy(right)
        if case.bug == 'mean and std':
            names, causes, statistics = ('network',), ('scale',), OTHER_STATISTICS
        else:
            planted = in_graph(case.bug, model, rng)
            while case.bug == 'align_corners' and same(computed(model), computed(right)):  # of one pixel both rules make one
                model = copy.deepcopy(right)
                planted = in_graph(case.bug, model, rng)
            if planted is None:
                return None
            node, causes = planted
            names = (scopes[node.name],)
            if node.op_type == 'Conv':
                names = (node.input[1].removeprefix('network.').removesuffix('.weight'), *names)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'network.onnx'
        onnx.save(model, str(file))
        return names, causes, OnnxSource(f'port.onnx@{case.side}', file, case.side, statistics)


EXPORTS: dict[str, Any] = {}  # network -> its ONNX with the exporter's notes: `build` gives it the same weights for every case


def same(one, other) -> bool:
    """Whether two outputs are equal but for rounding."""
    return bool(abs(one - other).max() <= 2e-6 * abs(other).max())


def computed(model) -> np.ndarray:
    """The output for noise."""
    import onnxruntime

    noise = np.random.default_rng(0).standard_normal((1, 3, *SIZE), np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(None, {'image': noise})[0]


def exported(pytorch, network):
    """The ONNX as the exporter writes it."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'network.onnx'
        pytorch.write(network, file, 'onnx', shape=(1, 3, *SIZE))
        return onnx.load(str(file))


def module_of(node):
    """The module of the network that computed a node, by the exporter's note."""
    notes = {item.key: item.value for item in node.metadata_props}
    scopes = ast.literal_eval(notes.get('pkg.torch.onnx.name_scopes', "['']"))
    return next((name.removeprefix('network.') for name in reversed(scopes[:-1]) if name), 'network')


def cases(seed=0, networks=tuple(NETWORKS), sides=('pytorch', 'mindspore', 'onnx')) -> list[Case]:
    """Every bug in every network on every side; the engines take turns."""
    listed = []
    for number, (bug, network) in enumerate((bug, network) for bug in BUGS for network in networks):
        for side in sides:
            engine = ('onnxruntime', 'openvino')[number % 2] if side == 'onnx' else side
            listed.append(Case(bug, network, engine, seed))
    return listed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--networks', nargs='*', default=list(NETWORKS))
    parser.add_argument('--sides', nargs='*', default=['pytorch', 'mindspore', 'onnx'])
    parser.add_argument('--bugs', nargs='*', default=list(BUGS))
    given = parser.parse_args()
    outcomes = []
    for case in cases(given.seed, tuple(given.networks), tuple(given.sides)):
        if case.bug not in given.bugs:
            continue
        outcome = run_case(case)
        if outcome is None:
            continue
        outcomes.append(outcome)
        mark = (
            'ok'
            if outcome.layer_right and outcome.cause_right
            else 'LAYER'
            if not outcome.layer_right
            else 'no cause'
            if outcome.cause is None
            else 'CAUSE'
        )
        print(
            f'| {case.bug} | {case.network} | {case.side} | {outcome.planted} | {outcome.named} | {outcome.cause} | {mark} | '
            f'{outcome.others} | {outcome.seconds:.1f} s |',
            flush=True,
        )
        if mark != 'ok':
            print('    ', outcome.sentence, flush=True)
    right = sum(outcome.layer_right for outcome in outcomes)
    stated = [outcome for outcome in outcomes if outcome.cause is not None]
    wrong = [outcome for outcome in stated if not (outcome.layer_right and outcome.cause_right)]
    print(
        f'{right} of {len(outcomes)} named to the layer, {len(stated) - len(wrong)} with the cause, '
        f'{len(wrong)} with a wrong cause'
    )


if __name__ == '__main__':
    main()
