"""Not run: mypy checks here that both implementations are backends, with the types of every argument and result."""

from twinseg.common.backend import Backend
from twinseg.mindspore_impl import backend as mindspore
from twinseg.pytorch_impl import backend as pytorch

PYTORCH: Backend = pytorch
MINDSPORE: Backend = mindspore
