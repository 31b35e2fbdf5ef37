"""The networks and their files: loading, checking and finding weights."""
