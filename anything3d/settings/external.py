"""The settings of `reconstruct.backend = "external"`."""

import shlex
from dataclasses import dataclass

from anything3d.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ExternalConfig:
    """`reconstruct.backend = "external"`: a command makes the meshes. `docs/backends.md` says how to write one."""

    # The command with its arguments. It is split as a shell splits it, but no shell reads it. Its first word is a path,
    # or a name on the PATH of the actors.
    command: str = ""
    # The folder in which the command runs, as an absolute path. If it is empty, that is a temporary folder.
    folder: str = ""
    # The name and the version of the model. The command has to say the same when it starts. A new version gives new
    # rows.
    version: str = ""
    # The licences of what the command makes: those of its code and of its weights, with "; " between them. The command
    # has to say the same.
    licence: str = ""

    def check(self) -> None:
        """Raises: ConfigError("setting") if something is missing that a run needs."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise ConfigError("setting", f"reconstruct.external.command is {self.command!r}: {error}") from error
        given = {"command": bool(words), "version": bool(self.version.strip()), "licence": bool(self.licence.strip())}
        if missing := [f"reconstruct.external.{name}" for name, known in given.items() if not known]:
            raise ConfigError(
                "setting", f'reconstruct.backend = "external" needs {", ".join(missing)}, too (docs/backends.md)'
            )
