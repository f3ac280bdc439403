"""A loss in both backends: the squared distance of probabilities from the labels (Brier's score): ``--set loss=squared``."""

IGNORED = 255


def register(plugins):
    plugins.loss('squared', pytorch=in_pytorch, mindspore=in_mindspore)


def in_pytorch():
    def squared(logits, labels):
        valid = labels != IGNORED
        probabilities = logits.softmax(1)
        of_truth = probabilities.gather(1, labels.where(valid, 0)[:, None])[:, 0]
        distance = (probabilities**2).sum(1) - 2 * of_truth + 1
        return (distance * valid).sum() / valid.sum().clip(1)

    return squared


def in_mindspore():
    from mindspore import ops

    def squared(logits, labels):
        valid = labels != IGNORED
        probabilities = ops.softmax(logits, 1)
        truth = ops.select(valid, labels, ops.zeros_like(labels))
        of_truth = ops.gather_elements(probabilities, 1, truth.expand_dims(1))[:, 0]
        distance = (probabilities**2).sum(1) - 2 * of_truth + 1
        return (distance * valid).sum() / ops.maximum(valid.astype(distance.dtype).sum(), 1)

    return squared
