"""What can go wrong between the gateway and a model.

ModelError
├── LocalModelError        our side: this process, this configuration
│   └── CheckpointError    a checkpoint that cannot be read
└── RemoteModelError       the other end of a model session
    ├── ProtocolError      a message that is not the worker protocol's
    ├── NoFreeSlot         every slot of the worker is taken
    └── ModelLost          the worker is gone, or never answered
"""


class ModelError(Exception):
    """Anything that goes wrong with a model."""


class LocalModelError(ModelError):
    """The own process or its configuration is at fault."""


class CheckpointError(LocalModelError):
    """A checkpoint that cannot be read; the message names every fault."""


class RemoteModelError(ModelError):
    """The other end of a model session is at fault."""


class ProtocolError(RemoteModelError):
    """A message that is not the worker protocol's."""


class NoFreeSlot(RemoteModelError):
    """Every slot of the worker is taken."""


class ModelLost(RemoteModelError):
    """The model worker is gone, or never answered."""
