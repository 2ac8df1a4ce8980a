"""What can be wrong with a model's files; `exit_code` is what the scripts leave with."""


class CheckpointError(ValueError):
    """A model's file or folder that cannot be used."""

    exit_code = 4


class HubError(OSError):
    """The network is needed and not there."""

    exit_code = 8
