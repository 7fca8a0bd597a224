"""What every section of a configuration is: an immutable value that refuses keys it does not know."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""The name of a model, an agent, a trunk or an action: it stands in logs, metrics and file names."""


class Section(BaseModel):
    """A part of a configuration; ``extra="forbid"``, units in the names, docstrings under the keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, data: Any) -> Any:
        """A key written without a value counts as not written, unless "no value" is a choice of that key."""
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        return {
            key: value
            for key, value in data.items()
            if value is not None or key not in fields or type(None) in get_args(fields[key].annotation)
        }
