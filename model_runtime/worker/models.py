"""From a model's settings to the model."""

from config.schema import ModelSettings
from model_runtime.engine.echo import EchoModel
from model_runtime.engine.model import Model
from model_runtime.errors import CheckpointError


def load_model(settings: ModelSettings) -> Model:
    """Build the model that the settings name; raises ``CheckpointError``. Only kind ``moshi`` imports torch."""
    if settings.kind == "echo":
        return EchoModel(settings.slots)
    if settings.checkpoint != "random:tiny":
        raise CheckpointError(
            f"checkpoint {settings.checkpoint!r} cannot be loaded; this version knows random:tiny alone"
        )
    if settings.device != "cpu" or settings.dtype != "float32":
        raise CheckpointError("random:tiny runs with device: cpu and dtype: float32 alone")
    import torch

    from model_runtime.engine.moshi_model import MoshiModel
    from model_runtime.tiny import tiny_moshi

    torch.set_num_threads(settings.threads)
    model = MoshiModel(*tiny_moshi(settings.slots))
    model.warm_up()
    return model
