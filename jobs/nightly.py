"""`anything3d nightly`: what changed since the last night is run, judged and published, or refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command import (
    DONE,
    NOT_BALANCED,
    Address,
    LogFile,
    Verbose,
    errors_as_one_line,
    join,
    logs,
    read_preset,
)

if TYPE_CHECKING:
    from pipeline.compare import Comparison

PACKAGES = ("schemas", "anything3d", "pipeline", "jobs")  # what a job on a cluster imports of this program


def nightly(
    config: Annotated[
        str, typer.Option("--config", help="The night's TOML file: a path or a URL; see docs/nightly.md.")
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what changed to this file too.", dir_okay=False)
    ] = None,
    submit: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster's dashboard, http://host:8265: run there as a job.")
    ] = None,
    address: Address = None,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Run what is new or changed, and publish it if the gates agree.

    Evaluates the result and compares it with the last snapshot. If a gate refuses, the old snapshot stays. A second
    night on the same corpus says so and ends.
    """
    with errors_as_one_line():
        if submit is not None and (json_file or address or verbose or log_file):
            from anything3d.errors import ConfigError

            raise ConfigError(
                "submit_options",
                "--json, --address, --verbose and --log-file are not for a night that is submitted."
                " `ray job logs` shows what it says.",
            )
    with errors_as_one_line(), logs(verbose, log_file):
        import json
        from dataclasses import asdict

        from anything3d.errors import GateRefused
        from jobs.evaluate import lines as evaluation_lines
        from jobs.run_report import lines
        from pipeline.config import load
        from pipeline.input import source
        from pipeline.nightly import read_night, spend

        location = source.absolute(config)
        night = read_night(source.read_text(location), location)
        settings = load([read_preset(night.preset)], night.settings)
        out = source.absolute(night.out)
        if submit is not None:
            print(submitted(submit, location, out))
            raise typer.Exit(DONE)
        join(address)
        told = spend(night, settings, source.expand(night.shards), out, lambda line: print(line, flush=True))
        if isinstance(told, str):
            print(f"A night is at work on {out} already: {told}. Nothing was done.")
            raise typer.Exit(DONE)
        for line in (*lines(told.report, out), *changes(told.comparison)):
            print(line, flush=True)
        for line in evaluation_lines(told.evaluation) if told.evaluation else ():
            print(line, flush=True)
        if json_file:
            about = {"comparison": asdict(told.comparison), "refused": list(told.refused)}
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(about, indent=1) + "\n")
        if told.refused:
            raise GateRefused("gate_refused", f"{' '.join(told.refused)} Nothing was published.")
        if told.report.limit:
            raise told.report.limit
    raise typer.Exit(NOT_BALANCED if told.report.lost else DONE)


def changes(found: "Comparison") -> Iterator[str]:
    """What a night changed, in words."""
    yield (
        f"against snapshot {found.before}: " if found.before else "the first snapshot: "
    ) + f"{found.added} objects added, {found.gone} gone, {found.changed} changed, {found.same} the same"
    yield f"shards: {found.shards_added} added, {found.shards_gone} gone, {found.shards_changed} changed"
    for name, change in found.scores.items():
        before, after = ("-" if value is None else f"{value:.4g}" for value in (change.before, change.after))
        yield f"{name:<24}{before:>10} -> {after:<10} up {change.up}, down {change.down}"


def submitted(address: str, config: str, out: str) -> str:
    """Submit the night as a Ray job, unless it is at work there already; one line that says which.

    The job's id is made of the corpus and the date. So the same night is not submitted twice.

    The cluster reads `config` itself, so its head has to see that path or URL. It is sent the packages of this program,
    and nothing else that lies beside them.

    Raises: ConfigError if the address is not that of a dashboard; MachineError if no cluster answers.
    """
    import hashlib
    import os
    import shlex
    import tempfile
    from datetime import UTC, datetime

    from ray.job_submission import JobStatus, JobSubmissionClient

    from anything3d.errors import ConfigError, MachineError

    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            "ray_address", f"--submit is {address!r}. Give http://host:8265, the address of the dashboard."
        )
    day = datetime.now(UTC).date().isoformat()
    job = f"anything3d-{hashlib.sha256(out.encode()).hexdigest()[:8]}-{day}"
    os.environ.pop("RAY_ADDRESS", None)  # else Ray's client goes there, and not to `address`
    try:
        client = JobSubmissionClient(address)
        known = {entry.submission_id: entry.status for entry in client.list_jobs()}
        if known.get(job) in (JobStatus.PENDING, JobStatus.RUNNING, JobStatus.SUCCEEDED):
            return f"job {job} is {known[job].lower()} already; see `ray job logs {job}`"
        if job in known:
            client.delete_job(job)
        with tempfile.TemporaryDirectory() as code:
            copy_packages(Path(code))
            client.submit_job(
                entrypoint=f"python -m jobs.nightly --config {shlex.quote(config)}",
                submission_id=job,
                runtime_env={"working_dir": code},
            )
    except (ConnectionError, RuntimeError) as error:
        raise MachineError("ray_unreachable", f"no Ray dashboard takes the job at {address}: {error}") from error
    return f"job {job} was submitted; see `ray job logs {job} --follow`"


def copy_packages(folder: Path) -> None:
    """Copy the packages of this program into a folder, wherever it is installed."""
    import shutil

    for name in PACKAGES:
        shutil.copytree(
            Path(__file__).parent.parent / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )


if __name__ == "__main__":
    typer.run(nightly)
