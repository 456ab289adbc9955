"""Which types survive JSON, according to pydantic's schemas for encoding and decoding.

Every step decodes a value, and a takeover decodes it from the journal, perhaps much later. So a saga's
declaration refuses a type if decoding does not look for what encoding writes, or if decoding twice gives two
answers. The schema does not show what the user's own serializers and validators do. `payloads.encode` refuses
the first value of theirs that does not fit.
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

# Kinds of pydantic schemas that no JSON matches; kinds that are user functions; keys that hold inner schemas.
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
    """Return the adapter of *kind*; raise unless a value survives JSON unchanged."""
    try:
        adapter = _adapter(kind)
        schema = _json_schema(adapter)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise DefinitionError(f"{what}, {named(kind)}, {_unusable(error)}") from error
    if '"format": "password"' in json.dumps(schema):
        raise DefinitionError(f"{what}, {named(kind)}, holds a secret, which JSON shows as '***'; pass its key")
    for problem in _unreadable(adapter.core_schema):
        raise DefinitionError(f"{what}, {named(kind)}, cannot be read back from JSON: {problem}")
    return adapter


def written_fields(adapter: TypeAdapter[Any]) -> frozenset[str] | None:
    """Return the names of the top-level fields in JSON of this type; None if it has no fields."""
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


def _unusable(error: PydanticUserError) -> str:
    """Return why pydantic has no schema of a type, with the remedy."""
    match error.code:
        case "typed-dict-version":
            return "uses typing.TypedDict, unknown to pydantic before Python 3.12; use typing_extensions.TypedDict"
        case "class-not-fully-defined":
            return "names a type that is not defined yet; define it before the saga, at the top of its module"
        case _:
            return "does not survive JSON; use a pydantic model"


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind)
    except PydanticSchemaGenerationError:
        # An arbitrary class, e.g. `Annotated` with a serializer and a validator.
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))


class _Lenient(GenerateJsonSchema):
    """JSON schemas with an empty schema for each class that only the user's functions encode and decode."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


def _json_schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """Return the JSON schema of the type; raise `PydanticUserError` if it cannot be encoded or decoded."""
    try:
        return adapter.json_schema()
    except PydanticInvalidForJsonSchema:
        if _is_opaque(adapter.core_schema):
            raise
        return adapter.json_schema(schema_generator=_Lenient)


def _unreadable(schema: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Yield, with its remedy, each part of a pydantic *schema* that does not decode to what was encoded."""
    if schema["type"] in _OWN_WAYS or _has_serializer(schema):
        return  # the user's own code encodes or decodes it; only that code knows the format
    if schema["type"] == "generator":
        yield "the first reader of an Iterable uses it up; use list[...]"
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
    """Return whether *schema* contains a class that the user's functions do not both encode and decode."""
    read, written = read or schema["type"] in _OWN_WAYS, written or _has_serializer(schema)
    if schema["type"] in _CLASSES:
        return not (read and written)
    inner = (one for part in _PARTS & schema.keys() for one in _schemas(schema[part]))
    return any(_is_opaque(one, read=read, written=written) for one in inner)


def _has_serializer(schema: Mapping[str, Any]) -> bool:
    return "function" in str(schema.get("serialization", {}).get("type"))


def _schemas(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas in a *part* of another schema: a single one, a list or a mapping."""
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
    """Return the names under which decoding looks for *field*."""
    alias = field.get("validation_alias")
    if alias is None:
        return [name]
    paths = [[alias]] if isinstance(alias, str) else alias if isinstance(alias[0], list) else [alias]
    read = [path[0] for path in paths if len(path) == 1 and config.get("validate_by_alias", True)]
    return [*read, name] if config.get("validate_by_name", False) else read


def _listed(names: list[str]) -> str:
    return " or ".join(f"'{name}'" for name in names) or "a part of another field"
