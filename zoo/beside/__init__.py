"""What lies beside checkpoints: configuration, model cards, licences, metrics, trainer state."""
