"""What a module offers, compared with the protocol that it follows."""

import inspect
from types import ModuleType
from typing import Any


def of_protocol(protocol: type) -> dict[str, list[tuple[str, Any, Any]]]:
    """Its methods, without ``self``: name, kind and default of every parameter."""
    methods = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value) and not name.startswith('_')}
    return {name: parameters(method)[1:] for name, method in methods.items()}


def of_module(module: ModuleType, names: Any) -> dict[str, list[tuple[str, Any, Any]]]:
    """The functions of those names, as far as there are any."""
    functions = {name: getattr(module, name) for name in names if callable(getattr(module, name, None))}
    return {name: parameters(function) for name, function in functions.items()}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(item.name, item.kind, item.default) for item in inspect.signature(function).parameters.values()]


def constants(protocol: type) -> set[str]:
    """Its attributes that are no functions."""
    return set(protocol.__annotations__)
