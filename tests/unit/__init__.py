"""The core, and what needs no task: values, tables, contexts, words."""
