"""The table of the metrics has every measure once."""

from anomaly_lab.cli.metrics import main
from anomaly_lab.runs.measures import MEASURES


def test_every_measure_has_a_line(capsys):
    main([])
    said = capsys.readouterr().out
    table, _, oracles = said.partition("oracle_")
    keys = [line.split()[0] for line in table.splitlines() if line.startswith("  ")]
    assert sorted(keys) == sorted(measure.key for measure in MEASURES)
    assert oracles.startswith("cavga_*: of cavga, at the line of its paper")
    assert said.count("oracle_") == 1
