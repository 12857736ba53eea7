"""What can go wrong, sorted by who has to act.  Floor 0: imports nothing of ours."""


class TunnelError(Exception):
    """Base of everything this project raises on purpose."""


class LocalError(TunnelError):
    """Our caller broke a rule (a bug on this machine).  Nothing was sent, no state changed."""


class CircuitClosedError(LocalError):
    """The circuit that was to carry this is not open.  Nothing was sent; pick another circuit.

    Attributes:
        reason: why it is closed, a word of `tunnels.ids.CloseReason`, or "building".
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class EndpointError(LocalError):
    """This IPv8 endpoint cannot carry cells.  The message says what to configure instead."""


class RemoteError(TunnelError):
    """A peer broke the protocol.  Close the circuit; `culprit` says whom to avoid.

    Attributes:
        culprit: index of the hop to blame (0 is our guard), None when it cannot be told.
    """

    def __init__(self, message: str, *, culprit: int | None = None) -> None:
        super().__init__(message)
        self.culprit = culprit


class TransientError(TunnelError):
    """Nobody is at fault.  Trying again after `retry_after` seconds is reasonable."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
