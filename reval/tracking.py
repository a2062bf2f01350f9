"""Trackers: who else gets each step's figures, through accelerate."""

from typing import Any

from reval.parallel import Team
from reval.rollouts import Settings
from schemas import UserError


class Trackers:
    """The trackers of one run at a time, open for as long as passes of the run come."""

    def __init__(self) -> None:
        self._tracked: tuple[str, str] | None = None
        self._accelerator: Any = None

    def log(self, team: Team, settings: Settings, step: dict[str, Any], number: int) -> None:
        """Hands on a step's figures, as the run's step `number`; nothing if no tracker is asked for.

        Raises:
            UserError: a tracker is not installed.
        """
        if not settings.trackers:
            return
        if settings.tracked != self._tracked:
            self._begin(team, settings)
        self._accelerator.log({name: value for name, value in step.items() if value is not None}, step=number)

    def _begin(self, team: Team, settings: Settings) -> None:
        from accelerate import Accelerator
        from accelerate.tracking import filter_trackers

        folder, name = settings.tracked
        try:
            found = filter_trackers(list(settings.trackers), folder)
        except ValueError as error:
            raise UserError(f"runtime.trackers: {str(error).splitlines()[0]}") from None
        if len(found) < len(settings.trackers):
            raise UserError(
                f"runtime.trackers: {', '.join(settings.trackers)}: not installed; pip install one, or leave it out"
            )
        if self._accelerator is not None:
            self._accelerator.end_training()
        self._accelerator = Accelerator(
            cpu=team.device.type == "cpu", log_with=list(settings.trackers), project_dir=folder
        )
        self._accelerator.init_trackers(name)
        self._tracked = settings.tracked
