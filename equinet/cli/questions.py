"""Parse specs and methods typed on a command line."""

from __future__ import annotations

import tomllib
from typing import Any

from e3nn import o3

from equinet.ops.layout import channels_of, with_channels
from equinet.ops.methods.registry import method_from_config
from equinet.ops.protocols import Method
from equinet.ops.spec import ManyBodySpec, TensorProductSpec, require_channels


def spec_from_text(
    irreps1: str, irreps2: str | None = None, irreps_out: str | None = None, correlation: int | None = None
) -> TensorProductSpec | ManyBodySpec:
    """The product of two inputs, or with ``correlation`` of one with itself.

    Args:
        irreps1: Features, e.g. ``"32x0e+32x1o"``.
        irreps2: Second input, one copy of each irrep, or as many channels as ``irreps1`` has. With ``correlation``, where there is none, the outputs.
        irreps_out: Outputs; channels may be left off. By default every irrep that can be reached, up to the highest degree
            of the inputs; with ``correlation`` the irreps of the features.
        correlation: Highest number of factors.

    Raises:
        ValueError: If something is no list of irreps, or is missing, or does not go with the rest.

    >>> spec_from_text("8x0e+8x1o", "0e+1o").outputs
    1x0e+1x1o+1x1e
    """
    features = _irreps("IRREPS1", irreps1)
    if correlation is not None:
        if irreps_out is not None:
            raise ValueError(
                f"with --correlation features are multiplied with themselves: IRREPS1 [IRREPS_OUT], got {irreps2} and "
                f"{irreps_out} after {irreps1}"
            )
        irreps2, irreps_out = None, irreps2
    wanted = None if irreps_out is None else [ir for _, ir in _irreps("IRREPS_OUT", irreps_out)]
    if correlation is not None:
        outputs = with_channels(wanted or [ir for _, ir in features], channels_of(features))
        return ManyBodySpec(features, outputs, correlation, 1)
    if irreps2 is None:
        raise ValueError(
            f"what is {irreps1} to be multiplied with? Add a second input, such as 0e+1o+2e, or --correlation 3 for products "
            "with itself"
        )
    filters = _irreps("IRREPS2", irreps2)
    channels, many = channels_of(features), {mul for mul, _ in filters}
    if many not in ({1}, {channels}):
        written = "+".join(str(ir) for _, ir in filters)
        raise ValueError(
            f"IRREPS2 is one input for all channels of the first, as {written}, or has as many channels, {channels} of each irrep, got "
            f"{irreps2}"
        )
    if wanted is None:
        highest = max(features.lmax, filters.lmax)
        wanted = sorted({out for _, a in features for _, b in filters for out in a * b if out.l <= highest})
    return TensorProductSpec(features, filters, o3.Irreps([(1, ir) for ir in wanted]))


def _irreps(name: str, text: str) -> o3.Irreps:
    try:
        irreps = o3.Irreps(text)
    except (ValueError, AssertionError):
        irreps = o3.Irreps([])
    if irreps.dim == 0:
        raise ValueError(
            f"{name} is no list of irreps, got {text!r}; write for example 32x0e+32x1o, which is 32 channels of scalars (degree "
            "0, even) and vectors (degree 1, odd)"
        )
    require_channels(irreps)
    return irreps


def method_from_text(text: str) -> Method:
    """A method from ``cg``, ``cp:rank=24,weights=shared``, ``gaunt_grid:bracket`` or ``{ method = "cp", rank = 24 }`` (TOML).

    Raises:
        ValueError: If it is none of these, or there is no such method or argument.
    """
    if text.lstrip().startswith("{"):
        return method_from_config(_toml(text, text))
    name, _, rest = text.partition(":")
    config: dict[str, Any] = {"method": name.strip()}
    for setting in rest.split(",") if rest else []:
        key, equals, value = (part.strip() for part in setting.partition("="))
        value = value if equals else "true"
        if not (key and value):
            raise ValueError(f"a method is a name or reads like cp:rank=24,weights=shared, got {text!r}")
        plain = value in ("true", "false") or value.lstrip("+-").isdigit()
        config[key] = _toml(value, text) if plain else value.strip("\"'")
    return method_from_config(config)


def method_with(text: str | None, **arguments: int | None) -> Method | None:
    """A method as typed, a name or a table, with arguments from options of their own; None if none is typed.

    Raises:
        ValueError: If there is no such method or argument, or there are arguments and no method.
    """
    given = [f"{name} = {value}" for name, value in arguments.items() if value is not None]
    if text is None:
        if given:
            raise ValueError(f"{' and '.join(given)} belong to --many-body, and it is missing")
        return None
    if given and text.lstrip().startswith("{"):
        text = f"{text.rstrip().removesuffix('}')}, {', '.join(given)} }}"
    elif given:
        text = f"{text}{',' if ':' in text else ':'}{','.join(given)}"
    return method_from_text(text)


def _toml(value: str, text: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f'a method is a name or a table such as {{ method = "cp", rank = 24 }}, got {text!r}: {error}'
        ) from None
