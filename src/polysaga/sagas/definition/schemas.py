"""Which types survive JSON: what pydantic's schemas tell of how a value is written and how it is read back.

A value is read from the journal by a takeover, perhaps much later, and by every step before that. So a type is
refused, when the saga is declared, if what is written of it is not what is looked for when it is read, or if
reading it twice gives two answers. Of what functions of the user's write or read nothing can be told here; the
first value that does not fit is refused then (`payloads.encode`).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import (
    ConfigDict,
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
)
from pydantic.json_schema import GenerateJsonSchema

from polysaga.errors import DefinitionError

# Kinds of pydantic schemas that no JSON fits, those that are functions of the user's, parts that hold others.
_CLASSES = {"is-instance", "is-subclass", "callable"}
_OWN_WAYS = {"function-before", "function-wrap", "function-plain"}
_PARTS = {
    "schema",
    "fields",
    "choices",
    "steps",
    "definitions",
    "arguments_schema",
    "extras_schema",
    "items_schema",
    "keys_schema",
    "values_schema",
    "lax_schema",
    "json_schema",
}


def payload_type(kind: Any, what: str) -> TypeAdapter[Any]:
    """Return *kind* as a type that can be written to JSON and read back, always the same; raise if it cannot."""
    try:
        adapter = _adapter(kind)
        schema = _json_schema(adapter)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise DefinitionError(f"{what}, {named(kind)}, does not survive JSON; use a pydantic model") from error
    if '"format": "password"' in json.dumps(schema):
        raise DefinitionError(f"{what}, {named(kind)}, holds a secret, which JSON shows as '***'; pass its key")
    for problem in _unreadable(adapter.core_schema):
        raise DefinitionError(f"{what}, {named(kind)}, cannot be read back from JSON: {problem}")
    return adapter


def written_fields(adapter: TypeAdapter[Any]) -> frozenset[str] | None:
    """Return the names of the fields that JSON of this type has at its top; None if it has no fields."""
    whole: Mapping[str, Any] = adapter.core_schema
    schema: Mapping[str, Any] | None = whole
    while schema is not None:
        if isinstance(schema.get("fields"), Mapping | list) and schema["type"] != "dataclass":
            fields = _fields(schema["fields"])
            return frozenset(_written(*field) for field in fields if not _excluded(field[1]))
        if schema["type"] == "definition-ref":
            schema = next(one for one in whole["definitions"] if one["ref"] == schema["schema_ref"])
        else:
            schema = schema.get("schema")
    return None


def named(kind: Any) -> str:
    """Return the name of a type, for people."""
    return str(getattr(kind, "__name__", kind)) if isinstance(kind, type) else str(kind)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind)
    except PydanticSchemaGenerationError:
        # A class of its own, as `Annotated` with a serializer and a validator.
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))


class _Lenient(GenerateJsonSchema):
    """JSON schemas with a gap for each class that only functions of the user's write and read."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


def _json_schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """Return the JSON schema of the type; raise `PydanticUserError` if it cannot be written, or not be read."""
    try:
        return adapter.json_schema()
    except PydanticInvalidForJsonSchema:
        if _is_opaque(adapter.core_schema):
            raise
        return adapter.json_schema(schema_generator=_Lenient)


def _unreadable(schema: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Yield what in a pydantic *schema* is written to JSON and never read back as it was, and the remedy."""
    if schema["type"] in _OWN_WAYS or _has_serializer(schema):
        return  # the user's own code reads or writes it, and it alone knows what fits what
    if schema["type"] == "generator":
        yield "an Iterable is used up by whoever reads it first; use list[...]"
    if schema.get("now_op") == "future":
        yield "a date that must be in the future is refused when it is read later; check it before the saga starts"
    config = schema.get("config") or config or {}
    for name, field in _fields(schema.get("fields")):
        written, read = _written(name, field), _read(name, field, config)
        if _excluded(field) and field.get("required", True) and field["schema"]["type"] != "default":
            yield f"the field '{name}' is required and not written; give it a default, or do not exclude it"
        if not _excluded(field) and written not in read:
            yield (
                f"the field '{name}' is written as '{written}' and read as {_listed(read)}; give it one name for "
                f"both: Field(alias=...), or a serialization_alias"
            )
    for part in _PARTS & schema.keys():
        for inner in _schemas(schema[part]):
            yield from _unreadable(inner, config)


def _is_opaque(schema: Mapping[str, Any], *, read: bool = False, written: bool = False) -> bool:
    """Tell whether something in *schema* is of a class that no function of the user's writes, or none reads."""
    read, written = read or schema["type"] in _OWN_WAYS, written or _has_serializer(schema)
    if schema["type"] in _CLASSES:
        return not (read and written)
    inner = (one for part in _PARTS & schema.keys() for one in _schemas(schema[part]))
    return any(_is_opaque(one, read=read, written=written) for one in inner)


def _has_serializer(schema: Mapping[str, Any]) -> bool:
    return "function" in str(schema.get("serialization", {}).get("type"))


def _schemas(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas in a *part* of another one: it is one, or a list or a mapping of them."""
    if isinstance(part, Mapping) and isinstance(part.get("type"), str):
        yield part
    elif isinstance(part, Mapping | list | tuple):
        for one in part.values() if isinstance(part, Mapping) else part:
            yield from _schemas(one)


def _fields(fields: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the fields of a model, a typed dictionary or a dataclass, by name."""
    if isinstance(fields, Mapping):
        yield from fields.items()
    elif isinstance(fields, list):
        yield from ((field["name"], field) for field in fields if isinstance(field, Mapping))


def _excluded(field: Mapping[str, Any]) -> bool:
    return bool(field.get("serialization_exclude", False) or field.get("init_only", False))


def _written(name: str, field: Mapping[str, Any]) -> str:
    return str(field.get("serialization_alias", name))


def _read(name: str, field: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the names under which *field* is looked for."""
    alias = field.get("validation_alias")
    if alias is None:
        return [name]
    paths = [[alias]] if isinstance(alias, str) else alias if isinstance(alias[0], list) else [alias]
    read = [path[0] for path in paths if len(path) == 1 and config.get("validate_by_alias", True)]
    return [*read, name] if config.get("validate_by_name", False) else read


def _listed(names: list[str]) -> str:
    return " or ".join(f"'{name}'" for name in names) or "a part of another field"
