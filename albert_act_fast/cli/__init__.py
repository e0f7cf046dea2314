"""The command `albert-act-fast`: `depth`, `encode`, `info`."""
