"""A callback that writes each new best score to ``best_scores.txt`` in the run folder."""

import twinseg


def register(plugins):
    plugins.callback(BestScores())


class BestScores(twinseg.Callback):
    def start(self, training):
        self.file, self.best = training.folder / 'best_scores.txt', None

    def evaluation(self, step, scores):
        score = scores.get('mIoU', scores.get('top1'))
        if self.best is None or score > self.best:
            self.best = score
            with self.file.open('a', encoding='utf-8') as text:
                text.write(f'step {step}: {score:.2f}\n')
