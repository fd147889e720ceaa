"""`python -m serve.embedded`: the engine itself, and the processes that it starts.

`--port N --config JSON` is the engine. `runner PARENT` and `convert FOLDER STORE DIGEST` are its
children; each imports only what it needs.
"""

import sys


def main(arguments: list[str]) -> int:
    """Runs what the arguments name; the exit status."""
    if arguments[:1] == ["runner"]:
        from serve.embedded.runner import run  # noqa: PLC0415 - see the module's docstring

        run(int(arguments[1]))
    if arguments[:1] == ["convert"]:
        from serve.embedded.conversion import run as convert  # noqa: PLC0415 - as above

        return convert(*arguments[1:])
    from serve.embedded.command import run as serve  # noqa: PLC0415 - as above

    return serve(arguments)


sys.exit(main(sys.argv[1:]))
