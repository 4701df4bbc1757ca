"""A recipe by name or by path, with values overridden from the command line."""

import ast
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

import latentum_jax.configs as bundled
from latentum_jax.files import module_at


def load_config(name_or_path: str, overrides: Mapping[str, str]) -> ConfigDict:
    """The config that a recipe's `get_config()` returns, with `overrides` ("a.b" -> "3") put in.

    A value is read as a Python literal, and as text where its key holds text. One for a key that
    links of a chain set themselves holds for these links too; `links.NAME.a.b` is for one link.

    Raises ValueError where there is no such recipe or key, or the value is of another type.
    """
    config = _get_config(name_or_path)()
    if not isinstance(config, ConfigDict):
        raise ValueError(f"get_config() of {name_or_path} returned {config!r}, not a ConfigDict")
    for key, text in overrides.items():
        _override(config, key, text)
    return config


def stage_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config of one link of a chain: the shared values overlaid with the link's own."""
    if name not in config.links:
        raise ValueError(f"chain names {name!r}, which is not in links {sorted(config.links)}")
    merged = config.copy_and_resolve_references()
    merged.update(config.links[name].to_dict())
    merged.chain = ()
    if config.steps:  # an explicit number of steps holds for every link
        merged.steps = config.steps
    return merged


def known_configs() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(m.name for m in pkgutil.iter_modules(bundled.__path__) if m.name != "base")


def _get_config(name_or_path: str) -> Callable[[], Any]:
    if name_or_path.endswith(".py"):
        module = module_at(name_or_path, "config")
    elif name_or_path in known_configs():
        module = importlib.import_module(f"{bundled.__name__}.{name_or_path}")
    else:
        known = ", ".join(known_configs())
        raise ValueError(
            f"there is no config {name_or_path!r}, expected a path ending in .py or one of {known}"
        )
    if not hasattr(module, "get_config"):
        raise ValueError(f"{name_or_path} is no config: it has no function get_config()")
    return module.get_config


def _override(config: ConfigDict, key: str, text: str) -> None:
    parts, links = key.split("."), config.get("links", {})
    if len(parts) > 2 and parts[0] == "links" and parts[1] in links:
        # A link holds only what it changes, but may change every key that there is.
        _put(links[parts[1]], parts[2:], _read(key, text, _find(config, parts[2:])))
        return
    value = _read(key, text, _find(config, parts))
    _put(config, parts, value)
    for link in links.values():
        if _has(link, parts):  # its own value would win over the one asked for
            _put(link, parts, value)


def _find(config: ConfigDict, parts: Sequence[str]) -> Any:
    value: Any = config
    for depth, part in enumerate(parts):
        if not isinstance(value, ConfigDict) or part not in value:
            section = ".".join(parts[:depth]) or "the config"
            has = ", ".join(value) if isinstance(value, ConfigDict) else f"the value {value!r}"
            raise ValueError(f"there is no config key {'.'.join(parts)!r}: {section} has {has}")
        value = value[part]
    return value


def _has(config: ConfigDict, parts: Sequence[str]) -> bool:
    value: Any = config
    for part in parts:
        if not isinstance(value, ConfigDict) or part not in value:
            return False
        value = value[part]
    return True


def _put(config: ConfigDict, parts: Sequence[str], value: Any) -> None:
    section = config
    with config.unlocked():
        for part in parts[:-1]:
            if part not in section:
                section[part] = ConfigDict()
            section = section[part]
        section[parts[-1]] = value


def _read(key: str, text: str, current: Any) -> Any:
    """The text as a value of the type of the current one."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if isinstance(current, ConfigDict):
        raise ValueError(f"config key {key!r} is a section with {', '.join(current)}, no value")
    if isinstance(current, str):
        return value if isinstance(value, str) else text
    if isinstance(current, float) and type(value) is int:
        return float(value)
    if isinstance(current, tuple) and isinstance(value, list):
        return tuple(value)
    if type(value) is not type(current):
        kind = type(current).__name__
        raise ValueError(f"config key {key!r} is {current!r}, of type {kind}, got {text!r}")
    return value
