"""anomaly_lab: which unsupervised detector finds the defects on your parts."""

__version__ = "0.1.0"
