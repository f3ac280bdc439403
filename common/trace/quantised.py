"""What each layer of an int8 file costs: the file is run with one layer at a time in float32, then with the worst together."""

import tempfile
from pathlib import Path
from typing import Any, Iterable, Optional

import numpy as np
import onnx

from twinseg.common import tasks
from twinseg.common.config import Config
from twinseg.common.data.base import OnProgress
from twinseg.common.deploy.exported_file import ExportedNetwork, evaluate_exported
from twinseg.common.errors import UserError
from twinseg.common.trace.onnx_mapping import QUANTISING, layer_name
from twinseg.common.trace.onnx_source import OnnxSource
from twinseg.common.trace.result import Section

WORST = 3  # layers that are tried in float32 together
WEIGHTED = ('Conv', 'ConvTranspose', 'MatMul', 'Gemm')


def rank_layers(
    exact: OnnxSource,
    quantised: OnnxSource,
    images: np.ndarray,
    config: Optional[Config] = None,
    scored: Optional[int] = None,
    progress: Optional[OnProgress] = None,
) -> list[Section]:
    """Layers of an int8 file by the share of the logits' difference from float32 (root mean square, on ``images``) that
    vanishes when they alone stay in float32. With ``config``, the scores on its validation split of both files, with each of
    the first ``scored`` layers (of all, unless given: each takes an evaluation) in float32, and with the WORST of these
    together: a layer may change logits much and classes little. ``progress`` counts the layers that are scored."""
    step = exact.batch or len(images)
    batches = [exact.prepare(images[start : start + step]) for start in range(0, len(images) - step + 1, step)]
    if not batches:
        raise UserError(f'{exact.path}: takes {step} images at once; give as many (--images {step})')
    wanted = [exact.engine(exact.given(inputs)) for inputs in batches]
    names = weighted_nodes(quantised.model)
    with tempfile.TemporaryDirectory(prefix='twinseg-trace-') as folder:
        file = Path(folder) / 'mixed.onnx'

        def left(chosen: Iterable[str]) -> float:
            model = in_float(quantised.model, exact.model, set(chosen))
            image, output = model.graph.input[0].name, model.graph.output[0].name
            apart = [
                quantised.execute(model, {image: quantised.given(inputs)}, [output])[output] - logits
                for inputs, logits in zip(batches, wanted)
            ]
            return float(np.sqrt(np.mean(np.square(np.stack(apart), dtype=np.float64))))

        whole = left(())
        shares = {name: 1 - left((name,)) / whole for name in names} if whole else {}
        order = sorted(shares, key=lambda name: -shares[name])
        rows: list[dict[str, Any]] = [
            {'layer': layer_name(quantised.model, name), 'node': name, 'share': shares[name]} for name in order
        ]
        if not order:
            return [Section('int8', True, 'int8: gives what float32 gives', rows)]
        said = ', '.join(f'{row["layer"]} ({100 * row["share"]:.0f} %)' for row in rows[:WORST])
        text = f'int8: the most of the difference comes from {said}; '
        text += f'with these in float32 {100 * (1 - left(order[:WORST]) / whole):.0f} % of it vanishes'
        sections = [Section('int8', True, text, rows)]
        if config is not None:
            figure = tasks.of(config.task).FIGURES[0]

            def score(chosen: Iterable[str]) -> float:
                onnx.save(in_float(quantised.model, exact.model, set(chosen)), str(file))
                evaluation = evaluate_exported(ExportedNetwork(file, quantised.engine.name), config)
                return float(evaluation.scores.to_json()[figure])

            tried = order[:scored]
            scores = {}
            for count, name in enumerate(tried, 1):
                scores[name] = score((name,))
                if progress is not None:
                    progress(count, len(tried))
            worst = sorted(scores, key=lambda name: -scores[name])[:WORST]
            exact_score = evaluate_exported(ExportedNetwork(exact.path, exact.engine.name), config).scores.to_json()[figure]
            for row in rows:
                if row['node'] in scores:
                    row[figure] = scores[row['node']]
            each = ', '.join(f'{layer_name(quantised.model, name)} ({scores[name]:.2f} with it in float32)' for name in worst)
            text = (
                f'int8: {figure} {exact_score:.2f} in float32, {score(()):.2f} in int8; the layers that cost the most, of '
                f'{len(scores)} tried, are {each}; with these in float32 {score(worst):.2f}'
            )
            sections.append(Section('int8 scores', True, text, [row for row in rows if figure in row]))
    return sections


def weighted_nodes(model: Any) -> list[str]:
    """Outputs of the nodes with quantised weights."""
    producers = {name: node for node in model.graph.node for name in node.output}
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type in WEIGHTED
        and any(name in producers and producers[name].op_type == 'DequantizeLinear' for name in node.input)
    ]


def in_float(quantised: Any, exact: Any, outputs: set[str]) -> Any:
    """A copy of the int8 model in which the nodes with these outputs take float32 inputs and weights; UserError where the
    float32 model does not have them."""
    model = onnx.ModelProto()
    model.CopyFrom(quantised)
    producers = {name: node for node in model.graph.node for name in node.output}
    originals = {node.output[0]: node for node in exact.graph.node if node.output}
    named = {node.name: node for node in exact.graph.node if node.name}
    constants = {item.name: item for item in exact.graph.initializer}
    present = {item.name for item in model.graph.initializer}
    for output in outputs:
        node = producers[output]
        original = originals.get(output) or named.get(node.name)  # the last node's output is renamed
        if original is None or original.op_type != node.op_type:
            raise UserError(f'{output}: the float32 file has no such node: give the file that the int8 one was made from')
        name = node.input[0]
        while name in producers and producers[name].op_type in QUANTISING:
            name = producers[name].input[0]
        node.input[0] = name
        for index, weight in list(enumerate(original.input))[1:]:
            if weight in constants:
                fresh = f'{weight}/float'
                if fresh not in present:
                    item = model.graph.initializer.add()
                    item.CopyFrom(constants[weight])
                    item.name = fresh
                    present.add(fresh)
                node.input[index] = fresh
    return model
