"""Errors that a user can act on; the command line prints them in one line and exits with status 2."""


class UserError(Exception):
    """Bad input: the message says what was found, where, and what to change."""


class DataError(UserError):
    """A data set, an image or a label that cannot be used; the message names the file."""


class StateError(UserError):
    """A checkpoint or a set of weights that is unreadable or does not fit the network."""


class BackendError(UserError):
    """A framework or a device that is not there."""
