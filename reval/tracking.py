"""Sends the figures of each step to trackers such as TensorBoard, through accelerate."""

from collections.abc import Sequence
from typing import Any

from reval.parallel import World
from reval.rollouts import Pass
from schemas import UserError


class Trackers:
    """The trackers of one run at a time. They stay open until a pass of another run comes."""

    def __init__(self) -> None:
        self._tracked: tuple[str, str] | None = None
        self._accelerator: Any = None

    def log(self, world: World, the_pass: Pass, step: dict[str, Any], number: int) -> None:
        """Sends the figures of a pass's step, whose number in the pass is `number`. Without trackers it does nothing.

        Raises:
            UserError: a tracker is not installed.
        """
        settings = the_pass.settings
        if not settings.trackers:
            return
        folder, name = settings.tracked
        if (tracked := (str(the_pass.path(folder)), name)) != self._tracked:
            self._begin(world, settings.trackers, *tracked)
            self._tracked = tracked
        told = {name: value for name, value in step.items() if value is not None}
        self._accelerator.log(told, step=settings.first_step + number)

    def _begin(self, world: World, trackers: Sequence[str], folder: str, name: str) -> None:
        from accelerate import Accelerator
        from accelerate.tracking import filter_trackers

        try:
            found = filter_trackers(list(trackers), folder)
        except ValueError as error:
            raise UserError(f"runtime.trackers: {str(error).splitlines()[0]}") from None
        if len(found) < len(trackers):
            raise UserError(f"runtime.trackers: {', '.join(trackers)}: not installed; pip install one, or leave it out")
        if self._accelerator is not None:
            self._accelerator.end_training()
        self._accelerator = Accelerator(cpu=world.device.type == "cpu", log_with=list(trackers), project_dir=folder)
        self._accelerator.init_trackers(name)
