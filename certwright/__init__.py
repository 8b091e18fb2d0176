"""What does the operator run? Configuration, composition root, commands, supervisor, workers, listeners, metrics."""
