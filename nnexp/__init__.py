"""nnexp: a small, honest, fast experiment runner that shows what regularisation does."""

from typing import Any

__all__ = ["compare_settings", "load_model", "load_results"]


def __getattr__(name: str) -> Any:
    """Load what is public when it is asked for: pandas takes half a second."""
    if name == "load_results":
        from nnexp.report import load_results

        return load_results
    if name == "load_model":
        from nnexp.experiment import load_model

        return load_model
    if name == "compare_settings":
        from nnexp.compare import compare_settings

        return compare_settings
    raise AttributeError(f"module 'nnexp' has no attribute {name!r}")
