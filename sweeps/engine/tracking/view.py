"""The leaderboard in MLflow: a view of the runs, sorted by robust accuracy, that a link opens.

MLflow keeps a shared view as JSON in a tag of the experiment. Its links name the view by the last part of that tag.
"""

import json
from collections.abc import Sequence

from sweeps.engine.tracking.names import clean_metric, fitting, robust_metric

KEY = "leaderboard"
WIDTHS = {"tags.`bat.verdict`": 140, "params.`budget`": 130, "tags.`bat.suite`": 240}  # in pixels of the screen
VIEW_TAG = f"mlflow.sharedViewState.{KEY}"


def leaderboard_view(split: str, threats: Sequence[str] = ()) -> str:
    """The view, for the tag VIEW_TAG: the most robust first, by the verified accuracy on the images of a split.

    Args:
        threats: under which the trials are verified, if there are several; the first is sorted by.
    """
    shown: Sequence[str | None] = [fitting(threat) for threat in threats] or [None]
    robust = [_column("metrics", robust_metric(split, verified=True, threat=threat)) for threat in shown]
    columns = [
        *robust,
        _column("metrics", clean_metric(split)),
        _column("tags", "bat.verdict"),
        *(_column("params", name) for name in ("recipe", "budget", "seed")),
        _column("tags", "bat.suite"),
        _column("metrics", robust_metric(split, verified=False, threat=shown[0])),
    ]
    state = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": WIDTHS,
        "orderByKey": robust[0],
        "orderByAsc": False,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": True,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
    }
    return json.dumps(state)


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def leaderboard_path(experiment_id: str) -> str:
    """The part of a link behind the server's address that opens the view."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={KEY}&workflowType=machine_learning"
