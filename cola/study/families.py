"""The entries of a study's `families`: each is a curve, of a family or of a variant of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
)

from cola.errors import SpecError
from cola.families.interface.specs import FamilySettings
from cola.families.registry import definition_of, has_likelihood, names, place_of, union_of
from cola.spec.data import DataSpec
from cola.spec.inference import LikelihoodSpec
from cola.spec.schema import or_list_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def with_families(values: object) -> object:
    """Entries whose name is that of their family need not say it; bare names are entries too."""
    if isinstance(values, list):
        values = dict.fromkeys(values)
    if not isinstance(values, dict):
        return values
    if not values:
        raise ValueError(f"name at least one family of {', '.join(names())}")
    return {name: _with_family(name, value) for name, value in values.items()}


def _with_family(name: object, value: object) -> object:
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ValueError(
            f"{name!r} cannot name an entry; use letters, digits, '-', '_' and '.', at most 64"
        )
    if value is None:
        value = {}
    if isinstance(value, dict):
        value = value if value.get("family") is not None else {"family": name, **value}
    family = value.get("family") if isinstance(value, dict) else getattr(value, "family", name)
    if name in names() and family != name:
        raise ValueError(
            f"{name!r} is the name of a family, so an entry of family {family!r} needs another"
        )
    return value


def check_family(value: object) -> object:
    """Raise a ValueError for settings of a family that is unknown or cannot be loaded."""
    if isinstance(value, dict) and isinstance(value.get("family"), str):
        try:
            definition_of(value["family"])
        except SpecError as error:
            raise ValueError(
                f"{error} (an entry that is not named after its family says it by `family`)"
            ) from None
    return value


def by_family(schema: dict[str, Any]) -> None:
    """Extend the JSON Schema of the entries by what `with_families` takes.

    An entry that is named after a family may leave `family` out or be null; a bare list of
    families takes each at its defaults.
    """
    kinds = zip(names(), schema["additionalProperties"]["oneOf"], strict=True)
    schema["properties"] = {
        name: {
            "description": f"The family {name}; null: with its defaults.",
            "anyOf": [dict(kind), {"type": "null"}],
        }
        for name, kind in kinds
    }
    schema["minProperties"] = 1
    or_list_of({"enum": list(names())})(schema)


def in_order(entries: dict[str, FamilySettings]) -> dict[str, FamilySettings]:
    """By family, in the registry's order; variants of one family as the study lists them."""
    return dict(sorted(entries.items(), key=lambda item: place_of(item[1].family)))


def check_likelihood(
    entries: Mapping[str, FamilySettings], settings: LikelihoodSpec, where: str
) -> None:
    """Refuse what needs an NLL of every entry.

    Raises:
        ValueError: naming the entry that has none.
    """
    for name, entry in entries.items():
        if not has_likelihood(entry.family, entry, settings):
            raise ValueError(
                f"{where} needs a likelihood, and families.{name} has none (its prior is a "
                "generator); compare it by the task predictive or by continuation/token_accuracy"
            )


def check_images(name: str, settings: FamilySettings, data: DataSpec) -> None:
    """Whether an entry reads the images that the corpus has.

    Raises:
        ValueError: it reads others.
    """
    wanted, found = definition_of(settings.family).image_shape(settings), data.image_shape
    if wanted is None or wanted == found:
        return
    shown = "has none" if found is None else f"has images of {shape_text(found)}"
    raise ValueError(
        f"families.{name} reads a {shape_text(wanted)} image beside each text, and "
        f"data.corpus.source={data.corpus.source} {shown}; give source generated-pairs or "
        "image-pairs, with the family's image_size"
    )


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for people."""
    return " x ".join(map(str, shape))


def without_families(
    entries: dict[str, FamilySettings], handler: SerializerFunctionWrapHandler
) -> dict[str, Any]:
    """The reverse of `with_families`."""
    values: dict[str, dict[str, Any]] = handler(entries)
    return {
        name: {key: item for key, item in value.items() if key != "family" or item != name}
        for name, value in values.items()
    }


if TYPE_CHECKING:
    Families = dict[str, FamilySettings]
else:
    Settings = Annotated[
        union_of("settings"), Field(discriminator="family"), BeforeValidator(check_family)
    ]
    Families = Annotated[
        dict[str, Settings],
        BeforeValidator(with_families),
        AfterValidator(in_order),
        WrapSerializer(without_families),
    ]
