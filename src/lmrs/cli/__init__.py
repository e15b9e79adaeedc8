"""The command line: verbs, one file each. What a user can mend is one line on stderr and exit status 1."""

from __future__ import annotations

import gc
import os
import sys

import click

from lmrs import __version__
from lmrs.cli.biases import biases
from lmrs.cli.compare import compare
from lmrs.cli.data import data
from lmrs.cli.demo import demo
from lmrs.cli.evaluate import evaluate
from lmrs.cli.explain import explain
from lmrs.cli.fit import fit
from lmrs.cli.models import models
from lmrs.cli.prompt import prompt
from lmrs.cli.recommend import recommend
from lmrs.cli.systems import systems
from lmrs.errors import LmrsError, did_you_mean

REPORT = "this is a fault of lmrs, not yours: please report it with the output of the same command with --debug behind lmrs"


class Verbs(click.Group):
    """A group that lists its commands in the order one uses them, and offers the nearest name for a misspelt one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}; {did_you_mean(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lmrs")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def lmrs(debug: bool) -> None:
    """Language-modelling recommenders: fit, evaluate, compare, recommend."""


for _command in (demo, data, models, systems, fit, evaluate, compare, recommend, explain, prompt, biases):
    lmrs.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """The program `lmrs`: runs a command and exits (0 well, 1 an error, 130 Ctrl-C, 143 SIGTERM)."""
    # Arrow's own allocators keep freed memory; the system's gives it back, which is a quarter of the peak while a log streams by.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] in (["recommend"], ["explain"]):
        gc.set_threshold(100_000)  # looking for garbage while torch is imported takes a tenth of the time to one answer
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    debug = "--debug" in arguments[:1]
    try:
        lmrs.main(args=arguments, prog_name="lmrs", standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        place = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else "lmrs"
        return _say(f"{_sentence(error.format_message())} ({place} --help)")
    except (KeyboardInterrupt, click.Abort):
        _say("stopped")
        return 130
    except BrokenPipeError:  # the reader of a pipe has left; that is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LmrsError as error:
        if debug:
            raise
        _say(str(error))
        return error.code
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}")
    except MemoryError:
        if debug:
            raise
        return _say("the memory of this machine is used up; use smaller settings (batch_size, dim, max_len) or --micro-batch")
    except Exception as error:
        if debug:
            raise
        return _say(f"{type(error).__name__}: {error} - {REPORT}")
    return 0


def _sentence(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _say(line: str) -> int:
    """One line on stderr, whatever the message holds; returns 1."""
    print("lmrs:", " ".join(line.splitlines()), file=sys.stderr)
    return 1
