"""The benchmark suite: cases and variants as data, one runner, rows, a report."""
