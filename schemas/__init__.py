"""Every message, every stream and every hyperparameter, without any I/O."""
