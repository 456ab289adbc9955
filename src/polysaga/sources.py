"""The sources of settings: a TOML file, environment variables, and files with one secret each.

The functions return plain nested values; `config` checks them afterwards. They consult its model to find out which
words of a variable's name are settings, and which settings are sections, lists or secrets.
"""

import json
import logging
import re
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr
from sqlalchemy import URL

from polysaga.errors import ConfigurationError

PREFIX = "POLYSAGA_"

_FILE = "_file"  # the suffix of a setting whose value is in a file
# Variables that Kubernetes and Docker set in every container if a service has our name.
_OF_A_SERVICE = re.compile(r"(.*_)?(SERVICE_HOST|(SERVICE_)?PORT(_.*)?)")
_log = logging.getLogger("polysaga.settings")


def named_file(variables: Mapping[str, str]) -> Path | None:
    """Return the settings file that `POLYSAGA_CONFIG` names; empty counts as not set."""
    # The documented spelling sorts first; others count only if it is not set.
    for name, text in sorted(variables.items()):
        if name.upper() == f"{PREFIX}CONFIG" and text.strip():
            return Path(text.strip()).expanduser()
    return None


def from_file(path: Path | None, model: type[BaseModel]) -> dict[str, Any]:
    """Return the settings in the TOML file at *path*; None means `polysaga.toml`, if it exists."""
    if path is None:
        path = Path("polysaga.toml")
        if not path.exists():
            return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the settings file {path} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    return with_secrets(values, model)


def from_environment(variables: Mapping[str, str], model: type[BaseModel]) -> dict[str, Any]:
    """Return the settings from variables that begin with `POLYSAGA_`; two underscores separate nested names."""
    found: dict[str, Any] = {}
    ours = [name for name in variables if _sets_something(name, model)]
    first: dict[str, str] = {}
    for name in ours:
        other = first.setdefault(name.upper(), name)
        if variables[other] != variables[name]:
            raise ConfigurationError(f"environment variables {other} and {name} set the same; keep one")
    # A variable with a whole section as JSON comes before the variables for its single settings.
    for name in sorted(ours, key=lambda name: (name.count("__"), name)):
        _put(found, model, name, variables[name])
    return with_secrets(found, model)


