"""Programs and scanners that are not ours."""
