"""Sources of models by name. A new file that registers a source here adds one."""

from bat_core.adapter.sources.base import (
    SOURCES,
    Built,
    Source,
    Target,
    find_source,
    installed,
    source_forms,
    split_name,
)

__all__ = ["SOURCES", "Built", "Source", "Target", "find_source", "installed", "source_forms", "split_name"]
