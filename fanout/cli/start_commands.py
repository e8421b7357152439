"""The commands before a job runs: begin its file, describe its keys and presets of APIs, serve a model to try it on."""

from __future__ import annotations

from typing import Any

import click

from fanout.cli.parameters import AS_JSON, SET, CommandWithFaults, leave


@click.command(cls=CommandWithFaults, short_help="Serve a model on this machine.")
@click.argument("name")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@click.option(
    "--latency",
    metavar="SECONDS",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Delay added to each answer.",
)
@click.option("--faults", metavar="NAME=PROBABILITY,...", help="Misbehave on purpose, to rehearse a job; names below.")
@click.option("--seed", metavar="N", default=0, show_default=True, type=int, help="Seed of the faults.")
def serve(name: str, host: str, port: int, latency: float, faults: str | None, seed: int) -> None:
    """Serve a model on this machine, as local://NAME does during a run, until Ctrl-C.

    NAME is digits (a classifier of handwritten digits), echo, or package.module:function for a function of your own
    that takes and returns a numpy array. Its base URL is printed on stdout.

    \b
    Examples:
      fanout serve digits
      fanout serve mymodels.scoring:predict --port 8080 --latency 0.05
      fanout serve echo --faults 503=0.1,drip:0.01=0.02,reset-mid-body=0.05
    """
    from fanout.cli.running import serve_command

    leave(serve_command(name, host, port, latency, faults, seed))


def _names(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(value.split(",")) if value else ()


@click.command(short_help="Write a job file for your data and endpoint.")
@click.argument("job", metavar="JOB.toml", default="job.toml", type=click.Path())
@click.option("--input", metavar="PATH", help="Input file, or a folder or pattern of files.")
@click.option("--format", metavar="NAME", help="Format of the input, if its suffix does not show it.")
@click.option("--url", metavar="URL", help="The endpoint. Without a path, the server's OpenAPI document is read.")
@click.option("--preset", metavar="NAME", help="Preset of the API; fanout presets lists them.")
@click.option("--codec", metavar="NAME", help="Wire format, if there is no preset; guessed from the URL if not given.")
@click.option("--column", metavar="NAME", help="The column whose values are the rows.")
@click.option("--columns", metavar="NAME,NAME,...", callback=_names, help="Several columns, also patterns such as f*.")
@click.option("--vector", is_flag=True, help="With --columns: a row is the list of their numbers.")
@click.option("--id", metavar="NAME,NAME,...", callback=_names, help="Column with the rows' ids, or several.")
@click.option("--token", metavar="VARIABLE", help="Environment variable with the API key or token.")
@click.option("--output", metavar="PATH", help="Output file; by the answers of the probe if not given.")
@SET
@click.option("--no-probe", is_flag=True, help="Send nothing, neither a request for the OpenAPI document nor a row.")
@click.option("--force", is_flag=True, help="Replace an existing job file.")
def init(job: str, **flags: Any) -> None:
    """Write a commented job file, and try its first request.

    It looks at the first rows of the input and at the endpoint's URL, and reads the OpenAPI document that FastAPI and
    other servers publish. So it finds the form of the request. It then sends one request with up to three rows, and
    writes the paths of the values in the answer. In a terminal it asks for what the flags leave open; elsewhere a
    missing flag is an error. No existing file is replaced without --force.

    \b
    Examples:
      fanout init
      fanout init scores.toml --input customers.csv --url http://localhost:8000
      fanout init job.toml --input texts.jsonl --preset cohere-embed --url https://api.cohere.com \\
          --set codec.model=embed-v4.0 --set codec.input_type=search_document --token COHERE_API_KEY
      fanout init job.toml --input digits.npz --column images --url local://digits --codec oip
    """
    from fanout.cli.init import InitOptions, init_command

    # The names of the flags are those of the options, so that each of them is listed once.
    options = InitOptions(**flags)
    if options.preset is not None and options.codec is not None:
        raise click.UsageError("a preset includes a codec: give --preset or --codec")
    leave(init_command(job, options))


@click.command(short_help="Print the JSON Schema of job files.")
def schema() -> None:
    """Print the JSON Schema of job files, with which editors complete and check keys.

    \b
    Example:
      fanout schema > fanout.schema.json
      # and as the first line of job.toml:   #:schema ./fanout.schema.json
    """
    from fanout.cli.output import schema_text

    click.echo(schema_text())


@click.group(invoke_without_command=True, short_help="List and describe presets of APIs.")
@AS_JSON
@click.pass_context
def presets(context: click.Context, as_json: bool) -> None:
    """List the presets: constants of an API, by which a job file needs no more than [codec] preset = "NAME".

    \b
    Examples:
      fanout presets
      fanout presets show cohere-embed
      fanout presets show cohere-embed --file > mine.toml
      fanout presets show ./mine.toml
    """
    if context.invoked_subcommand is None:
        from fanout.cli.presets import presets_command

        # The group alone lists the presets, as `git branch` does; a command below it describes one.
        leave(presets_command(as_json=as_json))


@presets.command("show", short_help="Describe one preset.")
@click.argument("name")
@click.option("--file", "as_file", is_flag=True, help="Print the preset's TOML file, to begin one of your own.")
@AS_JSON
def show_preset(name: str, as_file: bool, as_json: bool) -> None:
    """Describe the preset NAME, with a job file to start from. NAME may be the path of a file, which is checked."""
    from fanout.cli.presets import preset_command

    leave(preset_command(name, as_file=as_file, as_json=as_json))
