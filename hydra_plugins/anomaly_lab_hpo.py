"""The sweeper `optuna`: a search. It lies here because Hydra accepts plugins from this folder only."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Asks Optuna for hyperparameters; jobs run through whatever launcher there is."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `sweep` needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Search until all trials are complete. Raises UserError where one failed."""
        try:
            from anomaly_lab.launch import hpo
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            from anomaly_lab.core.errors import UserError

            raise UserError(
                "hydra/sweeper=optuna: expected Optuna, found none; pip install 'anomaly_lab[hpo]'"
            ) from error
        hpo.search(self.hydra_context, self.task_function, self.config, self.keys, arguments)
