"""The `nightreel` command; `python -m nightreel` runs it too."""

import sys

from nightreel.packages import ShadowedError, refuse_shadowed

BAD_INPUT = 2
"""Exit code: the environment cannot run Nightreel; nothing was sent or bought."""


def main() -> None:
    """Run the command line; exit with 2 where another package shadows one of ours."""
    try:
        refuse_shadowed()
    except ShadowedError as exc:
        sys.stderr.write(f"{exc}\n")
        sys.exit(BAD_INPUT)
    from flows.commands.main import main as command_line  # noqa: PLC0415

    command_line()


if __name__ == "__main__":
    main()
