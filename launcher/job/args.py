"""``args:`` in a job file: a task's keyword arguments, or a program's words."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic_core import CoreSchema, InitErrorDetails, core_schema


class _ArgsForm:
    """Either form of args. Not as a union, whose errors would be told for each of its members."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        mapping = handler.generate_schema(dict[str, JsonValue])
        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda args: args)
        return core_schema.no_info_wrap_validator_function(
            self._validate, mapping, serialization=as_it_is
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "string"}}]}

    def _validate(self, args: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if not isinstance(args, list):
            return handler(args)
        wrong = [
            InitErrorDetails(type="string_type", loc=(index,), input=word)
            for index, word in enumerate(args)
            if not isinstance(word, str)
        ]
        if wrong:
            raise ValidationError.from_exception_data("args", wrong)
        return args


Args = Annotated[dict[str, JsonValue] | list[str], _ArgsForm()]
