"""The ServerApp of Flower's own commands: a whole run, with Flower's nodes as its clients."""

from __future__ import annotations

import sys
from functools import partial

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmem import simulation
from fedmem.engine.deployment import requested
from fedmem.progress import plain
from server.rounds import run_rounds

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the config that the run config names; progress goes to the log that `flwr run` shows."""
    config, resume = requested(context.run_config)
    done = simulation.run(config, plain(sys.stderr), resume, partial(run_rounds, grid))
    print(f"run:    {done.path.resolve()}\nreport: {done.report.resolve()}", file=sys.stderr)
