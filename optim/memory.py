"""What a surgery or a weighing remembers from step to step, for a checkpoint."""


class Memory:
    """The base of both: a subclass names the attributes."""

    remembers: tuple[str, ...] = ()  # the attributes that change from step to step, as JSON can hold them

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in self.remembers}

    def load_state_dict(self, state: dict) -> None:
        """Take back what state_dict gave."""
        vars(self).update({name: state[name] for name in self.remembers})
