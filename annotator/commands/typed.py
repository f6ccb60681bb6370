"""Commands whose numbers are checked, and whose messages name options as the user typed them."""

from __future__ import annotations

from functools import partial
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand

from annotator.limits import check_numbers
from annotator.spelling import in_python, option, spelled

SET = "--set"


class Command(TyperCommand):
    """While it runs, `annotator.spelling.option` gives its flags. A number has the limits of its annotation:
    `Annotated[int, Limits(1, 9), typer.Option()]`."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        with spelled(partial(_as_typed, ctx)):
            for name, kind in get_type_hints(self.callback, include_extras=True).items():
                check_numbers(ctx.params.get(name), kind, option(name))
            return super().invoke(ctx)


def _as_typed(context: typer.Context, name: str, value: Any = None, /) -> str:
    """`--min-count 5`; `--set prefix=x` where the command has no such flag, or the user set the option so."""
    flags = {flag: parameter for parameter in context.command.params for flag in parameter.opts}
    flag = f"--{name.replace('_', '-')}"
    chosen = context.params.get("set_") or ()
    by_set = any(text.partition("=")[0].strip() == name for text in chosen)
    is_switch = flag in flags and getattr(flags[flag], "is_flag", False)
    if flag in flags and not by_set and (not is_switch or value is not False):
        return flag if value is None or is_switch else f"{flag} {value}"
    if SET in flags:
        return f"{SET} {name}" if value is None else f"{SET} {name}={_plain(value)}"
    return in_python(name, value)


def _plain(value: Any) -> str:
    """As YAML has it, which is how `--set` is read."""
    return str(value).lower() if isinstance(value, bool) else str(value)
