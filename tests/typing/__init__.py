"""What users write, for type checkers alone: nothing here is run."""
