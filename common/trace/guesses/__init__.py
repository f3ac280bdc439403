"""What could be wrong with a layer, or with what is computed between layers: every guess is tried on the recorded input, and
given only when it makes the difference vanish."""

from twinseg.common.trace.guesses.between import between
from twinseg.common.trace.guesses.guess import Candidate, Guess, Step
from twinseg.common.trace.guesses.images import Pictures, resize_of
from twinseg.common.trace.guesses.layers import of_layer

__all__ = ['Candidate', 'Guess', 'Pictures', 'Step', 'between', 'of_layer', 'resize_of']
