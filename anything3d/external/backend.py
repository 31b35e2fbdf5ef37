"""The backend: it asks a command for the meshes of a batch, and starts it again when it breaks off.

A command that dies, hangs or breaks the protocol has objects that it has not answered. Each of them is asked for once
more, alone. Which of them fails then does not depend on the others.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from anything3d.distil.evidence import Evidence, FinishedMesh
from anything3d.errors import Anything3DError, Bug, ConfigError, InputError, MachineError, NumericsError
from anything3d.external import protocol
from anything3d.external.command import Command, Say
from anything3d.external.protocol import Answer
from anything3d.external.shape import read_mesh
from anything3d.photo import mask
from anything3d.photo.image import encode_png
from anything3d.settings.external import ExternalConfig
from anything3d.space.sight import found_camera

START_S = 1800.0  # in which a command has to load its networks
NO_LIMIT_S = 10.0**9  # thirty years

Outcome = FinishedMesh | Anything3DError


class External:
    """A command that is running, or will be started again with the next call. It keeps no state of an object."""

    def __init__(
        self, config: ExternalConfig, device: str, max_seconds: float, say: Say, start_seconds: float = START_S
    ) -> None:
        """Start the command. `max_seconds` is the longest time until the next answer; 0: any.

        Raises: ConfigError("external_start") if it cannot be started, ("external_handshake") if it is another one.
        """
        self._config, self._device, self._say = config, torch.device(device), say
        self._max_seconds, self._start_seconds = max_seconds or NO_LIMIT_S, start_seconds
        self._command: Command | None = self._started()

    def __call__(
        self,
        evidence: Evidence,
        generators: Sequence[torch.Generator],
        again: Sequence[torch.Generator],
        saved: bytes | None = None,
        save: Callable[[bytes], None] = lambda state: None,
        at: Callable[[int, int], None] = lambda step, steps: None,
    ) -> list[Outcome]:
        """The mesh of every object, or why there is none.

        Outcomes: NumericsError("external_failed"), InputError("external_no_output"), ("external_bad_output"),
        Crashed("external_died") or ("external_timeout").

        Raises: MachineError if the command cannot be started again, or says that the machine is at fault.
        """
        del again, saved, save, at
        seeds = [int(torch.randint(2**31, (), generator=generator)) for generator in generators]
        rows = range(len(evidence))
        outcomes, trouble = self._ask(evidence, seeds, rows)
        if trouble:
            self._say(f"{trouble}. {len(rows) - len(outcomes)} of {len(rows)} objects are tried alone.")
        for row in rows:
            if row not in outcomes:
                alone, trouble = self._ask(evidence, seeds, [row])
                outcomes |= alone if row in alone else {row: trouble or _silent()}
        return [outcomes[row] for row in rows]

    def fit(self, saved: bytes, n_objects: int) -> object:
        """It never saves a state, so that there is none to go on from."""
        raise InputError("bad_checkpoint", "an external command has no checkpoint")

    def _ask(
        self, evidence: Evidence, seeds: Sequence[int], rows: Sequence[int]
    ) -> tuple[dict[int, Outcome], Anything3DError | None]:
        """What the command says of these objects; and why it broke off, if it did.

        What it has said before it died or hung is kept. If it breaks the protocol, nothing of it is.
        """
        command = self._command = self._command or self._started_again()
        names = {f"{row:04d}": row for row in rows}
        outcomes: dict[int, Outcome] = {}
        with tempfile.TemporaryDirectory(dir=command.scratch, ignore_cleanup_errors=True) as folder:
            write_request(Path(folder), evidence, seeds, rows)
            command.send(json.dumps({"request": str(Path(folder) / protocol.REQUEST)}))
            while names:
                line = command.line(self._max_seconds)
                said = protocol.answer(line, names) if isinstance(line, str) else line
                if isinstance(said, Anything3DError):
                    command.tell()
                    self.close()
                    return ({} if isinstance(said, InputError) else outcomes), said
                row = names.pop(said.name)
                outcomes[row] = self._outcome(said, Path(folder) / said.name, evidence, row)
        command.tell()
        return outcomes, None

    def _outcome(self, said: Answer, folder: Path, evidence: Evidence, row: int) -> Outcome:
        if said.error is not None or said.mesh is None:
            return said.error or _silent()
        path = (folder / said.mesh).resolve()
        if not path.is_relative_to(folder.resolve()):
            return InputError("external_bad_output", f"{said.mesh!r} lies outside the folder of its object")
        if not path.is_file():
            return InputError("external_no_output", f"the command says that it wrote {said.mesh!r}, which is not there")
        try:
            mesh = read_mesh(path)
        except InputError as error:
            return error
        crop, unseen = evidence.crops[row], None if evidence.unseen is None else evidence.unseen[row]
        return FinishedMesh(mesh, said.camera or found_camera(mesh, crop, unseen, self._device))

    def _started(self) -> Command:
        command = Command(self._config.command, self._config.folder, self._say)
        line = command.line(self._start_seconds)
        command.tell()
        try:
            if isinstance(line, Anything3DError):
                raise ConfigError("external_start", f"{self._config.command}: {line.message} before its first line")
            protocol.check_handshake(line, self._config)
        except ConfigError:
            command.end()
            raise
        return command

    def _started_again(self) -> Command:
        try:
            return self._started()
        except ConfigError as error:
            raise MachineError(
                "machine", f"a command that ran before cannot be started again: {error.message}"
            ) from error

    def close(self) -> None:
        """End the command; the next call starts it again."""
        if self._command is not None:
            self._command.end()
            self._command = None


def write_request(folder: Path, evidence: Evidence, seeds: Sequence[int], rows: Sequence[int]) -> None:
    """The files of a request: docs/backends.md says what they are. Raises: Bug if it is not known where objects are."""
    if evidence.positions is None:
        raise Bug("missing_evidence", "a backend of reconstruct asks where the objects are, which is left out")
    asked = []
    for row in rows:
        name, place = f"{row:04d}", evidence.positions[row]
        own, (height, width) = folder / name, place.photo
        own.mkdir()
        crop = (evidence.crops[row] * 255).round().to(torch.uint8).permute(1, 2, 0)
        (own / "crop.png").write_bytes(encode_png(crop))
        pixels = mask.decode(place.mask, height, width).numpy()
        Image.fromarray(pixels).save(own / "mask.png")  # of 1 bit
        asked.append(
            {
                "object": name,
                "crop": f"{name}/crop.png",
                "mask": f"{name}/mask.png",
                "photo": {"width": width, "height": height},
                "box": dict(zip(("x", "y", "width", "height"), place.box, strict=True)),
                "window": dict(zip(("x", "y", "side"), place.window, strict=True)),
                "seed": seeds[row],
            }
        )
    body = {"protocol": protocol.PROTOCOL, "objects": asked}
    (folder / protocol.REQUEST).write_text(json.dumps(body, indent=1))


def _silent() -> NumericsError:
    return NumericsError("external_failed", "the command gives neither a mesh nor a reason")
