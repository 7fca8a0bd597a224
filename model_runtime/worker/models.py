"""From a model's settings to the model."""

from config.schema import ModelSettings
from model_runtime.engine.echo import EchoModel
from model_runtime.engine.model import Model
from model_runtime.errors import CheckpointError


def load_model(settings: ModelSettings) -> Model:
    """Build the model that the settings name; raises ``CheckpointError``. Only kind ``moshi`` imports torch."""
    if settings.kind == "echo":
        return EchoModel(settings.slots)
    if settings.checkpoint is None:
        raise CheckpointError("checkpoint: kind moshi needs one")
    import torch

    from model_runtime.checkpoint import load_listener, load_moshi
    from model_runtime.checkpoint.report import check_device
    from model_runtime.engine.moshi_model import MoshiModel

    check_device(torch.device(settings.device))
    torch.set_num_threads(settings.threads)
    dtype = getattr(torch, settings.dtype)
    int8 = {"int8_weights": settings.int8_weights, "int8_cache": settings.int8_cache}
    listener = load_listener(settings.listener, settings.device, dtype, **int8) if settings.listener else None
    moshi, tokenizer = load_moshi(
        settings.checkpoint, settings.device, dtype, settings.slots, settings.pin_prompt, listener=listener, **int8
    )
    model = MoshiModel(moshi, tokenizer, settings.voices, listener)
    model.warm_up()
    return model
