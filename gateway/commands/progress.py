"""How far a long command is, on stderr: what it prints stays for scripts."""

import time

import click

_EVERY_S = 1.0


class Progress:
    """Shows a line at most once a second, and nothing of work that is done before."""

    def __init__(self) -> None:
        self._next_s = time.monotonic() + _EVERY_S

    def show(self, text: str) -> None:
        """Say how far it is, if it is time to."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _EVERY_S
            click.echo(text, err=True)
