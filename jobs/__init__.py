"""Entry points: parse the command line, call the pipeline, print what it says. No logic of their own."""
