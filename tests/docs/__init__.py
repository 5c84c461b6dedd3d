"""What README and docs/ say holds."""
