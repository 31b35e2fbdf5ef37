"""What is on disk: one record for each table."""
