"""`konnect verify`: are the events of an exported log as Konnect signed them?"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from relay.cli import output
from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption

if TYPE_CHECKING:  # other commands need none of this
    from relay.config.schema import Source
    from relay.konnect.jwks import Keyring
    from relay.signing.audit import Audit

_JWKS_URL: Final = "https://{region}.api.konghq.com/v2/audit-log-webhook/jwks.json"
_REGION = re.compile(r"[a-z]{2,12}")
_EXCERPT: Final = 120  # characters of a failing line


def verify(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            readable=True,
            help="Lines as Konnect sent them, in any of its formats; plain or gzip.",
        ),
    ],
    jwks: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="Keys to check with; by default those of the configuration."),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Check with the keys that Konnect publishes for this region, e.g. us.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Whose keys of the configuration to take.")] = None,
    failing: Annotated[int, typer.Option(min=0, help="Show so many lines that do not verify.")] = 10,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Check the signature of every event in an exported log; exit status 1 unless all verify."""
    from relay.signing.audit import audit

    if sum(given is not None for given in (jwks, region, source)) > 1:
        raise typer.BadParameter("give one of --jwks, --region and --source")
    if region is not None:
        if not _REGION.fullmatch(region):
            raise typer.BadParameter("expected a region such as us or eu", param_hint="--region")
        jwks = _JWKS_URL.format(region=region)
    ring = asyncio.run(_given(jwks) if jwks is not None else _configured(config, source))
    found = audit(file, ring.keys, most_failing=failing)
    if as_json:
        output.print_json(_document(file, ring, found))
    else:
        _print(found)
    if not found.is_clean:
        raise typer.Exit(1)


async def _given(jwks: str) -> Keyring:
    from pydantic import TypeAdapter, ValidationError

    from relay.config.signatures import KeyOrigin

    try:
        origin = TypeAdapter(KeyOrigin).validate_python(jwks)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--jwks") from None
    return await _ring("", origin, None)


async def _configured(path: Path, wanted: str | None) -> Keyring:
    """The keys of a source, those on disk with the ones fetched now."""
    from relay.cli.configuration import load_config
    from relay.signing.checker import cache_of

    config = load_config(path).config
    source = _source(config.sources, wanted)
    assert source.signatures.jwks is not None  # noqa: S101 - just looked for
    return await _ring(source.name, source.signatures.jwks, cache_of(source, config))


def _source(sources: tuple[Source, ...], wanted: str | None) -> Source:
    found = [each for each in sources if each.signatures.jwks is not None]
    names = ", ".join([each.name for each in found])
    if wanted is not None:
        found = [each for each in found if each.name == wanted]
    if len(found) == 1:
        return found[0]
    if wanted is not None or not found:
        raise typer.BadParameter(
            f"no {'such ' if wanted else ''}source in the configuration has `signatures.jwks`; "
            "give --jwks or --region"
        )
    raise typer.BadParameter(f"several sources have keys ({names}); give --source")


async def _ring(name: str, origin: object, cache: Path | None) -> Keyring:
    from relay.clock import SystemClock
    from relay.config.secret import SecretUrl
    from relay.config.signatures import PinnedKeys
    from relay.errors import ConfigError, RelayError
    from relay.observe import logs
    from relay.signing.fetch import fetch
    from relay.signing.keeper import KeyKeeper

    assert isinstance(origin, SecretUrl | Path | PinnedKeys)  # noqa: S101 - the types of `KeyOrigin`
    keeper = KeyKeeper(
        name,
        origin,
        cache=cache,
        writes=False,  # the file is the relay's
        fetch=fetch,
        clock=SystemClock(),
        log=logs.configure("error", "console"),
    )
    try:
        await keeper.open()
    except ConfigError as error:
        problem = error.problems[0]
        raise ConfigError([problem if name else f"--jwks: {problem.partition('jwks: ')[2]}"]) from error
    await keeper.refresh(0)
    if not keeper.ring.keys:
        raise RelayError(f"no keys: {keeper.trouble}")
    if keeper.trouble is not None:
        typer.echo(f"konnect-relay: keys of before, since now {keeper.trouble}", err=True)
    return keeper.ring


def _document(file: Path, ring: Keyring, found: Audit) -> output.Document:
    from relay.konnect.signatures import SignatureResult

    return {
        "file": str(file),
        "verified": found.is_clean,
        "events": found.events,
        "results": {result.value: found.results[result] for result in SignatureResult},
        "rules": [
            {"format": form.value, "rule": rule.value, "events": count}
            for (form, rule), count in found.rules.items()
        ],
        "keys": [
            {"kid": key.kid, "retired": key in ring.retired, "events": found.kids[key.kid]}
            for key in ring.keys
        ],
        "failing": [
            {"line": each.number, "result": each.result.value, "text": each.line.decode(errors="replace")}
            for each in found.failing
        ],
    }


def _print(found: Audit) -> None:
    from relay.konnect.signatures import SignatureResult

    screen = output.console()
    if not found.events:
        screen.print("There is no event in this file.")
        return
    rows = [(result.value, found.results[result]) for result in SignatureResult]
    screen.print(output.table("RESULT", "#EVENTS", rows=rows))
    for (form, rule), count in found.rules.items():
        screen.print(f"{count:,} {form} events verified by rule {rule}", markup=False)
    if not found.failing:
        return
    screen.print()
    shown = [(each.number, each.result.value, _excerpt(each.line)) for each in found.failing]
    screen.print(output.table("#LINE", "RESULT", "TEXT", rows=shown))
    rest = found.events - found.results[SignatureResult.VERIFIED] - len(found.failing)
    if rest:
        screen.print(f"and {rest:,} more", markup=False)


def _excerpt(line: bytes) -> str:
    text = line.decode(errors="replace")
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"
