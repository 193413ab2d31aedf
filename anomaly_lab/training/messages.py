"""Messages of the libraries of a training that say nothing to its user."""

import logging
import warnings


def quiet() -> None:
    """Silence them."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of torch; told in every run
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # of short runs, which are meant to be
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # check_processes sees what is wrong there
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen networks: on purpose