def with_secrets(values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return *values* with `url_file = "PATH"` replaced by `url`, the text of the file; likewise every secret."""
    return _with_secrets(values, model, ())


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, merged section by section; *high* wins. Keys that differ only in case are one key."""
    merged = dict(low)
    for key, value in high.items():
        there = _spelt(merged, key)
        below = merged.get(there)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[there] = merge(below, value)
        else:
            merged[there] = value
    return merged


def nearest(word: str, known: Collection[str]) -> str:
    """Return the end of an error about a *word* that is none of *known*: the one that was meant, or all."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else f"; known here: {', '.join(sorted(known))}"


def _sets_something(name: str, model: type[BaseModel]) -> bool:
    """Return whether the variable *name* is a setting; raise `ConfigurationError` if it looks mistyped."""
    upper = name.upper()
    rest = upper.removeprefix(PREFIX)
    if rest == upper or rest == "CONFIG" or rest.startswith("TEST_"):
        return False
    head, separator, _ = rest.partition("__")
    if head.lower() in model.model_fields:
        return True
    if not separator and _OF_A_SERVICE.fullmatch(rest):
        return False
    sections = [*model.model_fields, "config"]
    first = head.partition("_")[0].lower()
    if separator or first in sections or get_close_matches(first, sections, n=1, cutoff=0.75):
        raise ConfigurationError(f"environment variable {name} sets nothing{_instead(rest, sections)}")
    _log.warning("environment variable %s sets nothing; is it meant for another program?", name)
    return False


def _instead(rest: str, sections: list[str]) -> str:
    head = rest.partition("__")[0].lower()
    section = next((one for one in sections if head.startswith(f"{one}_")), None)
    if section is not None and section != "config":
        return f": two underscores separate the words, e.g. {PREFIX}{section.upper()}__NAME"
    return nearest(head, sections)


def _put(found: dict[str, Any], model: type[BaseModel], name: str, text: str) -> None:
    place: dict[str, Any] = found
    kind: Any = model
    *sections, last = name[len(PREFIX) :].split("__")
    for index, word in enumerate(sections):
        following = [*sections, last][index + 1]
        if _is_model(kind) and word.lower() not in kind.model_fields and following.lower() in kind.model_fields:
            raise ConfigurationError(
                f"environment variable {name}: '{word}' is no section; if it belongs to the name of a database, "
                "choose a name without two underscores in a row"
            )
        key, kind = _step(kind, word)
        place = place.setdefault(_spelt(place, key), {})
        if not isinstance(place, dict):
            raise ConfigurationError(
                f"environment variable {name} sets a part of what another one sets as a whole"
            )
    whole, (key, kind) = kind, _step(kind, last)
    place[_spelt(place, key)] = _value(kind, name, text, whole)


def _step(kind: Any, word: str) -> tuple[str, Any]:
    """Return the key that *word* names inside *kind*, and the kind of its value."""
    if _is_model(kind):
        field = kind.model_fields.get(word.lower())
        return word.lower(), None if field is None else _plain(field.annotation)
    # The name of a database, as written; a name all in capitals leaves its case open.
    return word.lower() if word == word.upper() else word, _plain(_item(kind))


def _value(kind: Any, name: str, text: str, whole: Any) -> Any:
    """Return *text* unchanged for a single setting, decoded for a section; *whole* is the kind around it."""
    if kind is Any:  # an option of another library: only its text shows its type
        return _decoded(text, text)
    if not _is_section(kind):
        return text
    value = _decoded(text)
    if isinstance(value, dict):
        return value
    if get_origin(whole) is tuple:
        return text  # such as one replica, which may be its URL
    raise ConfigurationError(
        f"environment variable {name} sets a whole section: write it as a JSON object, or set {name}__NAME "
        "for each of its settings"
    )


def _decoded(text: str, otherwise: Any = None) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return otherwise


def _with_secrets(values: Mapping[str, Any], kind: Any, path: tuple[str, ...]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for key, value in values.items():
        place = (*path, str(key))
        secret = str(key).removesuffix(_FILE)
        if _is_model(kind) and secret != key and _is_secret(kind, secret):
            if secret in values:
                raise ConfigurationError(f"'{'.'.join(place)}' and '{secret}' are both set; keep one of them")
            read[secret] = _secret(value, ".".join(place))
            continue
        inside = _inside(kind, str(key))
        if isinstance(value, Mapping):
            read[key] = _with_secrets(value, inside, place)
        elif isinstance(value, list | tuple) and not isinstance(value, URL):  # SQLAlchemy's is a tuple
            item = _plain(_item(inside))
            read[key] = [
                _with_secrets(one, item, (*place, str(number))) if isinstance(one, Mapping) else one
                for number, one in enumerate(value)
            ]
        else:
            read[key] = value
    return read


def _secret(path: Any, place: str) -> str:
    if not isinstance(path, str | Path) or not str(path).strip():
        raise ConfigurationError(f"setting '{place}': give the path of a file")
    file = Path(str(path).strip()).expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ConfigurationError(f"setting '{place}': {file} is not UTF-8 text") from None
    except OSError as error:
        # A relative path may be the secret itself, which was set in the place of its file.
        named = str(file) if file.is_absolute() else f"the file that it names below {Path.cwd()}"
        raise ConfigurationError(f"setting '{place}': cannot read {named}: {error.strerror}") from None
    if not text:
        raise ConfigurationError(f"setting '{place}': {file} is empty")
    return text


def _spelt(place: Mapping[str, Any], key: str) -> str:
    """Return *key* as *place* already spells it."""
    if key in place:
        return key
    return next((known for known in place if str(known).casefold() == key.casefold()), key)


def _inside(kind: Any, key: str) -> Any:
    if _is_model(kind):
        field = kind.model_fields.get(key)
        return None if field is None else _plain(field.annotation)
    return _plain(_item(kind))


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_section(kind: Any) -> bool:
    return _is_model(kind) or get_origin(kind) is dict


def _is_secret(model: type[BaseModel], name: str) -> bool:
    """Return whether the setting *name* is a secret, or a list of secrets or of parts that need one."""
    field = model.model_fields.get(name)
    if field is None:
        return False
    kind = _plain(field.annotation)
    return kind is SecretStr or get_origin(kind) is tuple


def _item(kind: Any) -> Any:
    """Return the kind of the items of a list or of a table with free names; None if *kind* has no items."""
    if get_origin(kind) is tuple:
        return get_args(kind)[0]
    return get_args(kind)[1] if get_origin(kind) is dict else None


def _plain(annotation: Any) -> Any:
    """Return *annotation* without `None` and without constraints."""
    if hasattr(annotation, "__metadata__"):
        return _plain(get_args(annotation)[0])
    rest = [one for one in get_args(annotation) if one is not NoneType]
    return _plain(rest[0]) if len(rest) == 1 and NoneType in get_args(annotation) else annotation
