"""MLflow's words for a run, the same in its file store, its database and its server."""

from collections.abc import Mapping
from datetime import datetime

from weightspace.zoo.metrics import History
from weightspace.zoo.runs.run import Run, plain_value, seed_of, utc

STATUS = {"1": "running", "2": "scheduled", "3": "finished", "4": "failed", "5": "killed"}  # numbers in the file store
LARGEST = 1.7976931348623e308  # its database keeps infinities as the largest float


def finite(value: object) -> object:
    """Give a stored value back its infinity."""
    return float("inf") if isinstance(value, float) and abs(value) >= LARGEST else value


def make_run(
    run_id: str,
    info: Mapping[str, object],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    history: History,
    notes: tuple[str, ...] = (),
) -> Run:
    """Build a run record.

    Args:
        run_id: MLflow's own, unique everywhere: a run has one key whether its file, database or server is read.
        info: `run_name`, `status`, `start_time` and `end_time` in milliseconds, `artifact_uri`, `experiment`.
        params: as stored, text.
        tags: as stored.
        history: the points.
        notes: what could not be read.
    """
    settings = {key: read for key, value in params.items() if (read := plain_value(value)) is not None}
    status = str(info.get("status") or "")
    experiment, uri = info.get("experiment"), info.get("artifact_uri")
    return Run(
        key=f"mlflow:{run_id}",
        name=str(info.get("run_name") or tags.get("mlflow.runName") or run_id),
        source="mlflow",
        seed=seed_of(settings),
        hyperparameters=settings,
        tags={**({"experiment": str(experiment)} if experiment else {}), **tags},
        status=STATUS.get(status, status.lower()) or None,
        started=milliseconds(info.get("start_time")),
        ended=milliseconds(info.get("end_time")),
        metrics=history.metrics(),
        artifacts=(f"{str(uri).rstrip('/')}/",) if uri else (),
        notes=(*notes, *history.notes()),
    )


def milliseconds(value: object) -> datetime | None:
    """Turn MLflow's times into UTC."""
    return utc(value / 1000) if isinstance(value, int | float) else None
