"""Training: losses, data, stages and the trainer of the models that the runtime serves (optional extra ``train``)."""
