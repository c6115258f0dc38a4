"""`durus completion`: what makes a shell complete `durus` at a press of Tab."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from durus.cli._errors import CommandError

__all__ = ["completion"]

_SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print what makes your shell complete 'durus' at Tab.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete commands, options and files of 'durus'.

    \b
    bash, in ~/.bashrc:   eval "$(durus completion bash)"
    zsh, in ~/.zshrc:     eval "$(durus completion zsh)"
    fish, once:           durus completion fish > ~/.config/fish/completions/durus.fish
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    maker = get_completion_class(shell)
    if maker is None:
        raise CommandError(f"the installed click cannot complete {shell}")
    root = ctx.find_root()
    click.echo(maker(root.command, {}, "durus", "_DURUS_COMPLETE").source())
