"""nnexp: a small, honest, fast experiment runner that shows what regularisation does."""
