"""What several test folders share: random models and batches, comparisons, implementations."""
