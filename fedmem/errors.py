"""Errors that a user can act on. The command line prints each as one line, without a traceback."""


class FedmemError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command returns."""

    exit_code = 1


class ConfigError(FedmemError):
    """The config or the command is wrong: names the key and says what to do."""

    exit_code = 2


class DataError(FedmemError):
    """A file, a row or a model folder is unusable: names it and says what to do."""

    exit_code = 2


class RunError(FedmemError):
    """A run failed after it had started: names the client and the round, says what was saved."""

    exit_code = 1
