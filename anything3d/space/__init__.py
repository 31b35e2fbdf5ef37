"""Geometry in one frame: cameras, clouds, depth maps, fields and their rendering."""
