"""Numbers for quality: metrics, likeness to the photo, the truth beside a shard, and summaries."""
