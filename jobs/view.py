"""`anything3d view` serves the gallery of a corpus to a browser on the same machine."""

from typing import Annotated

import typer

from jobs.command import CorpusArgument, errors_as_one_line


def view(
    corpus: CorpusArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of loopback; 0: one that is free.")] = 8000,
    against: Annotated[
        int | None, typer.Option(min=1, help="Show its objects beside those of this earlier snapshot.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve the gallery of a corpus to a browser on this machine.

    The corpus may lie on a disk or in a bucket. Only this machine can reach the server. It reads what the newest
    snapshot names, and writes nothing.
    """
    with errors_as_one_line():
        from pipeline.input import source
        from pipeline.release.serve import Server

        with Server(source.absolute(corpus), port, against) as server:
            print(f"{server.url} shows {corpus}; Ctrl-C ends it", flush=True)
            if open_it:
                import webbrowser

                webbrowser.open(server.url)
            server.serve_forever()
