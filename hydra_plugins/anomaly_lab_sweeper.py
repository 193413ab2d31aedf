"""The sweeper of `-m`: all combinations. It lies here because Hydra accepts plugins from this folder only."""

from collections.abc import Sequence

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus


class GridSweeper(basic_sweeper.BasicSweeper):
    """Hydra's own, which composes every job once more than the launcher does and writes before all are checked."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        """Hand all combinations to the launcher at once. Raises what the first failed job raised."""
        from anomaly_lab.core.errors import UserError

        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        (jobs,) = self.split_arguments(overrides, max_batch_size=None)
        answers = self.launcher.launch(jobs, initial_job_idx=0)
        failed = [answer._return_value for answer in answers if answer.status == JobStatus.FAILED]
        if failed and isinstance(failed[0], UserError):
            raise UserError("some jobs failed; the same command does those again, and no others")
        if failed:
            raise failed[0]
        return answers
